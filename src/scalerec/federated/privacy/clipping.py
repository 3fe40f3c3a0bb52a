"""A clipping norm that follows a quantile of the updates' norms, at a price that is paid.

Paper: Differentially Private Learning with Adaptive Clipping, Andrew et al., 2021, algorithm 1,
https://arxiv.org/abs/1905.03871
"""

import math
from dataclasses import dataclass

from torch import Tensor

from scalerec.config import Config, require
from scalerec.federated.privacy.entropy import NoiseSource, SystemNoise, add_noise

__all__ = ["AdaptiveClip", "next_clip", "split_noise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveClip(Config):
    """How the clipping norm moves.

    Args:
        initial: The first round's norm, above 0.
        quantile: The share of updates that should pass unclipped, above 0 and below 1.
        rate: How fast: the norm moves by at most this factor's exponential a round; above 0.
        count_std: Standard deviation of the noise on the count of updates within the norm, above 0;
            None for a twentieth of the expected cohort, as the paper advises.

    Raises:
        ConfigError: If a number is outside its range.
    """

    initial: float = 0.1
    quantile: float = 0.5
    rate: float = 0.2
    count_std: float | None = None

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.initial) and self.initial > 0,
            f"initial must be finite and above 0; got {self.initial}",
        )
        require(0 < self.quantile < 1, f"quantile must be above 0 and below 1; got {self.quantile}")
        require(
            math.isfinite(self.rate) and self.rate > 0,
            f"rate must be finite and above 0; got {self.rate}",
        )
        require(
            self.count_std is None or self.count_std > 0,
            f"count_std must be None or above 0; got {self.count_std}",
        )

    def count_noise(self, cohort: float) -> float:
        """The standard deviation of the noise on the count, for an expected cohort."""
        return cohort / 20 if self.count_std is None else self.count_std


def split_noise(noise_multiplier: float, count_std: float) -> float:
    """The noise multiplier left for the sum when the count has noise too (theorem 1).

    The count is of +1/2 or -1/2 a party, so a party moves it by 1/2; sum and count together cost
    what one sum with `noise_multiplier` costs: ``z^-2 = z_sum^-2 + (2 count_std)^-2``.

    Args:
        noise_multiplier: What was accounted for, above 0.
        count_std: Standard deviation of the noise on the count.

    Returns:
        The sum's noise multiplier, above `noise_multiplier`.

    Raises:
        ConfigError: If the count's noise alone costs more than everything may.
    """
    require(
        2 * count_std > noise_multiplier,
        f"count_std must be above half the noise multiplier, {noise_multiplier / 2:.4g}; "
        f"got {count_std:.4g} (a larger cohort or a larger count_std helps)",
    )
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * count_std) ** -2)


def next_clip(
    clip: float,
    norms: Tensor,
    cohort: float,
    settings: AdaptiveClip,
    source: NoiseSource | None = None,
) -> float:
    """The clipping norm of the next round.

    Args:
        clip: This round's.
        norms: `Clipped.norms` of this round, ``[P]``; may be empty.
        cohort: The expected cohort: the denominator, fixed beforehand.
        settings: How the norm moves.
        source: Gives the noise; None for the operating system.

    Returns:
        The norm, which may be published: its noise is paid for by `split_noise`.
    """
    require(cohort > 0, f"cohort must be above 0; got {cohort}")
    centred = ((norms <= clip).double() - 0.5).sum()
    noisy = float(add_noise(centred, settings.count_noise(cohort), source or SystemNoise()))
    share = min(max(noisy / cohort + 0.5, 0.0), 1.0)
    return clip * math.exp(-settings.rate * (share - settings.quantile))
