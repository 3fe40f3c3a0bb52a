"""Local differential privacy by user: each party adds its own noise, and trusts nobody.

Who is trusted with what:

- *central*: the server sees each update, or with secure aggregation only their sum, and is trusted
  to add the noise. One noise for the whole sum.
- *local*: what leaves the party is private already. The server knows who sends and when, so nothing
  is gained from sampling, and what is hidden is which data the party has (`replace`: twice the
  clipping norm). The sum of P parties' noises has a standard deviation sqrt(P) times as large as
  the central one for the same multiplier: expect to need far more parties for the same quality.

The number of examples would tell of a party's data too, so every message has weight 1. Which rows
it touches tells more than most numbers, so a message holds *all* rows of each table, as many bytes
as the model itself. Sending only touched rows protects their values, and not which they are.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.federated.privacy.central import clip_cohort, noise_rows
from scalerec.federated.privacy.entropy import NoiseSource, SystemNoise, add_noise
from scalerec.rounds import Codec, TableRows, Update, pack, unpack
from scalerec.rounds.cohort import CohortUpdate

__all__ = ["local_noise", "noise_of_sum", "privatise_update"]


def privatise_update(
    update: Update,
    *,
    clip: float,
    noise_multiplier: float,
    sizes: Mapping[str, int] | None,
    still: Mapping[str, Tensor] | None = None,
    source: NoiseSource | None = None,
) -> Update:
    """Clip one party's update and add its noise, on the party's side.

    An update with NaN or infinity is sent as zeros and noise.

    Args:
        update: The party's.
        clip: The largest norm over dense tensors and rows together, above 0.
        noise_multiplier: Standard deviation of the noise over `clip`; from `solve_noise` with
            ``sampling="none", adjacency="replace"`` and the most rounds a party takes part in.
        sizes: Table to its number of rows, for noise on all of them; None for the rows that the
            update holds, whose numbers are then known to the server.
        still: As in `noise_rows`.
        source: Gives the noise; None for the operating system.

    Returns:
        What may leave the party, of weight 1.

    Raises:
        ConfigError: If a number is outside its range.
        RoundError: If the tables differ from those of `sizes`, or a still row was touched.
    """
    require(
        math.isfinite(noise_multiplier) and noise_multiplier >= 0,
        f"noise_multiplier must be finite and at least 0; got {noise_multiplier}",
    )
    source = source or SystemNoise()
    std = noise_multiplier * clip
    clipped = clip_cohort(CohortUpdate.of([update]), clip)
    safe = _zeros_like(update) if clipped.num_dropped else clipped.cohort.party(0)
    dense = {name: add_noise(tensor, std, source) for name, tensor in safe.dense.items()}
    noisy = Update(dense=dense, tables=safe.tables, weight=1.0)
    if sizes is not None:
        return noise_rows(noisy, std, sizes, still=still, source=source)
    tables = {
        name: TableRows(rows=part.rows, values=add_noise(part.values, std, source))
        for name, part in safe.tables.items()
    }
    return Update(dense=dense, tables=tables, weight=1.0)


def local_noise(
    *,
    clip: float,
    noise_multiplier: float,
    sizes: Mapping[str, int] | None,
    still: Mapping[str, Tensor] | None = None,
    source: NoiseSource | None = None,
) -> Codec:
    """`privatise_update` as the codec of a party; those after it see private numbers only.

    The generator that codecs are handed is not used: noise comes from `source`.

    Args:
        clip: As in `privatise_update`.
        noise_multiplier: As in `privatise_update`.
        sizes: As in `privatise_update`.
        still: As in `privatise_update`.
        source: As in `privatise_update`.
    """

    def encode(
        message: Mapping[str, Tensor], _: Mapping[str, Tensor], __: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        private = privatise_update(
            unpack(message),
            clip=clip,
            noise_multiplier=noise_multiplier,
            sizes=sizes,
            still=still,
            source=source,
        )
        return pack(private), {}

    return Codec(dict, encode, dict)


def noise_of_sum(noise_multiplier: float, num_parties: int) -> float:
    """The noise multiplier of a sum to which each party added its own noise.

    A simulation may draw the sum's noise once with it, by `private_mean` and `RowNoise`: the sum is
    the same in distribution, without a whole table for each party.

    Args:
        noise_multiplier: Each party's, at least 0.
        num_parties: Parties of the round, at least 0.

    Raises:
        RoundError: If there is no party: without one there is no noise, and no sum to hide.
    """
    if num_parties < 1:
        raise RoundError(f"local noise needs at least one party; got {num_parties}")
    return noise_multiplier * math.sqrt(num_parties)


def _zeros_like(update: Update) -> Update:
    tables = {
        name: TableRows(rows=part.rows, values=torch.zeros_like(part.values))
        for name, part in update.tables.items()
    }
    dense = {name: torch.zeros_like(tensor) for name, tensor in update.dense.items()}
    return Update(dense=dense, tables=tables, weight=1.0)
