"""What single nets promise beyond the contract: known answers, sizes and refusals."""

from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch, make_toy
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.errors import ConfigError
from scalerec.models.inputs import History, Inputs
from scalerec.models.interactions import pair_interaction
from scalerec.models.zoo import ZOO
from scalerec.models.zoo.autoint import AutoInt, AutoIntConfig
from scalerec.models.zoo.dcn_v2 import DCNv2, DCNv2Config
from scalerec.models.zoo.din import DIN, DINConfig
from scalerec.models.zoo.esmm import ESMM, ESMMConfig, product_logit
from scalerec.models.zoo.finalmlp import FinalMLP, FinalMLPConfig
from scalerec.models.zoo.fm import FM, FMConfig
from scalerec.models.zoo.lr import LR, LRConfig
from scalerec.models.zoo.mmoe import MMoE, MMoEConfig
from scalerec.models.zoo.ple import PLE, CgcLevel, PLEConfig
from scalerec.models.zoo.two_tower import TwoTower, TwoTowerConfig
from scalerec.models.zoo.wide_and_deep import WideAndDeep, WideAndDeepConfig

# Another order of float32 sums.
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
IDS, MIXED, FUNNEL, SEVERAL = (LAYOUTS[name] for name in ("ids", "mixed", "funnel", "several"))


def count(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters())


def draw(layout: Layout, generator: torch.Generator, dim: int = 4) -> Inputs:
    return make_toy(layout, dim, generator).inputs(draw_batch(layout, 6, generator))


def shake(net: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.5)


def test_parameter_counts(generator: torch.Generator) -> None:
    size = 3 * 4  # three fields of four
    assert count(LR(IDS, LRConfig(), generator)) == 1
    assert count(FM(IDS, FMConfig(dim=4), generator)) == 1
    wide = WideAndDeepConfig(dim=4, hidden=(5,))
    assert count(WideAndDeep(IDS, wide, generator)) == size * 5 + 5 + 5 + 1
    full = DCNv2Config(dim=4, num_layers=2, hidden=(5,))
    crosses = 2 * (size * size + size)
    assert count(DCNv2(IDS, full, generator)) == crosses + size * 5 + 5 + (size + 5) + 1
    low = DCNv2Config(dim=4, num_layers=2, rank=3, structure="stacked", hidden=(5,))
    crosses = 2 * (2 * size * 3 + size)
    assert count(DCNv2(IDS, low, generator)) == crosses + size * 5 + 5 + 5 + 1
    attention = AutoIntConfig(dim=4, num_layers=2, num_heads=2, head_dim=3)
    layers = 4 * 4 * 6 + 4 * 6 * 6
    assert count(AutoInt(IDS, attention, generator)) == layers + 3 * 6 + 1
    experts = MMoEConfig(dim=4, num_experts=3, expert_hidden=(5,), tower_hidden=(2,))
    towers = 2 * (5 * 2 + 2 + 2 + 1)
    assert count(MMoE(FUNNEL, experts, generator)) == 3 * (size * 5 + 5) + 2 * size * 3 + towers
    levels = PLEConfig(
        dim=4,
        num_levels=2,
        num_task_experts=2,
        num_shared_experts=1,
        expert_hidden=(5,),
        tower_hidden=(2,),
    )
    first = 5 * (size * 5 + 5) + 2 * size * 3 + size * 5
    last = 5 * (5 * 5 + 5) + 2 * 5 * 3
    assert count(PLE(FUNNEL, levels, generator)) == first + last + towers


def test_fm_of_one_output_is_the_papers(generator: torch.Generator) -> None:
    inputs = draw(MIXED, generator)
    expected = inputs.linear + pair_interaction(inputs.fields).sum(-1)
    net = FM(MIXED, FMConfig(dim=4), generator)
    torch.testing.assert_close(net(inputs)[:, 0], expected, **CLOSE)


