"""Codecs: one contract for all, and what each does to an update."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.rounds import (
    Codec,
    TableRows,
    Update,
    chain_codecs,
    clip_norm,
    identity,
    message_bytes,
    pack,
    unpack,
)

# One row a member drives the shared tests.
MEMBERS: dict[str, Codec] = {
    "identity": identity(),
    "clip": clip_norm(1.0),
    "empty chain": chain_codecs(),
    "chain": chain_codecs(clip_norm(2.0), identity(), clip_norm(1.0)),
}
members = pytest.mark.parametrize("name", MEMBERS)


def update(size: float = 1.0) -> Update:
    """An update of norm 5 times `size`."""
    part = TableRows(rows=torch.tensor([2, 7]), values=torch.tensor([[0.0, 4.0], [0.0, 0.0]]))
    found = Update(dense={"a.b": torch.tensor([3.0])}, tables={"u/id": part}, weight=6)
    return found.scale(size)


def send(codec: Codec, sent: Update, generator: torch.Generator) -> Update:
    message, _ = codec.encode(pack(sent), codec.init(), generator)
    return unpack(codec.decode(message))


def same(left: Update, right: Update) -> bool:
    a, b = pack(left), pack(right)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@members
def test_a_small_update_arrives_whole(name: str, generator: torch.Generator) -> None:
    assert same(send(MEMBERS[name], update(0.125), generator), update(0.125))


@members
def test_names_rows_and_weight_arrive(name: str, generator: torch.Generator) -> None:
    arrived = send(MEMBERS[name], update(), generator)
    assert arrived.weight == 6
    assert arrived.tables["u/id"].rows.tolist() == [2, 7]
    assert list(arrived.dense) == ["a.b"]


@members
def test_nothing_changes_in_place(name: str, generator: torch.Generator) -> None:
    sent = update()
    send(MEMBERS[name], sent, generator)
    assert same(sent, update())


def test_clip_by_hand(generator: torch.Generator) -> None:
    # Norm 5 to norm 1: every number is divided by 5, over dense part and rows together.
    arrived = send(clip_norm(1.0), update(), generator)
    torch.testing.assert_close(arrived.dense["a.b"], torch.tensor([0.6]))
    torch.testing.assert_close(arrived.tables["u/id"].values[0], torch.tensor([0.0, 0.8]))


def test_clip_lets_nan_through_to_be_counted(generator: torch.Generator) -> None:
    assert not send(clip_norm(1.0), update(float("nan")), generator).is_finite()
    assert not send(clip_norm(1.0), update(float("inf")), generator).is_finite()


def counting(log: list[str], name: str) -> Codec:
    def encode(
        message: Mapping[str, Tensor], state: Mapping[str, Tensor], _: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        log.append(f"encode {name} {int(state['count'])}")
        return dict(message), {"count": state["count"] + 1}

    def decode(message: Mapping[str, Tensor]) -> dict[str, Tensor]:
        log.append(f"decode {name}")
        return dict(message)

    return Codec(lambda: {"count": torch.tensor(0)}, encode, decode)


def test_a_chain_decodes_backwards_and_keeps_states_apart(generator: torch.Generator) -> None:
    log: list[str] = []
    codec = chain_codecs(counting(log, "a"), identity(), counting(log, "b"))
    message, state = codec.encode(pack(update()), codec.init(), generator)
    assert {name: int(value) for name, value in state.items()} == {"0/count": 1, "2/count": 1}
    codec.encode(message, state, generator)
    codec.decode(message)
    assert log == ["encode a 0", "encode b 0", "encode a 1", "encode b 1", "decode b", "decode a"]


def test_bytes_by_hand() -> None:
    # Weight 8, one float32 of the dense part 4, two int64 rows 16, four float32 values 16.
    assert message_bytes(pack(update())) == 44


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m | {"code": m["weight"]}, "a message holds weight, dense/NAME.*; got 'code'"),
        (lambda m: m | {"tables/u/id/size": m["weight"]}, "got 'tables/u/id/size'"),
        (lambda m: m | {"dense/": m["weight"]}, "got 'dense/'"),
        (lambda m: {k: v for k, v in m.items() if k != "weight"}, "needs a weight, one number"),
        (lambda m: m | {"weight": torch.ones(2)}, "needs a weight, one number"),
        (
            lambda m: {k: v for k, v in m.items() if k != "tables/u/id/values"},
            "table 'u/id' needs rows and values; got rows",
        ),
        (lambda m: m | {"tables/u/id/rows": torch.ones(1)}, r"got \[1\] and \[2, 2\]"),
    ],
)
def test_a_message_that_holds_something_else_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str
) -> None:
    with pytest.raises(RoundError, match=words):
        unpack(change(pack(update())))


def test_a_wrong_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_norm must be above 0; got 0"):
        clip_norm(0)
