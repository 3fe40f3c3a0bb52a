"""Steps: codecs written once for a whole cohort, with a face for one message beside it.

A `Codec` works on one party's message, as it would on a device. A simulator sends a hundred of them
at once, so the codecs of federated learning are written as steps on the messages of a cohort; one
message is a cohort of one. Both faces draw alike: a step's only chance is a seed a party, and what
it draws is a function of that seed and of the number's place.

Shapes: P parties.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.codec import Codec, Encoded, Message, message_bytes, pack, unpack
from scalerec.rounds.codecs.messages import (
    CohortMessage,
    Part,
    cohort_bytes,
    gather_messages,
    pack_cohort,
    party_message,
    unpack_cohort,
)
from scalerec.rounds.cohort import CohortUpdate

__all__ = ["Arrived", "CohortCodec", "Step", "chain_steps", "codec_of_step", "loop_codec"]

SEEDS = 2**62
States = Mapping[str, Mapping[str, Tensor]]


class Step(NamedTuple):
    """What happens to the messages of a cohort.

    Args:
        encode: Messages, states, a seed a party ``[P]`` int64 -> messages to pass on, new states.
            A party that has no state yet has an empty or a zero one.
        decode: What arrives -> messages as before `encode`, with what was lost on the way lost.
        is_random: Whether it uses the seeds.
    """

    encode: Callable[
        [CohortMessage, CohortMessage, Tensor], tuple[dict[str, Part], dict[str, Part]]
    ]
    decode: Callable[[CohortMessage], dict[str, Part]]
    is_random: bool = False


class Arrived(NamedTuple):
    """What came of a cohort's updates on their way.

    Args:
        cohort: The updates as they arrive.
        bytes_up: What each party sent, ``[P]`` int64.
        states: Party name to the new state of its codec; one without a state is left out.
    """

    cohort: CohortUpdate
    bytes_up: Tensor
    states: dict[str, dict[str, Tensor]]


class CohortCodec(NamedTuple):
    """The way from the parties of a cohort to the server, in two pure functions.

    Args:
        init: The first state of a party, a flat dict of tensors.
        encode_decode: Updates, the parties' names, name to state (a party not seen yet has none),
            a seed a party ``[P]`` int64 at least 0 -> what arrives. A party's result does not
            depend on who else is in the cohort.
    """

    init: Callable[[], dict[str, Tensor]]
    encode_decode: Callable[[CohortUpdate, Sequence[str], States, Tensor], Arrived]


def codec_of_step(step: Step) -> Codec:
    """The face of a step for one message; a step with chance draws its seed from the generator."""

    def encode(
        message: Message, state: Mapping[str, Tensor], generator: torch.Generator
    ) -> Encoded:
        seeds = (
            torch.randint(SEEDS, (1,), generator=generator)
            if step.is_random
            else torch.zeros(1, dtype=torch.int64)
        )
        sent, after = step.encode(gather_messages([message]), gather_messages([state]), seeds)
        return party_message(sent, 0), _stored(after, 0)

    def decode(message: Message) -> dict[str, Tensor]:
        return party_message(step.decode(gather_messages([message])), 0)

    return Codec(dict, encode, decode)


def chain_steps(*steps: Step) -> CohortCodec:
    """The codec of a cohort that encodes by each step in order, and decodes in the opposite order.

    It equals `loop_codec` of the chain of the steps' own codecs, to the rounding of sums that are
    taken over more or fewer parties at once.

    Args:
        steps: First to last; none give the identity.
    """

    def encode_decode(
        cohort: CohortUpdate, names: Sequence[str], states: States, seeds: Tensor
    ) -> Arrived:
        _check(cohort, names, seeds)
        drawn = iter(_draws(seeds, sum(step.is_random for step in steps)))
        message: CohortMessage = pack_cohort(cohort)
        after: dict[str, Part] = {}
        for i, step in enumerate(steps):
            before = gather_messages([_own(states.get(name, {}), f"{i}/") for name in names])
            own = next(drawn) if step.is_random else seeds
            message, changed = step.encode(message, before, own)
            after |= {f"{i}/{name}": part for name, part in changed.items()}
        bytes_up = cohort_bytes(message)
        for step in reversed(steps):
            message = step.decode(message)
        stored = {name: _stored(after, p) for p, name in enumerate(names)} if after else {}
        return Arrived(unpack_cohort(message), bytes_up, {n: s for n, s in stored.items() if s})

    return CohortCodec(dict, encode_decode)


def loop_codec(codec: Codec) -> CohortCodec:
    """Any codec for a cohort, one party after the other: the reference, and the fallback.

    Each party's generator is seeded with its seed.

    Args:
        codec: For one message.
    """

    def encode_decode(
        cohort: CohortUpdate, names: Sequence[str], states: States, seeds: Tensor
    ) -> Arrived:
        _check(cohort, names, seeds)
        updates, sizes, after = [], [], {}
        for p, (name, seed) in enumerate(zip(names, seeds.tolist(), strict=True)):
            before = states[name] if name in states else codec.init()
            generator = torch.Generator().manual_seed(seed)
            message, state = codec.encode(pack(cohort.party(p)), before, generator)
            if state:
                after[name] = state
            sizes.append(message_bytes(message))
            updates.append(unpack(codec.decode(message)))
        bytes_up = torch.tensor(sizes, dtype=torch.int64)
        return Arrived(CohortUpdate.of(updates), bytes_up, after)

    return CohortCodec(codec.init, encode_decode)


def _check(cohort: CohortUpdate, names: Sequence[str], seeds: Tensor) -> None:
    if not len(cohort) == len(names) == len(set(names)) == len(seeds):
        raise RoundError(
            f"a cohort of {len(cohort)} needs as many names, all different, and seeds; "
            f"got {len(names)} names, {len(set(names))} of them different, and {len(seeds)} seeds"
        )


def _draws(seeds: Tensor, num_random: int) -> Tensor:
    """What the chain of codecs draws from generators with these seeds, ``[num_random, P]``."""
    drawn = torch.zeros(num_random, len(seeds), dtype=torch.int64)
    if num_random:
        generator = torch.Generator()
        for p, seed in enumerate(seeds.tolist()):
            drawn[:, p] = torch.randint(SEEDS, (num_random,), generator=generator.manual_seed(seed))
    return drawn


def _own(state: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {n.removeprefix(head): t for n, t in state.items() if n.startswith(head)}


def _stored(state: CohortMessage, party: int) -> dict[str, Tensor]:
    """A party's own copy: a view would keep the whole cohort's in memory."""
    return {name: part.of(party).clone() for name, part in state.items()}
