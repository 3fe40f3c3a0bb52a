"""Layers of other forms: known answers, plain twins, gradients, and what changes no score."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scalerec.errors import ConfigError
from scalerec.models.forming import factorise, form_layer, halve_linear, quantise_linear
from scalerec.models.forms import LayerForm
from scalerec.models.inputs import Folded
from scalerec.models.layers import HalfLinear, IntLinear, LowRankLinear, dense_weight
from scalerec.models.products import multiply_plain, multiply_rows


def linear(inputs: int, outputs: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for own in layer.parameters():
            own.copy_(torch.randn(own.shape, generator=generator))
    return layer


def test_whole_numbers_by_hand() -> None:
    layer = IntLinear(2, 2)
    layer.codes.copy_(torch.tensor([[127, -127], [1, 2]]))
    layer.scales.copy_(torch.tensor([0.01, 0.5]))
    assert layer.bias is not None
    layer.bias.copy_(torch.tensor([1.0, -1.0]))
    # From -5.1 to 20.4 a step is 0.1 and zero is code 51, so both are met exactly.
    out = layer(torch.tensor([[-5.1, 20.4], [0.0, 0.0]]))
    first = [(-5.1 * 127 - 20.4 * 127) * 0.01 + 1.0, (-5.1 + 2 * 20.4) * 0.5 - 1.0]
    expected = torch.tensor([first, [1.0, -1.0]])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_codes_of_weights_by_hand() -> None:
    layer = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, -0.004], [0.0, 0.0], [-2.54, 1.0]]))
    whole = quantise_linear(layer)
    assert whole.codes.tolist() == [[127, 0], [0, 0], [-127, 50]]
    torch.testing.assert_close(whole.scales, torch.tensor([0.01, 0.0, 0.02]))
    assert whole.bias is None


@settings(deadline=None, max_examples=30)
@given(
    num=st.integers(0, 5),
    size=st.integers(1, 40),
    outputs=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("fixed", [False, True])
def test_the_kernels_are_the_plain_way(
    num: int, size: int, outputs: int, seed: int, fixed: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(num, size)).astype(np.float32))
    if seed % 3 == 0:
        rows.relu_()
    codes = torch.from_numpy(rng.integers(-127, 128, (outputs, size)).astype(np.int8))
    scales, bias = (torch.from_numpy(rng.random(outputs).astype(np.float32)) for _ in "ab")
    ends = torch.tensor([-0.7, 1.3]) if fixed else None
    sums = codes.sum(1, dtype=torch.float32)
    for relu in (False, True):
        found = multiply_rows(rows, codes, scales, sums, bias, ends, relu=relu)
        plain = multiply_plain(rows, codes, scales, bias, ends, relu=relu)
        # One step of a code at most, where a number lies between two.
        step = 127 * scales * (2.0 if fixed else float(rows.abs().amax() if num else 0) * 2) / 255
        assert bool(((found - plain).abs() <= step + 1e-4).all())
        near = (found - plain).abs() <= 1e-3 * (1 + plain.abs())
        assert bool(near.float().mean() > 0.9 if num else True)


def test_whole_numbers_are_near_the_floats(generator: torch.Generator) -> None:
    layer, rows = linear(64, 32, generator), torch.randn(50, 64, generator=generator)
    exact = layer(rows)
    for calibrated in (None, (float(rows.min()), float(rows.max()))):
        found = quantise_linear(layer, calibrated)(rows)
        # Weights are off by up to 1 / 254 of the largest and inputs by 1 / 510 of their range.
        error = (found - exact).detach().norm() / exact.detach().norm()
        assert float(error) < 0.02


def test_a_row_does_not_depend_on_the_others(generator: torch.Generator) -> None:
    layer, rows = linear(20, 6, generator), torch.randn(9, 20, generator=generator)
    rows[3] *= 100
    for whole in (quantise_linear(layer), quantise_linear(layer, (-3.0, 3.0))):
        alone = torch.cat([whole(row.unsqueeze(0)) for row in rows])
        assert torch.equal(whole(rows), alone)


def test_inputs_beyond_a_fixed_range_are_its_ends(generator: torch.Generator) -> None:
    whole = quantise_linear(linear(3, 2, generator), (-1.0, 2.0))
    beyond, ends = torch.tensor([[-9.0, 5.0, 0.0]]), torch.tensor([[-1.0, 2.0, 0.0]])
    assert torch.equal(whole(beyond), whole(ends))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(value: float, generator: torch.Generator) -> None:
    for fixed in (None, (-1.0, 1.0)):
        whole = quantise_linear(linear(4, 3, generator), fixed)
        rows = torch.zeros(2, 4)
        rows[1, 2] = value
        for relu in (False, True):
            out = whole(rows, relu=relu)
            assert bool(out[0].isfinite().all())
            assert not bool(out[1].isfinite().any())


def test_a_gradient_passes_as_through_floats(generator: torch.Generator) -> None:
    whole = quantise_linear(linear(5, 4, generator))
    rows = torch.randn(3, 5, generator=generator, requires_grad=True)
    ways = torch.randn(3, 4, generator=generator)
    whole(rows).backward(ways)
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, ways @ whole.weight)
    rows.grad = None
    out = whole(rows, relu=True)
    out.backward(ways)
    torch.testing.assert_close(rows.grad, (ways * (out > 0)) @ whole.weight)
    assert not list(whole.parameters())


def test_new_codes_are_multiplied_after_loading(generator: torch.Generator) -> None:
    one, other = (quantise_linear(linear(5, 4, generator)) for _ in "ab")
    rows = torch.randn(3, 5, generator=generator)
    one(rows)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(rows), other(rows))


def test_layers_made_in_inference_mode_score(generator: torch.Generator) -> None:
    layer, rows = linear(5, 4, generator), torch.randn(3, 5, generator=generator)
    expected = quantise_linear(layer)(rows)
    with torch.inference_mode():
        made = quantise_linear(layer)
        assert torch.equal(made(rows), expected)


def test_half_weights_are_the_floats_rounded(generator: torch.Generator) -> None:
    layer, rows = linear(5, 4, generator), torch.randn(3, 5, generator=generator)
    half = halve_linear(layer)
    assert half.weight.dtype is torch.float16
    expected = nn.functional.linear(rows, layer.weight.half().float(), layer.bias)
    assert torch.equal(half(rows), expected)
    with torch.no_grad():
        layer.weight[0, 0] = 1e6
    with pytest.raises(ConfigError, match=r"weights of 16 bits are at most 65504; got 1000000"):
        halve_linear(layer)


def test_factors_of_full_rank_are_the_weights(generator: torch.Generator) -> None:
    layer, rows = linear(5, 4, generator), torch.randn(3, 5, generator=generator)
    low = form_layer(layer, LayerForm(rank=4))
    assert isinstance(low, LowRankLinear)
    # Another order of float32 products.
    torch.testing.assert_close(low(rows), layer(rows), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dense_weight(low), layer.weight.detach(), rtol=1e-5, atol=1e-5)
    assert (low.in_features, low.out_features) == (5, 4)


def test_factors_are_the_nearest(generator: torch.Generator) -> None:
    weight = torch.randn(6, 5, generator=generator)
    down, up = factorise(weight, 2)
    sizes = torch.linalg.svdvals(weight)
    left = (up @ down - weight).square().sum()
    torch.testing.assert_close(left, sizes[2:].square().sum(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(down.norm(), up.norm())
    with pytest.raises(ConfigError, match=r"rank must be from 1 to 5; got 6"):
        factorise(weight, 6)


FOLDED = [
    LayerForm(),
    LayerForm(bits=16),
    LayerForm(bits=8),
    LayerForm(rank=3),
    LayerForm(rank=2, bits=8),
]


@pytest.mark.parametrize("form", FOLDED)
def test_folded_fields_give_what_they_give_side_by_side(
    form: LayerForm, generator: torch.Generator
) -> None:
    # Two ids, three numbers and a bag of dimension 2.
    layer = form_layer(linear(12, 4, generator), form)
    ids, bag = torch.randn(5, 4, generator=generator), torch.randn(5, 2, generator=generator)
    numbers, vectors = (
        torch.randn(5, 3, generator=generator),
        torch.randn(3, 2, generator=generator),
    )
    spread = (numbers.unsqueeze(-1) * vectors).flatten(1)
    whole = torch.cat([ids, spread, bag], 1)
    folded = Folded(torch.cat([ids, bag, numbers, torch.zeros(5, 13)], 1), vectors, 2)
    assert torch.equal(folded.unfold(), whole)
    if type(layer) is not nn.Linear:
        torch.testing.assert_close(layer(folded), layer(whole), rtol=1e-5, atol=1e-5)


def test_any_leading_dimensions(generator: torch.Generator) -> None:
    whole = quantise_linear(linear(5, 4, generator))
    rows = torch.randn(2, 3, 5, generator=generator)
    assert torch.equal(whole(rows).flatten(0, 1), whole(rows.flatten(0, 1)))
    assert whole(torch.zeros(0, 5)).shape == (0, 4)


def test_conversions_refuse_a_choice_that_is_missing(generator: torch.Generator) -> None:
    layer = linear(5, 4, generator)
    with pytest.raises(ConfigError, match=r"a layer 5 to 4 cannot be converted to other sizes"):
        form_layer(layer, LayerForm(inputs=3))
    with pytest.raises(ConfigError, match=r"a calibrated layer needs the range of its inputs"):
        form_layer(layer, LayerForm(bits=8, calibrated=True))
    with pytest.raises(ConfigError, match=r"inputs must range from a lowest to a highest; got 2"):
        quantise_linear(layer, (2.0, 1.0))
    with pytest.raises(ConfigError, match=r"a linear layer is needed; got ReLU"):
        dense_weight(nn.ReLU())


def weight_of(layer: nn.Module) -> Tensor:
    return dense_weight(layer)


def test_a_form_of_a_form(generator: torch.Generator) -> None:
    layer = linear(5, 4, generator)
    whole = form_layer(form_layer(layer, LayerForm(rank=4)), LayerForm(bits=8))
    assert isinstance(whole, IntLinear)
    back = form_layer(whole, LayerForm(bits=16))
    assert isinstance(back, HalfLinear)
    torch.testing.assert_close(weight_of(back), weight_of(whole), rtol=1e-3, atol=1e-4)
