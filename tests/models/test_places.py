"""Which weights read which field; and nets without some of their fields."""

from itertools import combinations

import pytest
import torch
from tests.contracts.test_zoo import PAIRS, config_of
from tests.models.toys import LAYOUTS
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.errors import ConfigError
from scalerec.models.inputs import History, Inputs
from scalerec.models.places import field_places, narrow_net
from scalerec.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")
DIM = 4
ROWS = 9


def build(name: str, layout: Layout) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    net = ZOO[name].build(layout, config_of(name), generator).eval()
    with torch.no_grad():
        for own in net.parameters():
            own.copy_(torch.randn(own.shape, generator=generator) * 0.3)
    return net


def draw(layout: Layout, zero: tuple[str, ...] = ()) -> Inputs:
    """The same numbers for a field of the same name, in whatever layout; some are zero."""

    def numbers(name: str, *shape: int) -> Tensor:
        seed = sum(map(ord, name))
        drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        return drawn * float(name not in zero)

    histories = []
    for bag in layout.bags:
        if bag.history:
            mask = torch.ones(ROWS, 3, dtype=torch.bool)
            values = numbers(bag.name, ROWS, 3, DIM)
            targets = layout.targets_of(bag)
            histories.append(History(values, mask, targets[0] if targets else None))
    return Inputs(
        fields=torch.stack([numbers(field.name, ROWS, DIM) for field in layout.fields], 1),
        linear=numbers("linear", ROWS),
        dense=torch.zeros(ROWS, len(layout.numbers)),
        histories=tuple(histories),
    )


def drops(layout: Layout) -> list[tuple[str, ...]]:
    names = [field.name for field in layout.fields]
    return [own for size in (1, 2) for own in combinations(names, size) if len(names) > size]


@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_a_net_without_fields_gives_what_it_gave_where_they_were_zero(
    name: str, layout: str
) -> None:
    whole = LAYOUTS[layout]
    net, found = build(name, whole), 0
    for dropped in drops(whole):
        less = whole.without(dropped)
        try:
            narrow = build(name, less)
        except ConfigError:
            continue
        try:
            narrow_net(net, whole, DIM, dropped, narrow)
        except ConfigError:
            # The gate of a stream that is left without fields is another one.
            assert name == "finalmlp"
            continue
        found += 1
        if name != "autoint":
            expected = net(draw(whole, dropped))
            # The same products but for those with zero, in another order.
            torch.testing.assert_close(narrow(draw(less)), expected, rtol=1e-4, atol=1e-5)
    assert found > 0


def test_fields_that_look_at_each_other_keep_their_own_read_out() -> None:
    """AutoInt: each field's part of the read-out goes with it."""
    whole = LAYOUTS["ids"]
    net, narrow = build("autoint", whole), build("autoint", whole.without(["item"]))
    narrow_net(net, whole, DIM, ["item"], narrow)
    own, other = net.get_parameter("out.weight"), narrow.get_parameter("out.weight")
    size = own.shape[1] // 3
    assert torch.equal(other, torch.cat([own[:, :size], own[:, 2 * size :]], 1))


def test_places_by_hand() -> None:
    """DCN: a cross layer's weights have the fields along both axes."""
    layout = LAYOUTS["ids"]
    places = field_places(build("dcn-v2", layout), layout, DIM)
    assert places["crosses.0.up.weight"][0][1].tolist() == [4, 5, 6, 7]
    assert places["crosses.0.up.weight"][1][2].tolist() == [8, 9, 10, 11]
    assert places["crosses.0.up.bias"][0][0].tolist() == [0, 1, 2, 3]
    assert places["tower.0.weight"][1][1].tolist() == [4, 5, 6, 7]
    assert 0 not in places["tower.0.weight"]
    assert places["out.weight"][1][1].tolist() == [4, 5, 6, 7]


class Odd(nn.Module):
    """Reads fields as no rule would tell."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, size))

    def forward(self, inputs: Inputs) -> Tensor:
        return inputs.fields.sum((1, 2)).unsqueeze(1) @ self.weight.sum(1, keepdim=True)


def test_what_cannot_be_told_is_refused() -> None:
    layout = LAYOUTS["ids"]
    with pytest.raises(ConfigError, match="cannot be told which part of 'weight' belongs to"):
        narrow_net(Odd(10), layout, DIM, ["day"], Odd(2))
    other = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"has a part '0.weight' that the net with them has not"):
        narrow_net(Odd(10), layout, DIM, ["day"], other)
