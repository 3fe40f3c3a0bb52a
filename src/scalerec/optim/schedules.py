"""Learning-rate schedules: a factor on the learning rate for each step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scalerec.config import Config, require

__all__ = [
    "Plateau",
    "Schedule",
    "ScheduleConfig",
    "cosine_factor",
    "linear_factor",
    "warmup_factor",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig(Config):
    """How the learning rate changes while training.

    Args:
        name: `constant`; `cosine` falls along half a cosine to `floor` at the last step; `linear`
            falls in a straight line; `plateau`
            falls by `decay` whenever the metric stops getting better.
        warmup_steps: Steps in which the factor first rises from near 0 to 1, in a straight line; at
            least 0; for every name.
        floor: The lowest factor, in [0, 1].
        decay: What a plateau multiplies the factor by, in (0, 1).
        patience: Observations without a gain that a plateau bears before it falls, at least 0.
        min_gain: The gain in the metric that counts as one, at least 0.
    """

    name: Literal["constant", "cosine", "linear", "plateau"] = "constant"
    warmup_steps: int = 0
    floor: float = 0.0
    decay: float = 0.5
    patience: int = 1
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        names = ("constant", "cosine", "linear", "plateau")
        require(self.name in names, f"name must be one of {', '.join(names)}; got {self.name!r}")
        require(self.warmup_steps >= 0, f"warmup_steps must be at least 0; got {self.warmup_steps}")
        require(0 <= self.floor <= 1, f"floor must be in [0, 1]; got {self.floor}")
        require(0 < self.decay < 1, f"decay must be in (0, 1); got {self.decay}")
        require(self.patience >= 0, f"patience must be at least 0; got {self.patience}")
        require(self.min_gain >= 0, f"min_gain must be at least 0; got {self.min_gain}")


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Rise in a straight line from ``1 / warmup_steps`` at step 0; 1 from the last warm-up step on.

    Args:
        step: Number of the step, from 0.
        warmup_steps: Length of the rise in steps; 0 for none.
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def cosine_factor(step: int, num_steps: int, warmup_steps: int = 0, floor: float = 0.0) -> float:
    """Fall from 1 to `floor` along half a cosine, after the warm-up; `floor` from the end on.

    Paper: SGDR, Loshchilov and Hutter, 2017, equation 5 without restarts,
    https://arxiv.org/abs/1608.03983

    Args:
        step: Number of the step, from 0.
        num_steps: Steps of the whole training, warm-up included.
        warmup_steps: Length of the rise in steps.
        floor: The factor at the end, in [0, 1].
    """
    if step < warmup_steps:
        return warmup_factor(step, warmup_steps)
    share = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def linear_factor(step: int, num_steps: int, warmup_steps: int = 0, floor: float = 0.0) -> float:
    """Fall from 1 to `floor` in a straight line, after the warm-up; `floor` from the end on.

    Args:
        step: Number of the step, from 0.
        num_steps: Steps of the whole training, warm-up included.
        warmup_steps: Length of the rise in steps.
        floor: The factor at the end, in [0, 1].
    """
    if step < warmup_steps:
        return warmup_factor(step, warmup_steps)
    share = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return floor + (1 - floor) * (1 - share)


class Plateau:
    """A factor that falls whenever a metric stops getting better.

    Args:
        decay: What the factor is multiplied by, in (0, 1).
        patience: Observations without a gain that are borne.
        min_gain: The gain that counts as one.
        floor: The lowest factor.
        higher_is_better: Whether the metric is a gain (AUC) or a loss.
    """

    def __init__(
        self,
        *,
        decay: float = 0.5,
        patience: int = 1,
        min_gain: float = 0.0,
        floor: float = 0.0,
        higher_is_better: bool = True,
    ) -> None:
        self._decay, self._patience = decay, patience
        self._min_gain, self._floor = min_gain, floor
        self._sign = 1.0 if higher_is_better else -1.0
        self._best = -math.inf
        self._num_bad = 0
        self.factor = 1.0

    def observe(self, metric: float) -> bool:
        """Take in the metric after an evaluation, and tell whether the factor fell.

        Args:
            metric: Its value; NaN counts as no gain.
        """
        value = self._sign * metric
        if value > self._best + self._min_gain:
            self._best, self._num_bad = value, 0
            return False
        self._num_bad += 1
        if self._num_bad <= self._patience:
            return False
        before, self._num_bad = self.factor, 0
        self.factor = max(self._floor, self.factor * self._decay)
        return self.factor < before

    def state(self) -> dict[str, float | None]:
        """What `restore` needs to go on from here, as JSON values; a best of None is none yet."""
        best = self._best if math.isfinite(self._best) else None
        return {"best": best, "num_bad": self._num_bad, "factor": self.factor}

    def restore(self, state: Mapping[str, float | None]) -> None:
        """Go on from a state that `state` gave."""
        best, bad, factor = state["best"], state["num_bad"], state["factor"]
        self._best = -math.inf if best is None else best
        self._num_bad = int(bad or 0)
        self.factor = 1.0 if factor is None else factor


class Schedule:
    """The factor on the learning rate for each step, whatever the config's name.

    Args:
        config: The settings.
        num_steps: Steps of the whole training; only `cosine` and `linear` ask for it.
        higher_is_better: Whether the metric that `observe` gets is a gain or a loss.

    Raises:
        ConfigError: If `cosine` or `linear` has no more steps than its warm-up.

    Example:
        >>> schedule = Schedule(ScheduleConfig(name="cosine", warmup_steps=2), num_steps=4)
        >>> [round(schedule.factor(step), 3) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self, config: ScheduleConfig, *, num_steps: int = 0, higher_is_better: bool = True
    ) -> None:
        require(
            config.name not in ("cosine", "linear") or num_steps > config.warmup_steps,
            f"a {config.name} schedule needs more than warmup_steps={config.warmup_steps} steps; "
            f"got {num_steps}",
        )
        self._config = config
        self._num_steps = num_steps
        self._plateau = Plateau(
            decay=config.decay,
            patience=config.patience,
            min_gain=config.min_gain,
            floor=config.floor,
            higher_is_better=higher_is_better,
        )

    def factor(self, step: int) -> float:
        """The factor of step number `step`, from 0."""
        config = self._config
        if config.name == "cosine":
            return cosine_factor(step, self._num_steps, config.warmup_steps, config.floor)
        if config.name == "linear":
            return linear_factor(step, self._num_steps, config.warmup_steps, config.floor)
        return warmup_factor(step, config.warmup_steps) * self._plateau.factor

    def observe(self, metric: float) -> bool:
        """Take in the metric after an evaluation; tell whether the factor fell (`plateau` only)."""
        return self._config.name == "plateau" and self._plateau.observe(metric)

    def state(self) -> dict[str, float | None]:
        """What `restore` needs to go on from here, as JSON values."""
        return self._plateau.state()

    def restore(self, state: Mapping[str, float | None]) -> None:
        """Go on from a state that `state` gave."""
        self._plateau.restore(state)
