"""Rounds: partition, local update, aggregate, iterate.

The one loop behind data-parallel training, federated learning and meta-learning. Each of them
chooses members: a partitioner, a local update, a codec, an aggregator.
"""

from scalerec.rounds.aggregate import (
    Aggregator,
    Over,
    mean_aggregator,
    optimised_mean,
    weighted_mean,
)
from scalerec.rounds.codec import (
    Codec,
    chain_codecs,
    clip_norm,
    identity,
    message_bytes,
    pack,
    unpack,
)
from scalerec.rounds.local import LocalUpdate, LossFunction, local_steps
from scalerec.rounds.loop import Algorithm, RoundReport, RoundState, run_round
from scalerec.rounds.parties import Parameters, Party, localise, party_generators
from scalerec.rounds.partition import (
    Balanced,
    ByKey,
    Contiguous,
    Hashed,
    Partitioner,
    Skew,
    skew,
    skew_of,
)
from scalerec.rounds.update import (
    TableRows,
    Update,
    apply_update,
    check_update,
    difference,
    sum_rows,
)
from scalerec.rounds.vectorised import run_round_vectorised

__all__ = [
    "Aggregator",
    "Algorithm",
    "Balanced",
    "ByKey",
    "Codec",
    "Contiguous",
    "Hashed",
    "LocalUpdate",
    "LossFunction",
    "Over",
    "Parameters",
    "Partitioner",
    "Party",
    "RoundReport",
    "RoundState",
    "Skew",
    "TableRows",
    "Update",
    "apply_update",
    "chain_codecs",
    "check_update",
    "clip_norm",
    "difference",
    "identity",
    "local_steps",
    "localise",
    "mean_aggregator",
    "message_bytes",
    "optimised_mean",
    "pack",
    "party_generators",
    "run_round",
    "run_round_vectorised",
    "skew",
    "skew_of",
    "sum_rows",
    "unpack",
    "weighted_mean",
]
