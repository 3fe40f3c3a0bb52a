"""Layers whose weights differ between parties are computed for all, and everything else as ever."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from scalerec.train.cohort.products import LinearMode, batched_linear

PARTIES, EXAMPLES, INPUTS, OUTPUTS = 3, 4, 5, 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (6,)])
def test_each_party_has_its_own_layer(
    bias: bool, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    net = nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=bias), nn.Tanh())
    own = {
        name: torch.randn(PARTIES, *tensor.shape, generator=generator)
        for name, tensor in net.named_parameters()
    }
    x = torch.randn(PARTIES * EXAMPLES, *shape, INPUTS, generator=generator)
    with LinearMode([("0.weight", own["0.weight"])], PARTIES):
        found = functional_call(net, own, (x,))
    each = [
        functional_call(net, {name: tensor[p] for name, tensor in own.items()}, (part,))
        for p, part in enumerate(x.split(EXAMPLES))
    ]
    torch.testing.assert_close(found, torch.cat(each))


def test_other_layers_and_other_calls_are_left_alone(generator: torch.Generator) -> None:
    named, plain = (torch.randn(OUTPUTS, INPUTS, generator=generator) for _ in range(2))
    x = torch.randn(4, INPUTS, generator=generator)
    told: list[str] = []

    class Watched(LinearMode):
        def after(self, out: Tensor) -> Tensor:
            told.append("after")
            return out

    with Watched([("own", named.expand(2, OUTPUTS, INPUTS))], 2):
        found = nn.functional.linear(x, plain, None).relu()
    assert torch.equal(found, (x @ plain.T).relu())
    assert not told
    own = named.expand(2, OUTPUTS, INPUTS)
    with Watched([("own", own)], 2):
        found = nn.functional.linear(x, own, None)
    torch.testing.assert_close(found, x @ named.T)
    assert told == ["after"]


def test_batched_linear_adds_each_bias(generator: torch.Generator) -> None:
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3, 5), (2, 4, 5), (2, 4))
    )
    wanted = torch.stack([nn.functional.linear(x[p], weight[p], bias[p]) for p in range(2)])
    torch.testing.assert_close(batched_linear(x, weight, bias), wanted)
    torch.testing.assert_close(batched_linear(x, weight, None), wanted - bias.unsqueeze(1))
