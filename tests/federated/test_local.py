"""Local training of many parties at once, held to the loop over them, for every net of the zoo."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.contracts.test_zoo import DIM, PAIRS, config_of, seeded
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor, nn

from scalerec.data.schema import TaskKind
from scalerec.federated.alone import train_alone
from scalerec.federated.cohorts import Cohort, gather_cohort
from scalerec.federated.local import Local, LocalConfig, Pull, train_cohort
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.train.cohort.holdings import Holdings, hold, hold_examples
from scalerec.train.cohort.models import PartyModel, RecommenderModel
from scalerec.train.cohort.module_model import ModuleModel, class_losses

SIZES = [5, 1, 9, 3, 12]
# The same steps in float32, with sums in other orders.
CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}
CHOSEN = np.array([3, 0, 4, 1], np.int64)
pytestmark = pytest.mark.usefixtures("one_thread")


def spread(sizes: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Examples dealt out at random, a few of them to nobody."""
    order = np.random.default_rng(3).permutation(sum(sizes) + 4)[: sum(sizes)]
    return order, np.concatenate([[0], np.cumsum(sizes)])


def recommender_of(name: str, layout: str) -> Recommender:
    settings = {**config_of(name).to_dict(), "dim": DIM}
    spec = ModelSpec.from_dict({"model": name, "settings": settings, "init_std": 0.3})
    return build_recommender(LAYOUTS[layout], spec, 1)


def drawn(name: str, layout: str) -> tuple[RecommenderModel, Holdings, Tensor]:
    """A model, what five parties hold of it, and the matrix of its tables."""
    recommender = recommender_of(name, layout)
    order, offsets = spread(SIZES)
    generator = seeded(2)
    batch = draw_batch(LAYOUTS[layout], sum(SIZES) + 4, generator)
    labels = torch.randint(2, batch.labels.shape, generator=generator).float()
    known = torch.rand(batch.labels.shape, generator=generator) < 0.8
    weights = torch.rand(len(batch), generator=generator)
    batch = replace(batch, labels=labels, label_mask=known, weights=weights)
    holdings, local = hold(batch, recommender.tables, order, offsets)
    return RecommenderModel(recommender, local), holdings, recommender.tables.matrix.clone()


def both(
    model: PartyModel, holdings: Holdings, matrix: Tensor, config: LocalConfig, pull: bool
) -> tuple[Local, Local]:
    """What the batched way gives, and the loop."""
    cohort = gather_cohort(model, holdings, CHOSEN)
    rows = matrix[cohort.rows]
    starts = {name: tensor.unsqueeze(0) for name, tensor in model.dense.items()}
    own = drawn_pull(model, cohort, rows) if pull else None
    args = (cohort, starts, rows, config, (7, 2), own)
    return train_cohort(*args), train_alone(*args)


def drawn_pull(model: PartyModel, cohort: Cohort, rows: Tensor) -> Pull:
    generator = seeded(4)

    def noise() -> dict[str, Tensor]:
        return {
            name: torch.randn(len(cohort), *tensor.shape, generator=generator) * 0.1
            for name, tensor in model.dense.items()
        }

    shift_rows = torch.randn(rows.shape, generator=generator) * 0.1
    return Pull(noise(), rows + 0.1, 0.3, noise(), shift_rows)


def check(found: Local, wanted: Local) -> None:
    assert torch.equal(found.steps, wanted.steps)
    torch.testing.assert_close(found.losses, wanted.losses, **CLOSE)
    torch.testing.assert_close(found.moved_rows, wanted.moved_rows, **CLOSE)
    for name, tensor in wanted.moved.items():
        torch.testing.assert_close(found.moved[name], tensor, **CLOSE, msg=name)


def federable(name: str, layout: str) -> bool:
    return all(task.kind is not TaskKind.RETRIEVAL for task in LAYOUTS[layout].tasks)


