"""Codecs that make a message shorter: by hand, and what none of them may lose."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.rounds import Codec, TableRows, Update, message_bytes, pack, unpack
from scalerec.rounds.codecs import CodecName, bf16, power_sgd, top_k

SHAPES = {"w": torch.Size([6, 5]), "b": torch.Size([5]), "e": torch.Size([2, 6, 4])}
NAMES = ("none", "bf16", "powersgd:1", "powersgd:2+bf16", "topk:0.1", "topk:0.2+bf16")
names = pytest.mark.parametrize("name", NAMES)
numbers = st.floats(-1e3, 1e3, width=32)


def drawn(seed: int, shapes: dict[str, torch.Size] | None = None) -> Update:
    generator = torch.Generator().manual_seed(seed)
    wanted = SHAPES if shapes is None else shapes
    dense = {name: torch.randn(shape, generator=generator) for name, shape in wanted.items()}
    values = torch.tensor([[0.5, 1.0], [2.0, -4.0]])
    rows = TableRows(rows=torch.tensor([2, 7]), values=values)
    return Update(dense=dense, tables={"u/id": rows}, weight=3.0)


def send(codec: Codec, sent: Update, state: dict[str, Tensor]) -> tuple[Update, dict[str, Tensor]]:
    message, after = codec.encode(pack(sent), state, torch.Generator())
    return unpack(codec.decode(message)), after


@names
def test_names_shapes_and_rows_arrive(name: str) -> None:
    codec, sent = CodecName.parse(name).build(SHAPES), drawn(0)
    before = {key: tensor.clone() for key, tensor in pack(sent).items()}
    arrived, _ = send(codec, sent, codec.init())
    assert {n: t.shape for n, t in arrived.dense.items()} == SHAPES
    assert arrived.weight == 3.0
    # These values are exact in bfloat16.
    assert arrived.tables["u/id"].values.tolist() == [[0.5, 1.0], [2.0, -4.0]]
    assert all(torch.equal(tensor, before[key]) for key, tensor in pack(sent).items())


@names
def test_a_state_survives_a_checkpoint(name: str) -> None:
    """Two rounds, and two with the state copied between them, give the same."""
    codec = CodecName.parse(name).build(SHAPES)
    _, state = send(codec, drawn(1), codec.init())
    copied = {key: tensor.clone() for key, tensor in state.items()}
    found = [send(codec, drawn(2), own)[0] for own in (state, copied)]
    assert all(torch.equal(a, found[1].dense[n]) for n, a in found[0].dense.items())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("none", "bf16")])
def test_what_is_left_out_comes_later(name: str) -> None:
    """The same update again and again: the mean of what arrives comes near it."""
    codec, wanted = CodecName.parse(name).build(SHAPES), drawn(3)
    state, total = codec.init(), Update.zero()
    for _ in range(60):
        arrived, state = send(codec, wanted, state)
        total = total + arrived
    for key, tensor in total.dense.items():
        assert (tensor / 60 - wanted.dense[key]).norm() < 0.15 * wanted.dense[key].norm()


def test_half_by_hand() -> None:
    sent = Update(dense={"w": torch.tensor([1.0, 1.0 + 2**-8, 3.14159265])}, tables={}, weight=1)
    message, _ = bf16().encode(pack(sent), {}, torch.Generator())
    # Three numbers of two bytes, and the weight.
    assert message_bytes(message) == 3 * 2 + 8
    # A tie goes to even; pi has 7 bits after its first.
    assert unpack(bf16().decode(message)).dense["w"].tolist() == [1.0, 1.0, 3.140625]


@given(st.lists(numbers, min_size=1, max_size=20))
def test_half_is_near(values: list[float]) -> None:
    tensor = torch.tensor(values)
    arrived, _ = send(bf16(), Update(dense={"w": tensor}, tables={}, weight=1), {})
    # 2^-133 is half of the smallest step that bfloat16 has.
    assert ((arrived.dense["w"] - tensor).abs() <= 2**-8 * tensor.abs() + 2**-133).all()


def test_top_by_hand() -> None:
    shapes = {"a": torch.Size([3]), "b": torch.Size([2])}
    codec = top_k(0.4, shapes)
    dense = {"a": torch.tensor([1.0, -5.0, 0.5]), "b": torch.tensor([3.0, 2.0])}
    update = Update(dense=dense, tables={}, weight=1)
    message, state = codec.encode(pack(update), codec.init(), torch.Generator())
    assert message["top/indices"].tolist() == [1, 3]
    assert message["top/values"].tolist() == [-5.0, 3.0]
    # Two numbers and two indices of four bytes, and the weight.
    assert message_bytes(message) == 2 * 8 + 8
    assert state["error"].tolist() == [1.0, 0.0, 0.5, 0.0, 2.0]
    arrived, state = send(codec, update, state)
    # The sums are 2, -5, 1, 3 and 4.
    assert arrived.dense["a"].tolist() == [0.0, -5.0, 0.0]
    assert arrived.dense["b"].tolist() == [0.0, 4.0]
    assert state["error"].tolist() == [2.0, 0.0, 1.0, 3.0, 0.0]


@given(
    st.lists(numbers, min_size=1, max_size=30),
    st.lists(numbers, min_size=30, max_size=30),
    st.floats(0.01, 1.0),
    st.booleans(),
)
def test_top_loses_nothing(
    values: list[float], kept: list[float], share: float, half: bool
) -> None:
    tensor, error = torch.tensor(values), torch.tensor(kept)[: len(values)]
    codec = top_k(share, {"w": tensor.shape}, half=half)
    update = Update(dense={"w": tensor}, tables={}, weight=1)
    arrived, state = send(codec, update, {"error": error})
    assert torch.equal(arrived.dense["w"] + state["error"], tensor + error)
    sent = arrived.dense["w"] != 0
    # None that stays behind is larger than one that went.
    if not half and sent.any() and not sent.all():
        assert state["error"].abs().max() <= arrived.dense["w"][sent].abs().min()


def test_rank_by_hand() -> None:
    """A matrix of rank 1 arrives whole, and what remains of one of rank 2 is kept."""
    u, v = torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([[3.0], [0.0], [4.0]])
    codec = power_sgd(1)
    update = Update(dense={"w": u @ v.T, "b": torch.ones(3)}, tables={}, weight=1)
    message, state = codec.encode(pack(update), codec.init(), torch.Generator())
    # Six numbers in place of nine, three of the vector, and the weight.
    assert message_bytes(message) == (6 + 3) * 4 + 8
    # The left factor is u / |u|, up to its sign.
    torch.testing.assert_close(message["dense/w/left"].abs(), u / 3)
    torch.testing.assert_close(message["dense/w/right"].abs(), v * 3)
    torch.testing.assert_close(codec.decode(message)["dense/w"], u @ v.T)
    torch.testing.assert_close(state["error/dense/w"], torch.zeros(3, 3), atol=1e-5, rtol=0)


@given(st.integers(0, 1000), st.integers(1, 3))
def test_rank_loses_nothing(seed: int, rank: int) -> None:
    """Sent and kept sum to what came in, to rounding: the product is taken twice alike."""
    codec, total = power_sgd(rank), Update.zero()
    state: dict[str, Tensor] = {}
    wanted = Update.zero()
    for turn in range(3):
        sent = drawn(seed + turn)
        arrived, state = send(codec, sent, state)
        total, wanted = total + arrived, wanted + sent
    for name, tensor in total.dense.items():
        kept = state.get(f"error/dense/{name}", torch.zeros_like(tensor))
        torch.testing.assert_close(tensor + kept, wanted.dense[name], rtol=1e-4, atol=1e-4)


def test_a_mean_on_the_way_is_the_means_own_approximation() -> None:
    """Lemma 3 of PowerSGD's paper: both factors are linear in the matrix."""
    own, other = drawn(5), drawn(6)
    mean = (own + other).scale(0.5)
    alone = power_sgd(2)
    wanted, _ = send(alone, mean, {})

    def factors(update: Update, stage: list[dict[str, Tensor]]) -> Codec:
        """Sums with what the other party had at the same stage."""

        def together(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            theirs = stage.pop(0)
            return {n: (t + theirs[n]) / 2 for n, t in tensors.items()}

        return power_sgd(2, together)  # type: ignore[arg-type]

    # What the other sends first needs no answer; its second needs the left factors of the mean.
    seen: list[dict[str, Tensor]] = []

    def note(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors)
        return dict(tensors)

    power_sgd(2, note).encode(pack(other), {}, torch.Generator())  # type: ignore[arg-type]
    message, _ = alone.encode(pack(mean), {}, torch.Generator())
    left = {n.removesuffix("/left"): t for n, t in message.items() if n.endswith("/left")}
    second = {n: pack(other)[n].mT @ t for n, t in left.items()}
    arrived, state = send(factors(own, [seen[0], second]), own, {})
    for name, tensor in arrived.dense.items():
        torch.testing.assert_close(tensor, wanted.dense[name], rtol=1e-4, atol=1e-5)
    # Each remembers what the mean's approximation misses of its own matrix.
    torch.testing.assert_close(state["error/dense/w"], own.dense["w"] - arrived.dense["w"])


def test_a_zero_matrix_stays_zero() -> None:
    update = Update(dense={"w": torch.zeros(4, 4)}, tables={}, weight=1)
    codec = power_sgd(1)
    arrived, state = send(codec, update, {})
    assert not arrived.dense["w"].any()
    # A start of zeros would find nothing ever after.
    again = Update(dense={"w": torch.ones(4, 4)}, tables={}, weight=1)
    arrived, _ = send(codec, again, state)
    torch.testing.assert_close(arrived.dense["w"], torch.ones(4, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bf17", "codec must be none, bf16, powersgd:RANK or topk:SHARE, .* got 'bf17'"),
        ("bf16:3", "codec must be .* got 'bf16:3'"),
        ("bf16+topk:0.1", "codec must be .* got 'bf16.topk:0.1'"),
        ("topk", "codec must be .* got 'topk'"),
        ("topk:0.1+int8", "codec must be .* got 'topk:0.1.int8'"),
        ("powersgd:2.5", "codec must be .* got 'powersgd:2.5'"),
        ("powersgd:0", "codec 'powersgd:0': the rank of powersgd must be at least 1; got 0"),
        ("topk:1.5", "codec 'topk:1.5': the share of topk must be above 0 and at most 1; got 1.5"),
        ("topk:nan", "codec 'topk:nan': the share of topk must be above 0 and at most 1; got nan"),
    ],
)
def test_wrong_names(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CodecName.parse(text)


def test_right_names() -> None:
    assert CodecName.parse("none") == CodecName()
    assert CodecName.parse("powersgd:4+bf16") == CodecName(kind="powersgd", rank=4, half=True)
    assert CodecName.parse("topk:0.01") == CodecName(kind="topk", share=0.01)


def test_what_does_not_fit_is_refused() -> None:
    codec = top_k(0.5, {"w": torch.Size([4])})
    one = {"dense/w": torch.ones(3), "weight": torch.tensor(1.0)}
    with pytest.raises(RoundError, match=r"dense tensor 'w' must be \[4\] of torch.float32; got"):
        codec.encode(one, codec.init(), torch.Generator())
    with pytest.raises(RoundError, match=r"dense tensors must be \['w'\]; got \[\]"):
        codec.encode({}, codec.init(), torch.Generator())
    with pytest.raises(
        RoundError, match=r"a message of top-k needs top/indices of \[2\]; got none"
    ):
        codec.decode({})
    parts = {"top/indices": torch.tensor([1, 4]).int(), "top/values": torch.ones(2)}
    with pytest.raises(RoundError, match=r"top/indices must be in \[0, 4\)"):
        codec.decode(parts)
    with pytest.raises(RoundError, match="a message of low rank needs dense/w/right; got none"):
        power_sgd(1).decode({"dense/w/left": torch.ones(2, 1)})
    with pytest.raises(
        RoundError, match=r"dense tensor 'w' must be torch.float32; got torch.int64"
    ):
        power_sgd(1).encode({"dense/w": torch.ones(2, 2).long()}, {}, torch.Generator())
    with pytest.raises(ConfigError, match="rank must be at least 1; got 0"):
        power_sgd(0)
    with pytest.raises(ConfigError, match="the share of numbers must be above 0"):
        top_k(0.0, {})
