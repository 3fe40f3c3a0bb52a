"""Scoring split by field: against the recommender on the pairs themselves, for every net.

Scores agree to 1e-4: a first layer's sum is made in two parts, and a sum of pairs by squares.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor, nn

from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import IdField, Layout, NumberField
from scalerec.data.pairing import RoleFilter, pair
from scalerec.data.schema import Role, Task
from scalerec.errors import ConfigError
from scalerec.models.forming import formed, quantise_linear
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.layers import dense_weight
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.split import affine_of
from scalerec.models.zoo import ZOO
from scalerec.scoring import split
from scalerec.scoring.split import SplitScorer, split_width

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
ITEMS = 13
# AutoInt attends over fields, DIN reads histories by the item, two towers are split already, and
# FinalMLP's gates see a user's fields for the item's and the other way round.
WHOLE = {"autoint", "din", "two-tower"}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ZOO if name not in WHOLE),
    ("finalmlp", {"gate": "constant"}),
    ("finalmlp", {"gate": "none", "batch_norm": True}),
    ("deepfm", {"batch_norm": True, "dropout": 0.5}),
    ("deepfm", {"hidden": []}),
    ("wide-deep", {"hidden": [20], "batch_norm": True}),
    ("wide-deep", {"hidden": [20, 12, 7], "dropout": 0.3}),
    ("dcn-v2", {"structure": "stacked", "batch_norm": True}),
    ("dcn-v2", {"rank": 3, "num_layers": 1}),
    ("dcn-v2", {"hidden": []}),
    ("shared-bottom", {"hidden": []}),
    ("shared-bottom", {"hidden": [], "tower_hidden": []}),
    ("mmoe", {"tower_hidden": [], "expert_hidden": [6, 5]}),
    ("ple", {"num_levels": 1}),
    ("ple", {"num_levels": 3, "num_task_experts": 1}),
    ("esmm", {"hidden": []}),
]
SETTINGS = [
    (name, layout, settings)
    for name, settings in VARIANTS
    for layout in LAYOUTS
    if (name == "esmm") <= (layout == "funnel")
]


def make(name: str, layout: Layout, **settings: object) -> Recommender:
    """A recommender with lively weights everywhere, running means included."""
    sizes = {
        key: [20] * max(1, len(value))
        for key, value in ZOO[name].config().to_dict().items()
        if isinstance(value, list)
    }
    spec = ModelSpec(model=name, settings={**sizes, "dim": 4, **settings}, init_std=0.4)
    recommender = build_recommender(layout, spec, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, tensor in recommender.to_tensors().items():
            if tensor.is_floating_point() and not key.startswith("tables."):
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
        for table in layout.tables:
            own = recommender.tables.table(table)
            own[:, -1].copy_(torch.randn(len(own), generator=generator))
        recommender.tables.keep_padding_zero()
    return recommender.eval()


def sides(layout: Layout, users: int = 3) -> tuple[Batch, Batch]:
    """Users and a catalogue, with ids that are padding and out-of-vocabulary among them."""
    generator = torch.Generator().manual_seed(3)
    rows, items = (draw_batch(layout, size, generator) for size in (users, ITEMS))
    rows.ids[:, 0], items.ids[:, :2] = 1, torch.tensor([0, 1])
    asking = RoleFilter(layout, (Role.USER, Role.CONTEXT))(rows)
    return asking, RoleFilter(layout, (Role.ITEM,))(items)


@torch.no_grad()
def on_pairs(recommender: Recommender, users: Batch, items: Batch, index: Tensor) -> Tensor:
    rows = pair(recommender.layout, users, items, index.expand(len(users), -1))
    logits: Tensor = recommender(rows)
    return logits


def row(batch: Batch, number: int) -> Batch:
    return batch.take(torch.tensor([number]))


@pytest.mark.parametrize(("name", "layout", "settings"), SETTINGS)
def test_against_the_pairs(name: str, layout: str, settings: dict[str, Any]) -> None:
    recommender = make(name, LAYOUTS[layout], **settings)
    if name == "finalmlp" and not settings:
        assert split_width(recommender) is None
        return
    users, items = sides(LAYOUTS[layout])
    scorer = SplitScorer(recommender, items)
    candidates = torch.tensor([4, 0, 12, 1, 4, 7, 9, 2, 3, 11])
    for number in range(len(users)):
        user = row(users, number)
        expected = on_pairs(recommender, user, items, candidates)
        torch.testing.assert_close(scorer(user, candidates), expected, **CLOSE)
        own = items.take(candidates)
        torch.testing.assert_close(scorer.score_items(user, own), expected, **CLOSE)
    whole = on_pairs(recommender, users, items, torch.arange(ITEMS))
    for output in range(whole.shape[1]):
        expected = whole[:, output].view(len(users), ITEMS)
        torch.testing.assert_close(scorer.catalogue(users, output), expected, **CLOSE)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_nets_that_are_scored_whole(name: str) -> None:
    recommender = make(name, LAYOUTS["mixed"])
    assert split_width(recommender) is None
    with pytest.raises(ConfigError, match=f"model '{name}' cannot be split by field here"):
        SplitScorer(recommender, empty_batch(LAYOUTS["mixed"], 2))


def test_no_candidates() -> None:
    recommender = make("deepfm", LAYOUTS["several"])
    users, items = sides(LAYOUTS["several"])
    none = torch.zeros(0, dtype=torch.int64)
    assert SplitScorer(recommender, items)(row(users, 1), none).shape == (0, 5)


@pytest.mark.parametrize("rows", [1, 5, 13, 30])
def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    recommender = make("deepfm", LAYOUTS["mixed"])
    users, items = sides(LAYOUTS["mixed"])
    whole = SplitScorer(recommender, items).catalogue(users)
    monkeypatch.setattr(split, "ROWS_AT_A_TIME", rows)
    torch.testing.assert_close(SplitScorer(recommender, items).catalogue(users), whole, **CLOSE)


def test_a_users_row_may_be_a_whole_event() -> None:
    layout = LAYOUTS["mixed"]
    recommender, (_, items) = make("deepfm", layout), sides(layout)
    events = draw_batch(layout, 2, torch.Generator().manual_seed(5))
    before = events.ids.clone()
    found = SplitScorer(recommender, items)(row(events, 1), torch.arange(ITEMS))
    expected = on_pairs(recommender, row(events, 1), items, torch.arange(ITEMS))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert torch.equal(events.ids, before)


@pytest.mark.parametrize(("stored", "size", "error"), [("float16", 2, 2e-3), ("int8", 1, 3e-2)])
def test_smaller_items(stored: Any, size: int, error: float) -> None:
    recommender = make("deepfm", LAYOUTS["mixed"])
    users, items = sides(LAYOUTS["mixed"])
    scorer = SplitScorer(recommender, items, stored=stored)
    # Twenty sums, and a scale with int8; totals of four dimensions, and one logit.
    scale = 4 if stored == "int8" else 0
    assert scorer.num_bytes == ITEMS * (20 * size + scale + 5 * 4)
    assert SplitScorer(recommender, items).num_bytes == ITEMS * 25 * 4
    expected = on_pairs(recommender, users, items, torch.arange(ITEMS)).view(3, ITEMS)
    found = scorer.catalogue(users)
    assert (found - expected).abs().max() < error * expected.std()
    assert not torch.equal(found, expected)


def test_dropout_is_off_and_the_mode_is_kept() -> None:
    recommender = make("mmoe", LAYOUTS["mixed"], dropout=0.5, embedding_dropout=0.5)
    users, items = sides(LAYOUTS["mixed"])
    expected = on_pairs(recommender, users, items, torch.arange(ITEMS)).view(3, ITEMS)
    scorer = SplitScorer(recommender.train(), items)
    torch.testing.assert_close(scorer.catalogue(users), expected, **CLOSE)
    assert recommender.training


def test_a_factorisation_machine_by_hand() -> None:
    layout = Layout(
        ids=(
            IdField(name="user", role=Role.USER, table="user"),
            IdField(name="item", role=Role.ITEM, table="item"),
        ),
        numbers=(NumberField(name="price", role=Role.ITEM),),
        tables={"user": 3, "item": 3},
        tasks=(Task(name="liked"),),
    )
    recommender = make("fm", layout, dim=2)
    tensors = recommender.to_tensors()
    tensors["tables.user.weight"][2] = torch.tensor([1.0, 2.0, 0.5])
    tensors["tables.item.weight"][2] = torch.tensor([3.0, -1.0, 0.25])
    tensors["embedder.numbers"][0] = torch.tensor([2.0, 1.0, 4.0])
    tensors["net.first_order.bias"][0] = 10.0
    user, item = empty_batch(layout, 1), empty_batch(layout, 1)
    user.ids[0], item.ids[1], item.dense[0, 0] = 2, 2, 0.5
    # First order: .5 + .25 + .5 * 4 + 10. Pairs: (1, 2) (3, -1) = 1; (1, 2) (1, .5) = 2;
    # (3, -1) (1, .5) = 2.5.
    scorer = SplitScorer(recommender, item)
    assert scorer(user, torch.tensor([0])).tolist() == [[12.75 + 5.5]]
    assert split_width(recommender) == 3


FORMS: dict[str, Forms] = {
    "tables of few bits": Forms(
        tables={"user": TableForm(bits=8), "item": TableForm(bits=4), "genre": TableForm(bits=16)}
    ),
    "shared rows": Forms(tables={"item": TableForm(rows=6, sharing="hash")}),
    "narrow tables": Forms(tables={"item": TableForm(dim=2)}),
    "fields left out": Forms(fields=("day", "image", "age")),
    "recalibrated": Forms(recalibrated=True),
    "halves": Forms(layers={f"net.tower.{n}": LayerForm(bits=16) for n in (0, 2, 4)}),
    "factors": Forms(layers={f"net.tower.{n}": LayerForm(rank=3) for n in (0, 2)}),
    "whole numbers above": Forms(layers={"net.tower.2": LayerForm(bits=8)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms(form: str) -> None:
    recommender = make("deepfm", LAYOUTS["mixed"], hidden=[20, 20])
    users, items = sides(LAYOUTS["mixed"])
    forms = FORMS[form]
    if any(own.is_shaped for own in forms.tables.values()) or forms.fields:
        new = build_recommender(LAYOUTS["mixed"], replace(recommender.spec, forms=forms), 4).eval()
    else:
        new = formed(recommender, forms)
    if new.calibration is not None:
        new.calibration.scale.fill_(2.0)
        new.calibration.shift.fill_(0.5)
    expected = on_pairs(new, users, items, torch.arange(ITEMS)).view(3, ITEMS)
    # A layer of whole numbers may round an input to the next code.
    close = {"rtol": 1e-2, "atol": 2e-2} if form.startswith("whole") else CLOSE
    torch.testing.assert_close(SplitScorer(new, items).catalogue(users), expected, **close)


def test_a_first_layer_of_whole_numbers_is_computed_in_float() -> None:
    layer = {"net.tower.0": LayerForm(bits=8)}
    recommender = make("wide-deep", LAYOUTS["mixed"], hidden=[20, 20])
    users, items = sides(LAYOUTS["mixed"])
    found = SplitScorer(formed(recommender, Forms(layers=layer)), items).catalogue(users)
    with torch.no_grad():
        first = recommender.net.get_submodule("tower.0")
        assert isinstance(first, nn.Linear)
        first.weight.copy_(dense_weight(quantise_linear(first)))
    expected = on_pairs(recommender, users, items, torch.arange(ITEMS)).view(3, ITEMS)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("most", [0, 2**23])
@pytest.mark.parametrize("name", ["lr", "fm", "deepfm", "dcn-v2", "ple"])
def test_users_prepared_and_read(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and ids of users, contexts and items, without lists."""
    layout = LAYOUTS["several"].replace(bags=(), vectors=())
    monkeypatch.setattr(split, "NUMBERS_OF_ASKING", most)
    recommender = make(name, layout)
    users, items = draw_batch(layout, 3, torch.Generator().manual_seed(1)), sides(layout)[1]
    users.ids[0, 0] = 0
    scorer = SplitScorer(recommender, items)
    width = split_width(recommender)
    assert width is not None
    # Ids of 12 users and 5 days.
    assert scorer.num_bytes == (ITEMS + (17 if most else 0)) * width * 4
    whole = on_pairs(recommender, users, items, torch.arange(ITEMS))
    for output in range(whole.shape[1]):
        expected = whole[:, output].view(3, ITEMS)
        torch.testing.assert_close(scorer.catalogue(users, output), expected, **CLOSE)


