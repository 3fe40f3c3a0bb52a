"""What every net of the zoo keeps to, whatever is inside. A new net joins by its row of `ZOO`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, Toy, draw_batch, make_toy
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from scalerec.errors import ConfigError
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, TwoTowers
from scalerec.models.zoo import ZOO

DIM = 4
ROWS = 7
# Sums of a few hundred float32 products, in another order.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config_of(name: str, **changes: object) -> NetConfig:
    """The net's own settings with narrow layers, so that the suite takes seconds."""
    sizes = {
        key: [20] * max(1, len(value))
        for key, value in ZOO[name].config().to_dict().items()
        if isinstance(value, list)
    }
    return ZOO[name].config.from_dict({**sizes, "dim": DIM, **changes})


def build(name: str, layout: str, seed: int = 1, **changes: object) -> nn.Module:
    return ZOO[name].build(LAYOUTS[layout], config_of(name, **changes), seeded(seed)).eval()


def fits(name: str, layout: str) -> bool:
    try:
        build(name, layout)
    except ConfigError:
        return False
    return True


PAIRS = [(name, layout) for name in ZOO for layout in LAYOUTS if fits(name, layout)]
FIRST_LAYOUT = dict(reversed(PAIRS))
RICHEST_LAYOUT = {name: "mixed" if (name, "mixed") in PAIRS else FIRST_LAYOUT[name] for name in ZOO}
NAMES = pytest.mark.parametrize("name", ZOO)
BOTH = pytest.mark.parametrize(("name", "layout"), PAIRS)
Make = Callable[[str], tuple[Toy, Inputs]]
# The tensors are tiny: a second thread is only waited for, on a busy machine for long.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(generator: torch.Generator) -> Make:
    def draw(layout: str) -> tuple[Toy, Inputs]:
        toy = make_toy(LAYOUTS[layout], DIM, generator)
        return toy, toy.inputs(draw_batch(LAYOUTS[layout], ROWS, generator))

    return draw


def detached(inputs: Inputs) -> Inputs:
    """The same inputs as data, without the graph to the toy's rows."""
    histories = tuple(replace(h, values=h.values.detach()) for h in inputs.histories)
    return replace(
        inputs,
        fields=inputs.fields.detach(),
        linear=inputs.linear.detach(),
        histories=histories,
    )


@NAMES
def test_it_says_what_it_needs(name: str) -> None:
    layouts = [layout for other, layout in PAIRS if other == name]
    assert layouts
    assert ZOO[name].needs or layouts == list(LAYOUTS)
    assert ZOO[name].paper[-4:].isdigit()


@BOTH
def test_logits_have_a_column_an_output_and_are_finite(name: str, layout: str, make: Make) -> None:
    logits = build(name, layout)(make(layout)[1])
    assert logits.shape == (ROWS, LAYOUTS[layout].num_outputs)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert (logits.std(0) > 0).all()


@NAMES
def test_config_round_trips(name: str) -> None:
    config = ZOO[name].config
    assert config.from_dict(config().to_dict()) == config()
    assert config().replace(dim=5).dim == 5


@NAMES
def test_unknown_settings_and_wrong_sizes_are_refused(name: str) -> None:
    config = ZOO[name].config
    with pytest.raises(ConfigError, match="unknown setting 'dmi'; did you mean 'dim'"):
        config.from_dict({"dmi": 3})
    with pytest.raises(ConfigError, match="dim must be at least 1; got 0"):
        config(dim=0)
    with pytest.raises(ConfigError, match=r"embedding_dropout must be in \[0, 1\); got 1.0"):
        config(embedding_dropout=1.0)


@NAMES
def test_each_number_among_the_settings_has_a_range(name: str) -> None:
    for setting, value in ZOO[name].config().to_dict().items():
        if isinstance(value, bool | str):
            continue
        for wrong in ([0], [-3]) if isinstance(value, list) else (-1, -1.0):
            with pytest.raises(ConfigError, match=setting):
                ZOO[name].config.from_dict({setting: wrong})