@pytest.mark.parametrize(("name", "layout"), [pair for pair in PAIRS if federable(*pair)])
def test_batched_is_the_loop(name: str, layout: str) -> None:
    model, holdings, matrix = drawn(name, layout)
    config = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.2)
    found, wanted = both(model, holdings, matrix, config, pull=False)
    check(found, wanted)
    assert found.moved_rows.any()
    assert found.steps.tolist() == [2 * -(-size // 4) for size in (12, 5, 3, 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        {"l2": 0.1},
        {"max_norm": 0.05},
        {"batch_size": 0},
        {"batch_size": 100, "epochs": 3},
        {"momentum": 0.5, "l2": 0.1, "max_norm": 0.5, "epochs": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("pull", [False, True])
def test_settings_of_both_ways(changes: dict[str, Any], pull: bool) -> None:
    model, holdings, matrix = drawn("deepfm", "mixed")
    config = LocalConfig(**{"lr": 0.05, "rows_lr": 0.2, "batch_size": 4, **changes})
    check(*both(model, holdings, matrix, config, pull))


def test_one_step_by_hand() -> None:
    """A linear model of one weight: the loss is (w x - y)^2, its gradient 2 x (w x - y)."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    inputs, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([3.0, 2.0, 0.0])
    model = ModuleModel(module, inputs, labels, lambda out, y: (out[:, 0] - y).square())
    holdings = hold_examples(np.array([0, 1, 2]), np.array([0, 1, 3]))
    cohort = gather_cohort(model, holdings, np.array([0, 1]))
    starts = {"weight": module.weight.detach().unsqueeze(0)}
    config = LocalConfig(batch_size=0, lr=0.1)
    found = train_cohort(cohort, starts, torch.zeros(0, 1), config, (1, 1))
    # Party 1 has gradients 0 and 2 * 3 * 3, whose mean is 9; party 0 has 2 * 1 * (1 - 3) = -4.
    assert cohort.parties.tolist() == [1, 0]
    # They end at 0.1 and 1.4.
    torch.testing.assert_close(found.moved["weight"].flatten(), torch.tensor([-0.9, 0.4]))
    torch.testing.assert_close(found.losses, torch.tensor([4.5, 4.0]))


def test_losses_of_classes() -> None:
    logits = torch.randn(7, 10, generator=seeded(5)).mul_(20).requires_grad_()
    labels = torch.arange(7)
    found = class_losses(logits, labels)
    wanted = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(losses.sum(), logits)[0] for losses in (found, wanted)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("plain", [True, False])
def test_padding_stays_zero(plain: bool) -> None:
    """Though it is read, as an absent id, and whatever pulls."""
    recommender = recommender_of("deepfm", "mixed")
    order, offsets = spread(SIZES)
    batch = draw_batch(LAYOUTS["mixed"], sum(SIZES) + 4, seeded(2))
    batch.ids[:, ::3] = 0
    holdings, local = hold(batch, recommender.tables, order, offsets)
    model, matrix = RecommenderModel(recommender, local), recommender.tables.matrix.clone()
    momentum = 0.0 if plain else 0.5
    config = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.2, momentum=momentum)
    found, wanted = both(model, holdings, matrix, config, pull=not plain)
    check(found, wanted)
    cohort = gather_cohort(model, holdings, CHOSEN)
    assert int(cohort.still.sum()) > len(CHOSEN)
    assert not found.moved_rows[cohort.still].any()


def test_a_party_does_not_depend_on_the_others() -> None:
    model, holdings, matrix = drawn("deepfm", "mixed")
    config = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.2)
    whole, _ = both(model, holdings, matrix, config, pull=False)
    cohort = gather_cohort(model, holdings, np.array([0]))
    starts = {name: tensor.unsqueeze(0) for name, tensor in model.dense.items()}
    args = (cohort, starts, matrix[cohort.rows], config, (7, 2))
    alone = train_cohort(*args)
    whole_cohort = gather_cohort(model, holdings, CHOSEN)
    place = whole_cohort.parties.tolist().index(0)
    low, high = whole_cohort.offsets[place : place + 2]
    torch.testing.assert_close(alone.moved_rows, whole.moved_rows[low:high], **CLOSE)


def test_what_is_held_by_nobody_is_left_out() -> None:
    recommender = recommender_of("lr", "mixed")
    batch = draw_batch(LAYOUTS["mixed"], 6, seeded(2))
    holdings, local = hold(batch, recommender.tables, np.array([4, 0, 2]), np.array([0, 1, 1, 3]))
    rows = recommender.tables.rows_of(batch)[: batch.ids.numel()].view(batch.ids.shape)
    for party, examples in enumerate([[4], [], [0, 2]]):
        low, high = holdings.row_offsets[party], holdings.row_offsets[party + 1]
        own = holdings.rows[low:high]
        assert torch.equal(own, own.unique())
        for example in examples:
            assert torch.equal(own[local.ids[:, example]], rows[:, example])
    assert holdings.sizes.tolist() == [1, 0, 2]


def test_models_that_cannot_be_federated() -> None:
    spec = ModelSpec(model="deepfm", settings={"hidden": [4], "batch_norm": True})
    recommender = build_recommender(LAYOUTS["mixed"], spec, 1)
    batch = draw_batch(LAYOUTS["mixed"], 3, seeded(1))
    with pytest.raises(ValueError, match=r"without running means.*set batch_norm=false"):
        RecommenderModel(recommender, batch)
    layout = LAYOUTS["mixed"]
    retrieval = replace(layout.tasks[0], kind=TaskKind.RETRIEVAL)
    recommender = recommender_of("deepfm", "mixed")
    recommender.layout = replace(layout, tasks=(retrieval,))
    with pytest.raises(ValueError, match="a retrieval task takes the other rows"):
        RecommenderModel(recommender, batch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": -1}, "batch_size must be at least 0; got -1"),
        ({"lr": -0.1}, "lr must be at least 0; got -0.1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\); got 1.0"),
    ],
)
def test_words_of_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LocalConfig(**changes)


@pytest.mark.parametrize("name", ["fm", "din"])
def test_sorting_keys_and_a_table_of_all_keys_hold_alike(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for each in (0, 10**6):
        monkeypatch.setattr("scalerec.train.cohort.holdings.KEYS_EACH", each)
        model, holdings, _ = drawn(name, "mixed")
        found.append((holdings, model.local))
    (one, left), (other, right) = found
    assert torch.equal(one.rows, other.rows)
    assert torch.equal(one.row_offsets, other.row_offsets)
    assert torch.equal(left.ids, right.ids)
    assert all(torch.equal(a.values, b.values) for a, b in zip(left.bags, right.bags, strict=True))
