"""Interactions against sums over pairs, loops and torch's own attention."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from scalerec.errors import ConfigError
from scalerec.models.interactions import (
    BilinearFusion,
    CrossLayer,
    FeatureGate,
    FieldAttention,
    pair_interaction,
)


def test_pairs_by_hand() -> None:
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    # 1*3 + 2*4 = 11, 1*5 + 2*6 = 17, 3*5 + 4*6 = 39
    assert pair_interaction(fields).sum(-1).tolist() == [67.0]
    # Per dimension: 3 + 5 + 15 and 8 + 12 + 24
    assert pair_interaction(fields).tolist() == [[23.0, 44.0]]


# No deadline: the first call of torch takes longer than the rest.
@settings(deadline=None)
@given(num_fields=st.integers(1, 6), dim=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_pair_interaction_is_the_sum_over_pairs(num_fields: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(3, num_fields, dim, generator=generator, dtype=torch.float64)
    pairs = combinations(range(num_fields), 2)
    expected = torch.zeros(3, dtype=torch.float64)
    for one, two in pairs:
        expected += (fields[:, one] * fields[:, two]).sum(-1)
    # The lemma subtracts squares, so it loses a few of the sixteen digits.
    torch.testing.assert_close(pair_interaction(fields).sum(-1), expected, rtol=1e-9, atol=1e-9)


def test_full_cross_by_hand(generator: torch.Generator) -> None:
    layer = CrossLayer(2, generator)
    with torch.no_grad():
        layer.up.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.up.bias.copy_(torch.tensor([0.5, -1.0]))
    first, x = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, -1.0]])
    # W x + b = (1 - 2 + 0.5, 3 - 4 - 1) = (-0.5, -2); times x0, plus x.
    assert layer(first, x).tolist() == [[2 * -0.5 + 1, 3 * -2 - 1]]


def test_low_rank_cross_is_a_full_one_with_the_product_as_matrix(
    generator: torch.Generator,
) -> None:
    low, full = CrossLayer(6, generator, rank=2), CrossLayer(6, generator)
    assert low.down is not None
    with torch.no_grad():
        full.up.weight.copy_(low.up.weight @ low.down.weight)
        full.up.bias.copy_(low.up.bias)
    first, x = torch.randn(2, 4, 6, generator=generator)
    # One more rounding of float32.
    torch.testing.assert_close(low(first, x), full(first, x), rtol=1e-5, atol=1e-6)
    assert sum(value.numel() for value in low.parameters()) == 2 * 6 * 2 + 6


@pytest.mark.parametrize("scale", [False, True])
def test_attention_is_torchs(scale: bool, generator: torch.Generator) -> None:
    layer = FieldAttention(5, 3, 4, generator, scale=scale)
    fields = torch.randn(2, 6, 5, generator=generator)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(2, 6, 3, 4).transpose(1, 2)

    expected = scaled_dot_product_attention(
        heads(layer.query(fields)),
        heads(layer.key(fields)),
        heads(layer.value(fields)),
        scale=0.5 if scale else 1.0,
    )
    expected = expected.transpose(1, 2).reshape(2, 6, 12)
    # Another order of float32 sums.
    torch.testing.assert_close(layer.attend(fields), expected, rtol=1e-5, atol=1e-6)
    residual = fields @ layer.residual.weight.T
    torch.testing.assert_close(layer(fields), (expected + residual).relu(), rtol=1e-5, atol=1e-6)


def test_bilinear_fusion_is_a_loop(generator: torch.Generator) -> None:
    fusion = BilinearFusion(6, 4, num_heads=2, num_outputs=3, generator=generator)
    one, two = torch.randn(5, 6, generator=generator), torch.randn(5, 4, generator=generator)
    expected = fusion.one(one) + fusion.two(two)
    for output in range(3):
        for head in range(2):
            part_one, part_two = one[:, 3 * head : 3 * head + 3], two[:, 2 * head : 2 * head + 2]
            for row in range(5):
                product = part_one[row] @ fusion.weight[output, head] @ part_two[row]
                expected[row, output] = expected[row, output] + product
    # Another order of float32 sums.
    torch.testing.assert_close(fusion(one, two), expected, rtol=1e-5, atol=1e-6)


def test_bilinear_fusion_refuses_sizes_that_heads_do_not_divide(
    generator: torch.Generator,
) -> None:
    with pytest.raises(ConfigError, match="must be multiples of num_heads=4; got 6"):
        BilinearFusion(8, 6, num_heads=4, num_outputs=1, generator=generator)


def test_a_gate_without_weights_lets_everything_pass(generator: torch.Generator) -> None:
    gate = FeatureGate(4, 3, (5,), generator)
    x, context = torch.randn(2, 4, generator=generator), torch.randn(2, 3, generator=generator)
    with torch.no_grad():
        for value in gate.net[-1].parameters():
            value.zero_()
    # 2 sigmoid(0) = 1
    assert torch.equal(gate(x, context), x)


def test_a_constant_gate_is_the_same_for_every_row(generator: torch.Generator) -> None:
    gate = FeatureGate(4, 3, (5,), generator, constant=True)
    shares = gate(torch.ones(2, 4))
    assert torch.equal(shares[0], shares[1])
    assert ((shares > 0) & (shares < 2)).all()
