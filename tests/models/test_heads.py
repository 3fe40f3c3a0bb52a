"""Batched experts, gates and towers against loops over plain layers."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from scalerec.models.heads import (
    ExpertGate,
    Experts,
    FirstOrder,
    Mlp,
    TaskTowers,
    init_stacked,
    pick_fields,
)
from scalerec.models.inputs import Inputs

# Another order of float32 sums.
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def one_expert(experts: Experts, place: int, x: Tensor) -> Tensor:
    """What a single expert of the stack gives, by plain linear layers."""
    for weight, bias in zip(experts.weights, experts.biases, strict=True):
        x = linear(x, weight[place].T, bias[place, 0]).relu()
    return x


def shake(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every parameter, the zero biases too, a value that a wrong place would betray."""
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))


def test_experts_are_a_loop_over_experts(generator: torch.Generator) -> None:
    experts = Experts(3, 4, (5, 2), generator)
    shake(experts, generator)
    shared, own = torch.randn(6, 4, generator=generator), torch.randn(3, 6, 4, generator=generator)
    expected = torch.stack([one_expert(experts, place, shared) for place in range(3)])
    torch.testing.assert_close(experts(shared), expected, **CLOSE)
    expected = torch.stack([one_expert(experts, place, own[place]) for place in range(3)])
    torch.testing.assert_close(experts(own), expected, **CLOSE)
    assert sum(value.numel() for value in experts.parameters()) == 3 * (4 * 5 + 5 + 5 * 2 + 2)


def test_experts_without_layers_pass_the_input_on(generator: torch.Generator) -> None:
    x = torch.randn(6, 4, generator=generator)
    top = Experts(2, 4, (), generator)(x)
    assert top.shape == (2, 6, 4)
    assert torch.equal(top[1], x)


def test_gates_weigh_by_softmax(generator: torch.Generator) -> None:
    gate = ExpertGate(2, 4, 3, generator)
    shared, own = torch.randn(5, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    experts = torch.randn(3, 5, 6, generator=generator)
    apart = torch.randn(2, 3, 5, 6, generator=generator)
    for group in range(2):
        share = (shared @ gate.weight[group]).softmax(-1)
        expected = sum(share[:, e, None] * experts[e] for e in range(3))
        torch.testing.assert_close(gate(shared, experts)[group], expected, **CLOSE)
        share = (own[group] @ gate.weight[group]).softmax(-1)
        expected = sum(share[:, e, None] * apart[group, e] for e in range(3))
        torch.testing.assert_close(gate(own, apart)[group], expected, **CLOSE)


@pytest.mark.parametrize("hidden", [(), (3,)])
@pytest.mark.parametrize("outputs", [(1, 1), (1, 3), (2, 1)])
def test_task_towers_are_a_loop_over_tasks(
    outputs: tuple[int, ...], hidden: tuple[int, ...], generator: torch.Generator
) -> None:
    towers = TaskTowers(outputs, 4, hidden, generator)
    shake(towers, generator)
    x = torch.randn(2, 5, 4, generator=generator)
    columns, start = [], 0
    for task, num in enumerate(outputs):
        top = one_expert(towers.towers, task, x[task])
        for column in range(start, start + num):
            columns.append(top @ towers.weight[column, :, 0] + towers.bias[column])
        start += num
    torch.testing.assert_close(towers(x), torch.stack(columns, dim=-1), **CLOSE)


def test_first_order_of_one_output_is_the_sum_and_a_bias(generator: torch.Generator) -> None:
    inputs = Inputs(
        torch.randn(2, 3, 4, generator=generator), torch.tensor([1.0, -2.0]), torch.zeros(2, 0), ()
    )
    net = FirstOrder(4, 1, generator)
    assert [value.numel() for value in net.parameters()] == [1]
    assert net(inputs).tolist() == [[1.0], [-2.0]]
    several = FirstOrder(4, 2, generator)
    assert several.own is not None
    expected = inputs.linear[:, None] + inputs.fields.sum(1) @ several.own.weight.T
    torch.testing.assert_close(several(inputs), expected, **CLOSE)


def test_pick_fields_puts_them_side_by_side() -> None:
    fields = torch.arange(12.0).view(2, 3, 2)
    assert pick_fields(fields, [2, 0]).tolist() == [[4, 5, 0, 1], [10, 11, 6, 7]]


def test_stacked_weights_have_the_spread_of_single_ones(generator: torch.Generator) -> None:
    weight = init_stacked(50, 30, 70, generator)
    # sqrt(2 / (30 + 70)); 105,000 draws give its first two digits.
    assert float(weight.detach().std()) == pytest.approx(0.1414, rel=0.02)


def test_mlp_of_no_layer_is_the_identity(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, generator=generator)
    net = Mlp(3, (), generator)
    assert net.out_dim == 3
    assert torch.equal(net(x), x)