def test_padding_that_is_not_zero_is_scored_whole() -> None:
    recommender = make("deepfm", LAYOUTS["mixed"])
    recommender.tables.table("item")[0] = 1.0
    assert split_width(recommender) is None


def test_no_items_or_nothing_but_items() -> None:
    layout = LAYOUTS["ids"]
    for role in (Role.ITEM, Role.CONTEXT):
        ids = tuple(replace(field, role=role) for field in layout.ids)
        assert split_width(make("deepfm", layout.replace(ids=ids))) is None
    scorer = SplitScorer(make("deepfm", layout), empty_batch(layout, 0))
    assert scorer.catalogue(empty_batch(layout, 2)).shape == (2, 0)


def test_words_for_wrong_requests() -> None:
    layout = LAYOUTS["ids"]
    recommender, (users, items) = make("deepfm", layout), sides(layout)
    scorer = SplitScorer(recommender, items)
    with pytest.raises(ConfigError, match="a request must have one row of a user; got 3"):
        scorer(users, torch.tensor([0]))
    with pytest.raises(IndexError, match="candidates must be from 0 to 12; got -1 to 13"):
        scorer(row(users, 0), torch.tensor([13, -1]))
    with pytest.raises(ConfigError, match=r"candidates must be int64 \[K\]; got torch.int32 \[1\]"):
        scorer(row(users, 0), torch.tensor([0], dtype=torch.int32))
    wrong: Any = "int4"
    with pytest.raises(ConfigError, match="stored must be one of float32, float16, int8; got"):
        SplitScorer(recommender, items, stored=wrong)


class Doubled(nn.Module):
    """An affine layer of its own kind."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.flip(-1) + 1


def test_the_weights_of_any_affine_layer() -> None:
    weight, bias = affine_of(Doubled(), 3)
    assert weight.tolist() == [[0, 0, 2], [0, 2, 0], [2, 0, 0]]
    assert bias is not None
    assert bias.tolist() == [1, 1, 1]
    layer = nn.Linear(2, 3, bias=False)
    assert affine_of(layer, 2) == (layer.weight, None)