def test_stacked_and_parallel_differ_only_in_what_the_tower_sees(
    generator: torch.Generator,
) -> None:
    inputs = draw(IDS, generator)
    alone = DCNv2(IDS, DCNv2Config(dim=4, num_layers=1, hidden=()), generator)
    x = inputs.fields.flatten(1)
    assert torch.equal(alone(inputs), alone.out(alone.crosses[0](x, x)))
    stacked = DCNv2(
        IDS, DCNv2Config(dim=4, num_layers=1, structure="stacked", hidden=(5,)), generator
    )
    assert torch.equal(stacked(inputs), stacked.out(stacked.tower(stacked.crosses[0](x, x))))


def test_a_setting_that_nothing_reads_is_refused() -> None:
    for config in (DCNv2Config, AutoIntConfig):
        with pytest.raises(ConfigError, match="dropout and batch_norm belong to the tower"):
            config(hidden=(), dropout=0.1)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("wide-deep", {"batch_norm": True}),
    ("deepfm", {"batch_norm": True}),
    ("dcn-v2", {"rank": 3}),
    ("dcn-v2", {"structure": "stacked", "batch_norm": True}),
    ("dcn-v2", {"hidden": []}),
    ("finalmlp", {"gate": "constant", "batch_norm": True}),
    ("finalmlp", {"gate": "none"}),
    ("autoint", {"hidden": [8], "scale": True, "batch_norm": True}),
    ("din", {"activation": "dice"}),
    ("din", {"softmax": True, "batch_norm": True}),
    ("shared-bottom", {"hidden": []}),
    ("mmoe", {"tower_hidden": []}),
    ("ple", {"num_levels": 1}),
    ("ple", {"num_levels": 3, "num_task_experts": 1, "num_shared_experts": 3}),
    ("two-tower", {"normalise": True, "temperature": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_options_keep_to_the_contract(
    name: str, settings: dict[str, Any], generator: torch.Generator
) -> None:
    config = ZOO[name].config.from_dict({"dim": 4, **settings})
    net = ZOO[name].build(SEVERAL, config, generator).train()
    toy = make_toy(SEVERAL, 4, generator)
    batch = draw_batch(SEVERAL, 6, generator)
    net(toy.inputs(batch)).square().sum().backward()
    named = dict(net.named_parameters())
    # Normalisation takes the bias before it out again, so that has no gradient but rounding.
    assert all(value.grad is not None and value.grad.isfinite().all() for value in named.values())
    assert all(value.grad is not None and value.grad.any() for value in toy.parameters())
    net.eval()
    logits = net(toy.inputs(batch))
    alone = net(toy.inputs(batch.take(torch.tensor([4]))))
    torch.testing.assert_close(alone[0], logits[4], rtol=1e-4, atol=1e-5)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="structure must be one of parallel, stacked; got 'x'"):
        DCNv2Config.from_dict({"structure": "x"})
    with pytest.raises(ConfigError, match="gate must be one of roles, constant, none; got 'x'"):
        FinalMLPConfig(gate="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="activation must be one of sigmoid, dice; got 'x'"):
        DINConfig(activation="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature must be positive; got 0"):
        TwoTowerConfig(temperature=0.0)
    with pytest.raises(
        ConfigError, match="last size of hidden_two must be a multiple of num_heads=3"
    ):
        FinalMLPConfig(hidden_one=(6,), hidden_two=(8,), num_heads=3)


@pytest.mark.parametrize("gate", ["roles", "constant", "none"])
def test_finalmlp_gates_see_what_they_should(gate: str, generator: torch.Generator) -> None:
    config = FinalMLPConfig.from_dict(
        {"dim": 4, "gate": gate, "hidden_one": [6], "hidden_two": [4], "num_heads": 2}
    )
    net = FinalMLP(MIXED, config, generator)
    assert (net.one.gate is None) == (gate == "none")
    if gate == "roles":
        assert net.one.seen == MIXED.fields_of(Role.USER)
        assert net.two.seen == MIXED.fields_of(Role.ITEM)
    else:
        assert net.one.seen == []
    assert net(draw(MIXED, generator)).shape == (6, 1)


def test_mmoe_is_a_loop_over_tasks_and_experts(generator: torch.Generator) -> None:
    net = MMoE(FUNNEL, MMoEConfig(dim=4, num_experts=3, expert_hidden=(5,)), generator)
    shake(net, generator)
    inputs = draw(FUNNEL, generator)
    x = inputs.fields.flatten(1)
    mixed = []
    for task in range(2):
        share = (x @ net.gate.weight[task]).softmax(-1)
        weights, biases = net.experts.weights[0], net.experts.biases[0]
        tops = [(x @ weights[e] + biases[e]).relu() for e in range(3)]
        mixed.append(sum(share[:, e, None] * tops[e] for e in range(3)))
    torch.testing.assert_close(net(inputs), net.heads(torch.stack(mixed)), **CLOSE)


def test_ple_is_a_loop_over_levels_groups_and_experts(generator: torch.Generator) -> None:
    config = PLEConfig(dim=4, num_task_experts=2, num_shared_experts=1, expert_hidden=(5,))
    net = PLE(FUNNEL, config, generator)
    shake(net, generator)
    inputs = draw(FUNNEL, generator)
    states: list[Tensor] = [inputs.fields.flatten(1)] * 3  # two tasks, then the shared part
    for level in net.levels:
        assert isinstance(level, CgcLevel)
        weights, biases = level.experts.weights[0], level.experts.biases[0]
        owners = [0, 0, 1, 1, 2]
        tops = [(states[owner] @ weights[e] + biases[e]).relu() for e, owner in enumerate(owners)]
        after = []
        for task in range(2):
            seen = [tops[2 * task], tops[2 * task + 1], tops[4]]
            share = (states[task] @ level.task_gate.weight[task]).softmax(-1)
            after.append(sum((share[:, i, None] * top for i, top in enumerate(seen)), Tensor([0])))
        if level.shared_gate is not None:
            share = (states[2] @ level.shared_gate.weight[0]).softmax(-1)
            after.append(sum((share[:, i, None] * top for i, top in enumerate(tops)), Tensor([0])))
        states = after
    assert len(states) == 2
    torch.testing.assert_close(net(inputs), net.heads(torch.stack(states)), **CLOSE)


def test_esmm_gives_the_logit_of_the_product(generator: torch.Generator) -> None:
    net = ESMM(FUNNEL, ESMMConfig(dim=4, hidden=(5,)), generator)
    inputs = draw(FUNNEL, generator)
    click, after = net.heads(inputs.fields.flatten(1)).unbind(-1)
    logits = net(inputs)
    assert torch.equal(logits[:, 0], click)
    torch.testing.assert_close(logits[:, 1].sigmoid(), click.sigmoid() * after.sigmoid(), **CLOSE)


def test_the_products_logit_is_stable() -> None:
    one = torch.tensor([200.0, -200.0, 200.0, -200.0, 0.0], requires_grad=True)
    two = torch.tensor([200.0, 200.0, -3.0, -200.0, 0.0], requires_grad=True)
    logits = product_logit(one, two)
    # sigmoid(200) is 1: the other decides. Two of 200 leave log 2 less; 1/4 has logit -log 3.
    expected = torch.tensor([200 - 0.693147, -200.0, -3.0, -400.0, -1.098612])
    torch.testing.assert_close(logits.detach(), expected)
    logits.sum().backward()
    assert one.grad is not None
    assert two.grad is not None
    assert torch.isfinite(one.grad).all()
    assert torch.isfinite(two.grad).all()


def test_esmm_refuses_other_tasks(generator: torch.Generator) -> None:
    words = r"exactly two binary tasks, the click and then the conversion; got liked \(binary\)$"
    with pytest.raises(ConfigError, match=words):
        ESMM(IDS, ESMMConfig(), generator)
    tasks = (Task(name="click"), Task(name="price", kind=TaskKind.REGRESSION))
    with pytest.raises(ConfigError, match=r"price \(regression\)"):
        ESMM(IDS.replace(tasks=tasks), ESMMConfig(), generator)


@pytest.mark.parametrize("activation", ["sigmoid", "dice"])
def test_din_with_a_masked_history_is_din_without_one(
    activation: str, generator: torch.Generator
) -> None:
    config = DINConfig.from_dict({"dim": 4, "activation": activation})
    net = DIN(MIXED, config, generator).eval()
    inputs = draw(MIXED, generator)
    (history,) = inputs.histories
    masked = History(history.values, torch.zeros_like(history.mask), history.target)
    none = History(torch.zeros(6, 1, 4), torch.zeros(6, 1, dtype=torch.bool), history.target)
    logits = [
        net(Inputs(inputs.fields, inputs.linear, inputs.dense, (one,))) for one in (masked, none)
    ]
    assert torch.isfinite(logits[0]).all()
    assert torch.equal(*logits)
    assert not torch.equal(net(inputs), logits[0])


def test_din_reads_the_history_by_the_item(generator: torch.Generator) -> None:
    net = DIN(MIXED, DINConfig(dim=4), generator)
    assert net.targets == [1]
    # All fields but the history's mean, whose place the pooled history takes.
    assert net.kept == [0, 1, 2, 3, 4, 5, 7]


def test_din_refuses_layouts_without_history_or_target(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match=r"din needs a history, .* the layout has none"):
        DIN(IDS, DINConfig(), generator)
    orphan = MIXED.replace(ids=[MIXED.ids[0].to_dict()])
    with pytest.raises(ConfigError, match="shares the table 'item' with the history 'seen'"):
        DIN(orphan, DINConfig(), generator)


def test_two_tower_vectors_have_length_one_and_a_temperature(generator: torch.Generator) -> None:
    config = TwoTowerConfig(dim=4, normalise=True, temperature=0.1, vector_dim=5)
    net = TwoTower(MIXED, config, generator)
    users, items = net.towers(draw(MIXED, generator))
    assert users.shape == items.shape == (6, 5)
    # The number under the root shortens them by about a millionth over their square.
    torch.testing.assert_close(items.norm(dim=-1), torch.ones(6), rtol=1e-3, atol=0)
    torch.testing.assert_close(users.norm(dim=-1), torch.full((6,), 10.0), rtol=1e-3, atol=0)


def test_two_tower_keeps_the_sides_apart(generator: torch.Generator) -> None:
    net = TwoTower(SEVERAL, TwoTowerConfig(dim=4), generator)
    inputs = draw(SEVERAL, generator)
    users, items = net.towers(inputs)
    places = SEVERAL.fields_of(Role.ITEM)
    changed = inputs.fields.detach().clone()
    changed[:, places] = 0
    other = Inputs(changed, inputs.linear, inputs.dense, inputs.histories)
    new_users, new_items = net.towers(other)
    assert torch.equal(users, new_users)
    assert not torch.equal(items, new_items)
    # All rows now have the same item: a zero vector's gradient must stay finite.
    assert torch.equal(new_items[0], new_items[1])


def test_two_tower_refuses_one_sided_layouts(generator: torch.Generator) -> None:
    items = IDS.replace(ids=[IDS.ids[1].to_dict()])
    users = IDS.replace(ids=[IDS.ids[0].to_dict()])
    with pytest.raises(ConfigError, match="feature of role user or context; the layout has none"):
        TwoTower(items, TwoTowerConfig(), generator)
    with pytest.raises(ConfigError, match="feature of role item; the layout has none"):
        TwoTower(users, TwoTowerConfig(), generator)
