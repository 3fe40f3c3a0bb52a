"""Numbers in few bits: by hand, right on average, and never further off than the papers say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.rounds.codecs import quantised, signs
from scalerec.rounds.codecs.bits import Bucket
from scalerec.rounds.codecs.messages import Part, gather_messages
from scalerec.rounds.codecs.steps import Step

ALL_BITS = pytest.mark.parametrize("bits", [1, 2, 4, 8])
numbers = st.floats(-1e3, 1e3, width=32)


def seeds(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def encoded(step: Step, tensor: Tensor, seed: int = 0, name: str = "dense/w") -> dict[str, Part]:
    return step.encode(gather_messages([{name: tensor}]), {}, seeds(seed))[0]


def send(step: Step, tensor: Tensor, seed: int = 0, name: str = "dense/w") -> Tensor:
    return step.decode(encoded(step, tensor, seed, name))[name].of(0)


def many(step: Step, tensor: Tensor, times: int) -> Tensor:
    """What arrives of the same tensor under many seeds, ``[times, ...]``."""
    message = gather_messages([{"dense/w": tensor}] * times)
    own = torch.arange(times) * 3 + 1
    return step.decode(step.encode(message, {}, own)[0])["dense/w"].values


@pytest.mark.parametrize(
    ("bits", "values", "codes"),
    [
        # Exact levels do not depend on chance: -s is 0, 0 is L, s is 2L.
        (8, [2.0, -2.0, 0.0], [254, 0, 127]),
        # 14, 0, then 7 alone; the first number lies in the low half of a byte.
        (4, [2.0, -2.0, 0.0], [14 + (0 << 4), 7]),
        # 2, 0, 1, 2 and then 1.
        (2, [3.0, -3.0, 0.0, 3.0, 0.0], [2 + (0 << 2) + (1 << 4) + (2 << 6), 1]),
        (1, [1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0], [1 + 8 + 16 + 32, 1]),
    ],
)
def test_packing_by_hand(bits: int, values: list[float], codes: list[int]) -> None:
    message = encoded(quantised(bits), torch.tensor(values))
    assert set(message) == {f"dense/w/codes:{len(values)}", "dense/w/scales"}
    assert message[f"dense/w/codes:{len(values)}"].of(0).tolist() == codes
    assert message["dense/w/scales"].of(0).tolist() == [max(values)]
    assert send(quantised(bits), torch.tensor(values)).tolist() == values


def test_rows_pack_by_hand() -> None:
    """Three numbers of four bits: a byte that says 1 is to spare, and two of codes."""
    tensor = torch.tensor([[1.0], [-1.0], [0.0]])
    message = encoded(quantised(4), tensor, name="tables/t/values")
    assert message["tables/t/values/codes:1"].of(0).tolist() == [1, 14, 7]
    assert torch.equal(send(quantised(4), tensor, name="tables/t/values"), tensor)
    none = encoded(quantised(4), tensor[:0], name="tables/t/values")
    assert [part.values.numel() for part in none.values()] == [0, 0]
    assert send(quantised(4), tensor[:0], name="tables/t/values").shape == (0, 1)


@pytest.mark.parametrize(
    ("bucket", "scales"),
    [("row", [3.0, 5.0]), ("tensor", [5.0]), (4, [5.0, 2.0]), (6, [5.0])],
)
def test_scales_by_hand(bucket: Bucket, scales: list[float]) -> None:
    tensor = torch.tensor([[1.0, -3.0, 2.0], [-5.0, 2.0, 0.5]])
    assert encoded(quantised(8, bucket), tensor)["dense/w/scales"].of(0).tolist() == scales
    means = [2.0, 2.5] if bucket == "row" else [2.25]
    if bucket in ("row", "tensor"):
        assert encoded(signs(bucket), tensor)["dense/w/scales"].of(0).tolist() == means


def test_signs_by_hand() -> None:
    assert send(signs(2), torch.tensor([1.0, -3.0, 0.5])).tolist() == [2.0, -2.0, 0.5]


def reference(values: Tensor, bits: int, drawn: Tensor) -> Tensor:
    """The formula of the paper for one bucket, in float64."""
    scale = values.abs().max().double()
    if bits == 1:
        return torch.where(drawn < (1 + values / scale) / 2, scale, -scale)
    most = 2 ** (bits - 1) - 1
    level = values / scale * most
    up = (drawn < level - level.floor()).double()
    rounded: Tensor = (level.floor() + up) * scale / most
    return rounded


@ALL_BITS
def test_it_is_the_formula(bits: int) -> None:
    """With the draws found from two numbers that are known to be rounded by them."""
    values = torch.randn(200, generator=torch.Generator().manual_seed(bits)).double()
    found = send(quantised(bits), values.float(), seed=9)
    # Whichever side was drawn, it is one of the two levels of the formula.
    low, high = (reference(values, bits, torch.full((200,), u)) for u in (0.0, 1.0))
    near = torch.minimum((found - low).abs(), (found - high).abs())
    assert near.max() < 1e-6 * values.abs().max()


@ALL_BITS
def test_it_is_right_on_average(bits: int) -> None:
    """The mean of 4096 draws lies within 5 standard errors of each number (1 in 1.7 million)."""
    values = torch.randn(40, generator=torch.Generator().manual_seed(1))
    found = many(quantised(bits), values, 4096).double()
    step = float(values.abs().max()) / (2 ** (bits - 1) - 1 if bits > 1 else 0.5)
    error = (found.mean(0) - values).abs()
    # The largest standard deviation between two levels is half of their distance.
    assert error.max() < 5 * step / 2 / math.sqrt(4096)
    spread = found.std(0)
    assert (error <= 5 * spread / math.sqrt(4096) + 1e-6).all()


@ALL_BITS
def test_the_error_keeps_the_bounds_of_the_papers(bits: int) -> None:
    """QSGD, lemma 3.1 with s levels: n / s^2; Suresh et al., lemma 3: n (max - min)^2 / 4."""
    values = torch.randn(256, generator=torch.Generator().manual_seed(2))
    error = (many(quantised(bits), values, 200) - values).square().sum(1).mean()
    largest, norm = values.abs().max(), values.norm()
    if bits == 1:
        assert error <= 256 * largest**2
        # Exactly, the variance of two points: s^2 - v^2 a number; the mean is within 2%.
        torch.testing.assert_close(error, 256 * largest**2 - norm**2, rtol=0.02, atol=0)
    else:
        most = 2 ** (bits - 1) - 1
        assert error <= 256 * (largest / most) ** 2 / 4
        assert error <= min(256 / most**2, 16 / most) * norm**2


@given(st.lists(numbers, min_size=1, max_size=40), st.sampled_from([2, 4, 8]), st.integers(0, 9))
def test_no_number_is_off_by_a_step(values: list[float], bits: int, seed: int) -> None:
    tensor = torch.tensor(values)
    found = send(quantised(bits, 8), tensor, seed)
    for own, arrived in zip(tensor.split(8), found.split(8), strict=True):
        step = own.abs().max() / (2 ** (bits - 1) - 1)
        assert ((arrived - own).abs() <= step * (1 + 1e-5)).all()


def test_signs_miss_what_the_paper_says() -> None:
    """Karimireddy et al., lemma 8: what is missed is 1 - |v|_1^2 / (n |v|_2^2) of it, squared."""
    values = torch.randn(512, generator=torch.Generator().manual_seed(3))
    missed = (send(signs("tensor"), values) - values).square().sum()
    wanted = values.square().sum() - values.abs().sum() ** 2 / 512
    torch.testing.assert_close(missed, wanted)
    torch.testing.assert_close(
        missed / values.square().sum(), torch.tensor(1 - 2 / math.pi), rtol=0.1, atol=0
    )


def test_the_largest_number_is_never_passed() -> None:
    """Its level is exact; adding a draw to it in float32 would now and then round up past it."""
    values = torch.ones(1 << 18)
    assert torch.equal(send(quantised(8), values), values)


def test_draws_differ_by_party_name_and_place() -> None:
    half = torch.full((64,), 0.5)
    half[0] = 1.0
    step = quantised(1, "tensor")
    a, b = send(step, half, 1), send(step, half, 2)
    c = send(step, half, 1, "dense/v")
    assert torch.equal(a, send(step, half, 1))
    for one, other in ((a, b), (a, c), (a[1:], a.roll(1)[1:])):
        # 64 coins of chance 3/4 and 1/4 agree at 40 places on average, 3.9 either way.
        assert 20 < int((one == other).sum()) < 60


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("step", [quantised(4, 2), quantised(1, 2), signs(2)])
def test_only_the_bucket_is_lost(step: Step, number: float) -> None:
    found = send(step, torch.tensor([1.0, -1.0, number, 2.0, 3.0, 3.0]))
    assert found.isnan().tolist() == [False, False, True, True, False, False]


def test_a_scalar_arrives() -> None:
    assert send(quantised(8), torch.tensor(-2.5)).item() == -2.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dense/w/scales": None}, "'dense/w/codes:3' needs 'dense/w/scales' beside it; got none"),
        ({"dense/w/scales": torch.ones(2)}, r"of shape \[3\]; got \[2\] of torch.uint8 and \[2\]"),
        ({"dense/w/codes:3": torch.ones(2).int()}, "got .* of torch.int32"),
        ({"dense/w/codes:3": torch.ones(9).byte()}, r"numbers in 4 bits, .*; got \[9\]"),
        ({"dense/w/codes:9x9x9": torch.ones(2).byte()}, r"of shape \[9, 9, 9\]"),
        ({"dense/w/codes:-1": torch.ones(2).byte()}, "must name a shape as 3x4; got '-1'"),
        ({"dense/w/codes:99999999x9999999": torch.ones(2).byte()}, "must name a shape"),
    ],
)
def test_a_message_that_does_not_fit_is_refused(
    change: dict[str, Tensor | None], words: str
) -> None:
    message = {n: p.of(0) for n, p in encoded(quantised(4), torch.ones(3)).items()}
    changed = {n: t for n, t in {**message, **change}.items() if t is not None}
    with pytest.raises(RoundError, match=words):
        quantised(4).decode(gather_messages([changed]))


@pytest.mark.parametrize("codes", [[9, 1], [1], [255]])
def test_a_wrong_number_to_spare_is_refused(codes: list[int]) -> None:
    parts = {
        "tables/t/values/codes:3": torch.tensor(codes).byte(),
        "tables/t/values/scales": torch.ones(1),
    }
    with pytest.raises(RoundError, match="must hold the codes and scales"):
        quantised(4).decode(gather_messages([parts]))


def test_wrong_settings_and_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="bits must be one of 1, 2, 4, 8; got 3"):
        quantised(3)
    with pytest.raises(ConfigError, match=r"a bucket must be row, tensor, or at least 1.*; got 0"):
        quantised(8, 0)
    with pytest.raises(RoundError, match=r"'dense/w' must be torch.float32; got torch.float64"):
        send(quantised(8), torch.ones(2).double())
