"""A round, one party after the other: the reference that every faster engine must equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.aggregate import Aggregator, mean_aggregator
from scalerec.rounds.codec import Codec, identity, message_bytes, pack, unpack
from scalerec.rounds.local import LocalUpdate
from scalerec.rounds.parties import Parameters, Party, party_generators
from scalerec.rounds.update import Update, check_update

__all__ = ["Algorithm", "RoundReport", "RoundState", "check_parties", "finish_round", "run_round"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """The members of a round: what a party does, what travels, and how it becomes one step.

    Args:
        local_update: What a party does with its data.
        aggregator: How updates move the server's parameters.
        codec: What happens to an update on its way.
        on_nonfinite: What to do with an update that holds NaN or infinity: stop the round, or leave
            the update out and count it.

    Raises:
        ConfigError: If `on_nonfinite` is unknown.
    """

    local_update: LocalUpdate
    aggregator: Aggregator = field(default_factory=mean_aggregator)
    codec: Codec = field(default_factory=identity)
    on_nonfinite: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        require(
            self.on_nonfinite in ("raise", "skip"),
            f"on_nonfinite must be one of raise, skip; got {self.on_nonfinite!r}",
        )

    def init(self, parameters: Parameters) -> "RoundState":
        """The state before the first round."""
        return RoundState(
            parameters=parameters, aggregator=self.aggregator.init(parameters), codecs={}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundState:
    """What one round hands to the next; all of it is tensors, so it can be stored.

    Args:
        parameters: The server's.
        aggregator: The aggregator's state.
        codecs: Party name to the state of its codec; a party not seen yet has none.
    """

    parameters: Parameters
    aggregator: Mapping[str, Tensor]
    codecs: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """What happened in a round.

    Args:
        num_parties: Parties that took part.
        nonfinite: Names of those left out because their update held NaN or infinity.
        weight: Sum of the weights of the updates that were used.
        mean_norm: Mean L2 norm of the updates that were used, after their codec.
        bytes_down: What the parties received: the dense part and their rows.
        bytes_up: What the parties sent.
    """

    num_parties: int
    nonfinite: tuple[str, ...]
    weight: float
    mean_norm: float
    bytes_down: int
    bytes_up: int


def run_round(
    state: RoundState,
    parties: Sequence[Party],
    algorithm: Algorithm,
    generator: torch.Generator,
) -> tuple[RoundState, RoundReport]:
    """Run one round, one party after the other.

    Args:
        state: From `Algorithm.init` or the round before; it stays as it is.
        parties: Those who take part, with names of their own.
        algorithm: The round's members.
        generator: Gives every party its own source of randomness.

    Raises:
        RoundError: If there are no parties, two share a name, an update does not fit the
            parameters or is not finite (unless those are skipped), or none is left to use.
    """
    check_parties(parties)
    generators = party_generators(generator, parties)
    updates = [
        algorithm.local_update(state.parameters.gather(party.rows), party, own)
        for party, own in zip(parties, generators, strict=True)
    ]
    return finish_round(state, parties, updates, algorithm, generators)


def check_parties(parties: Sequence[Party]) -> None:
    """Refuse a round without parties, or with two of one name.

    Raises:
        RoundError: If it is one of these.
    """
    if not parties:
        raise RoundError("a round needs at least one party; got none")
    seen: set[str] = set()
    for party in parties:
        if party.name in seen:
            raise RoundError(f"names of parties must differ; got {party.name!r} twice")
        seen.add(party.name)


def finish_round(
    state: RoundState,
    parties: Sequence[Party],
    updates: Sequence[Update],
    algorithm: Algorithm,
    generators: Sequence[torch.Generator],
) -> tuple[RoundState, RoundReport]:
    """Send the parties' updates through the codec and aggregate them: the part all engines share.

    Args:
        state: From before the round.
        parties: Those who take part.
        updates: One a party, in their order.
        algorithm: The round's members.
        generators: One a party, as its local update left it.

    Raises:
        RoundError: As in `run_round`.
    """
    codecs = dict(state.codecs)
    used: list[Update] = []
    nonfinite: list[str] = []
    bytes_up = 0
    for party, update, generator in zip(parties, updates, generators, strict=True):
        before = codecs[party.name] if party.name in codecs else algorithm.codec.init()
        message, after = algorithm.codec.encode(pack(update), before, generator)
        if after:
            codecs[party.name] = after
        bytes_up += message_bytes(message)
        arrived = unpack(algorithm.codec.decode(message))
        if not arrived.is_finite():
            nonfinite.append(party.name)
            continue
        check_update(arrived, state.parameters, place=f"update of party {party.name!r}")
        used.append(arrived)
    _check_finite(nonfinite, len(parties), algorithm)
    parameters, aggregator = algorithm.aggregator.apply(state.parameters, used, state.aggregator)
    report = RoundReport(
        num_parties=len(parties),
        nonfinite=tuple(nonfinite),
        weight=sum(update.weight for update in used),
        mean_norm=sum(float(update.norm()) for update in used) / len(used),
        bytes_down=_bytes_down(state.parameters, parties),
        bytes_up=bytes_up,
    )
    return replace(state, parameters=parameters, aggregator=aggregator, codecs=codecs), report


def _check_finite(nonfinite: Sequence[str], num_parties: int, algorithm: Algorithm) -> None:
    if nonfinite and algorithm.on_nonfinite == "raise":
        raise RoundError(
            f"updates must be finite; NaN or infinity came from {_some(nonfinite)} "
            '(on_nonfinite="skip" leaves such updates out and counts them)'
        )
    if len(nonfinite) == num_parties:
        raise RoundError(f"none of the {num_parties} updates is finite; nothing is left to use")


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _bytes_down(parameters: Parameters, parties: Sequence[Party]) -> int:
    dense = message_bytes(parameters.dense)
    tables = parameters.tables
    row_bytes = {n: t.shape[1] * t.element_size() for n, t in tables.items()}
    rows = sum(len(rows) * row_bytes[n] for party in parties for n, rows in party.rows.items())
    return dense * len(parties) + rows
