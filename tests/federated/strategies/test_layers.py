"""Which layers a model ends with, for every net of the zoo."""

from typing import Any

import pytest
import torch
from tests.contracts.test_zoo import PAIRS, RICHEST_LAYOUT
from tests.federated.strategies.tiny import make, one_weight, tabled, train
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor, nn

from scalerec.errors import ConfigError
from scalerec.federated.cohorts import gather_cohort
from scalerec.federated.local import LocalConfig
from scalerec.federated.strategies.layers import ENDS, last_layers
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.train.cohort.models import RecommenderModel
from scalerec.train.cohort.module_model import ModuleModel

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = LocalConfig(batch_size=4, lr=0.05, rows_lr=0.1)
TOWER = ["net.tower.6.weight", "net.tower.6.bias"]
HEADS = ["net.heads.weight", "net.heads.bias"]
FUSION = ["weight", "one.weight", "one.bias", "two.weight"]
LAST: dict[str, list[str]] = {
    "autoint": ["net.out.weight", "net.out.bias", "net.tower.2.weight", "net.tower.2.bias"],
    "dcn-v2": ["net.out.weight", "net.out.bias"],
    "deepfm": TOWER,
    "din": ["net.tower.4.weight", "net.tower.4.bias"],
    "esmm": HEADS,
    "finalmlp": [f"net.fusion.{name}" for name in FUSION],
    "fm": ["net.first_order.own.weight", "net.own.weight"],
    "lr": ["net.first_order.own.weight"],
    "mmoe": HEADS,
    "ple": HEADS,
    "shared-bottom": HEADS,
    "two-tower": ["net.user.4.weight", "net.user.4.bias"],
    "wide-deep": TOWER,
}


def is_one_sum(name: str, layout: str) -> bool:
    """Whether a net has one output, which is a sum of weights of rows."""
    return name in ("lr", "fm") and LAYOUTS[layout].num_outputs == 1


@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_the_last_layers_are_between_all_others_and_the_logits(name: str, layout: str) -> None:
    if is_one_sum(name, layout):
        return
    ground, parameters = tabled(LOCAL, name=name, layout=layout)
    model: Any = ground.model
    last = last_layers(model)
    assert last == LAST[name]
    cohort = gather_cohort(model, ground.holdings, torch.arange(1).numpy())
    rows = parameters.tables["embeddings"][cohort.rows]
    examples = torch.from_numpy(cohort.order[: int(cohort.sizes[0])].copy())
    batch = model.take(examples, torch.zeros_like(examples), torch.ones(len(examples)))

    def gradients(zeroed: bool) -> dict[str, Tensor]:
        dense = {
            key: tensor.clone().mul_(0.0 if zeroed and key in last else 1.0).requires_grad_()
            for key, tensor in model.dense.items()
        }
        stacked = {key: tensor.unsqueeze(0) for key, tensor in dense.items()}
        logits = model.score(stacked, rows, batch, 1)
        total = logits.square().sum() + logits.sum()
        found = torch.autograd.grad(total, list(dense.values()), allow_unused=True)
        return {
            key: torch.zeros(1) if own is None else own
            for key, own in zip(dense, found, strict=True)
        }

    # Each of them matters, and nothing of the net does where they are zero.
    found = gradients(zeroed=False)
    assert all(bool(found[key].any()) for key in last)
    blocked = gradients(zeroed=True)
    below = {key for key in model.dense if key.startswith("net.") and key not in last}
    below -= {"net.first_order.bias"}
    assert not any(bool(blocked[key].any()) for key in below)


def test_every_net_has_its_row() -> None:
    assert set(ENDS) == set(ZOO) == set(LAST)


@pytest.mark.parametrize("name", ["lr", "fm"])
def test_a_sum_of_rows_has_no_last_layer(name: str) -> None:
    ground, _ = tabled(LOCAL, name=name, layout="mixed")
    with pytest.raises(ConfigError, match=f"{name} with one output has no layer above its sums"):
        make("fedper", ground)
    assert list(make("fedper", ground, personal=("net.first_order.*",)).initial) == [
        "net.first_order.bias"
    ]


def test_a_net_without_a_tower_ends_with_what_is_beside_it() -> None:
    spec = ModelSpec.from_dict({"model": "autoint", "settings": {"dim": 4, "hidden": []}})
    recommender = build_recommender(LAYOUTS["ids"], spec, 1)
    batch = draw_batch(LAYOUTS["ids"], 3, torch.Generator().manual_seed(1))
    model = RecommenderModel(recommender, batch)
    assert last_layers(model) == ["net.out.weight", "net.out.bias"]


def test_a_module_ends_with_the_holder_of_its_last_parameter() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    model = ModuleModel(module, torch.zeros(1, 2), torch.zeros(1), lambda out, y: out[:, 0] - y)
    assert last_layers(model) == ["2.weight", "2.bias"]


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"lr", "fm"}))
def test_what_stays_is_neither_sent_nor_counted(name: str) -> None:
    ground, parameters = tabled(LOCAL, name=name, layout=RICHEST_LAYOUT[name])
    method = make("fedper", ground)
    trained = train(method, parameters, [0, 2, 3], 0)
    shared = sum(tensor[0].numel() for tensor in trained.update.dense.values())
    traffic = method.traffic(trained.cohort)
    assert traffic.down.tolist() == traffic.up.tolist() == [shared] * 3
    own = sum(tensor.numel() for tensor in method.initial.values())
    assert shared + own == sum(tensor.numel() for tensor in ground.model.dense.values())


def test_one_number_cannot_be_split() -> None:
    ground, _ = one_weight(LOCAL)
    with pytest.raises(ConfigError, match="must leave some parameters to be shared"):
        make("fedper", ground)