@BOTH
def test_a_seed_gives_the_weights(name: str, layout: str) -> None:
    one, same, other = (build(name, layout, seed).state_dict() for seed in (1, 1, 2))
    for key, value in one.items():
        assert torch.equal(value, same[key])
    drawn = [key for key, value in one.items() if value.dim() > 1 and value.std() > 0]
    assert all(not torch.equal(one[key], other[key]) for key in drawn)


@BOTH
def test_gradients_reach_every_parameter(name: str, layout: str, make: Make) -> None:
    net = build(name, layout).train()
    toy, inputs = make(layout)
    (net(inputs) * torch.randn(LAYOUTS[layout].num_outputs, generator=seeded(3))).sum().backward()
    named = dict(net.named_parameters())
    silent = [
        key for key, value in named.items() if value.grad is None or not value.grad.abs().any()
    ]
    assert silent == []
    assert any(value.grad is not None and value.grad.abs().any() for value in toy.parameters())


@BOTH
def test_eval_repeats_itself_and_draws_nothing(name: str, layout: str, make: Make) -> None:
    settings = ZOO[name].config().to_dict()
    changes: dict[str, Any] = {key: 0.5 for key in ("dropout", "dropout_one") if key in settings}
    net = build(name, layout, **changes)
    inputs = make(layout)[1]
    state = torch.get_rng_state()
    first = net(inputs)
    assert torch.equal(first, net(inputs))
    assert torch.equal(state, torch.get_rng_state())
    if changes:
        net.train()
        assert not torch.equal(net(inputs), net(inputs))
    else:
        assert torch.equal(first, net.train()(inputs))


@BOTH
def test_inputs_stay_as_they_are(name: str, layout: str, make: Make) -> None:
    inputs = detached(make(layout)[1])
    before = [inputs.fields.clone(), inputs.linear.clone(), inputs.dense.clone()]
    build(name, layout).train()(inputs)
    after = [inputs.fields, inputs.linear, inputs.dense]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@BOTH
def test_rows_do_not_see_each_other(name: str, layout: str, generator: torch.Generator) -> None:
    net = build(name, layout)
    toy = make_toy(LAYOUTS[layout], DIM, generator)
    batch = draw_batch(LAYOUTS[layout], ROWS, generator)
    logits = net(toy.inputs(batch))
    order = torch.randperm(ROWS, generator=generator)
    torch.testing.assert_close(net(toy.inputs(batch.take(order))), logits[order], **CLOSE)
    # A single row has another history length than the batch, too.
    for row in range(ROWS):
        alone = net(toy.inputs(batch.take(torch.tensor([row]))))
        torch.testing.assert_close(alone[0], logits[row], **CLOSE)


@BOTH
def test_functional_call_equals_the_call(name: str, layout: str, make: Make) -> None:
    net, other = build(name, layout), build(name, layout, seed=2)
    inputs = make(layout)[1]
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    assert torch.equal(functional_call(net, state, (inputs,)), other(inputs))


@BOTH
def test_vmap_over_stacked_nets_equals_a_loop(name: str, layout: str, make: Make) -> None:
    nets = [build(name, layout, seed) for seed in (1, 2, 3)]
    all_inputs = [detached(make(layout)[1]) for _ in nets]
    length = max((h.mask.shape[1] for inputs in all_inputs for h in inputs.histories), default=0)
    all_inputs = [padded(inputs, length) for inputs in all_inputs]
    parameters, buffers = stack_module_state(nets)
    tensors = tuple(torch.stack(parts) for parts in zip(*map(flat, all_inputs), strict=True))

    def call(
        params: dict[str, Tensor], state: dict[str, Tensor], parts: tuple[Tensor, ...]
    ) -> Tensor:
        logits: Tensor = functional_call(nets[0], (params, state), (filled(all_inputs[0], parts),))
        return logits

    together = vmap(call)(parameters, buffers, tensors)
    alone = torch.stack([net(inputs) for net, inputs in zip(nets, all_inputs, strict=True)])
    torch.testing.assert_close(together, alone, **CLOSE)

    def loss(
        params: dict[str, Tensor], state: dict[str, Tensor], parts: tuple[Tensor, ...]
    ) -> Tensor:
        return call(params, state, parts).square().sum()

    slopes = vmap(grad(loss))(parameters, buffers, tensors)
    for place, (net, inputs) in enumerate(zip(nets, all_inputs, strict=True)):
        names, values = zip(*net.named_parameters(), strict=True)
        expected = torch.autograd.grad(net(inputs).square().sum(), values)
        for key, value in zip(names, expected, strict=True):
            # Gradients are larger than logits, and add up over the rows.
            torch.testing.assert_close(slopes[key][place], value, rtol=1e-3, atol=1e-4)


def padded(inputs: Inputs, length: int) -> Inputs:
    histories = []
    for history in inputs.histories:
        more = length - history.mask.shape[1]
        values = nn.functional.pad(history.values, (0, 0, 0, more))
        histories.append(
            replace(history, values=values, mask=nn.functional.pad(history.mask, (0, more)))
        )
    return replace(inputs, histories=tuple(histories))


def flat(inputs: Inputs) -> tuple[Tensor, ...]:
    lists = [part for h in inputs.histories for part in (h.values, h.mask)]
    return (inputs.fields, inputs.linear, inputs.dense, *lists)


def filled(like: Inputs, parts: tuple[Tensor, ...]) -> Inputs:
    fields, linear, dense, *lists = parts
    histories = tuple(
        replace(history, values=lists[2 * i], mask=lists[2 * i + 1])
        for i, history in enumerate(like.histories)
    )
    return Inputs(fields, linear, dense, histories)


@NAMES
def test_second_order_gradients_exist(name: str, make: Make) -> None:
    layout = RICHEST_LAYOUT[name]
    net = build(name, layout)
    inputs = detached(make(layout)[1])

    def loss(params: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(net, params, (inputs,))
        return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    def after_a_step(params: dict[str, Tensor]) -> Tensor:
        slopes = grad(loss)(params)
        return loss({key: value - 0.1 * slopes[key] for key, value in params.items()})

    state = {key: value.detach() for key, value in net.named_parameters()}
    slopes = grad(after_a_step)(state)
    assert all(torch.isfinite(value).all() for value in slopes.values())
    assert any(value.abs().any() for value in slopes.values())


@BOTH
def test_bfloat16_is_close_to_float32(name: str, layout: str, make: Make) -> None:
    net = build(name, layout)
    inputs = make(layout)[1]
    logits = net(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(inputs).float()
    # Eight bits of mantissa, through up to five layers.
    error = (rough - logits).abs().max() / logits.abs().max().clamp(min=1)
    assert error < 0.05


@NAMES
def test_it_learns_a_rule(name: str, generator: torch.Generator) -> None:
    """The label follows from user and item; what is left must be far below a constant's loss."""
    layout = RICHEST_LAYOUT[name]
    toy = make_toy(LAYOUTS[layout], 8, generator)
    batch = draw_batch(LAYOUTS[layout], 256, generator)
    likes = (batch.ids[0] % 2 + batch.ids[1] % 3 >= 2).float()
    columns = [likes, likes * (batch.ids[0] % 4 > 0)][: LAYOUTS[layout].num_outputs]
    labels = torch.stack(columns, dim=-1)
    net = build(name, layout, dim=8).train()
    optimiser = torch.optim.Adam([*net.parameters(), *toy.parameters()], lr=0.05)
    losses = []
    for _ in range(50):
        optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(net(toy.inputs(batch)), labels)
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    rate = labels.mean(0)
    constant = -(rate * rate.log() + (1 - rate) * (1 - rate).log()).mean()
    assert losses[-1] < 0.4 * min(losses[0], float(constant))


@pytest.mark.parametrize(
    ("name", "layout"), [pair for pair in PAIRS if isinstance(build(*pair), TwoTowers)]
)
def test_towers_explain_the_score(name: str, layout: str, make: Make) -> None:
    net = build(name, layout)
    assert isinstance(net, TwoTowers)
    inputs = make(layout)[1]
    users, items = net.towers(inputs)
    torch.testing.assert_close((users * items).sum(-1), net(inputs)[:, 0], **CLOSE)
