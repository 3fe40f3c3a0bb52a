"""One step: what it draws, what it moves, what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.toys import LIKED, make_data, narrow, rating_rows, ratings

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, TrainError
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig

RETRIEVAL = {"name": "liked", "kind": "retrieval"}


def make(dataset: Dataset, spec: ModelSpec | None = None, **settings: Any) -> Learner:
    config = TrainConfig.from_dict({"precision": "fp32", **settings})
    recommender = build_recommender(dataset.layout, spec or narrow(), config.seed)
    return Learner(recommender, dataset, config, OneProcess())


class Neighbour(OneProcess):
    """One of several processes, which knows what the others would say of their positive rows."""

    def __init__(self, rank: int, sizes: list[int], local_steps: int = 0) -> None:
        super().__init__()
        self.rank, self.world, self.sizes, self.local_steps = rank, len(sizes), sizes, local_steps

    def gather(self, value: torch.Tensor, purpose: str) -> list[torch.Tensor]:
        assert purpose == "numbers of positive rows"
        assert not self.local_steps, "they do not speak"
        assert value.tolist() == [self.sizes[self.rank]]
        return [torch.tensor([size]) for size in self.sizes]


def rows(dataset: Dataset, size: int = 64) -> Batch:
    return dataset.split("train").read(0, size)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in learner.recommender.to_tensors().items()}


def test_a_step_by_hand(rated: Dataset) -> None:
    """SGD: every weight moves by -lr * factor * gradient."""
    sgd = {"name": "sgd", "lr": 0.5}
    tables = {"optimiser": "sgd", "lr": 0.25, "engine": "dense"}
    learner = make(rated, dense=sgd, tables=tables)
    batch, recommender = rows(rated), learner.recommender
    before = weights(learner)
    loss = learner.loss(batch)
    named = {
        **recommender.dense_parameters(),
        "": recommender.tables.engine.get_parameter("weight"),
    }
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    assert learner.step(batch, 0.5) == float(loss.detach())
    after = weights(learner)
    for name in recommender.dense_parameters():
        moved = before[name] - 0.25 * gradients[name]
        torch.testing.assert_close(after[name], moved, rtol=1e-6, atol=1e-7)
    start, size = recommender.tables.start["item"], recommender.tables.num_rows["item"]
    moved = before["tables.item.weight"] - 0.125 * gradients[""][start : start + size]
    torch.testing.assert_close(after["tables.item.weight"], moved, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "tables",
    [
        {"optimiser": "adam", "l2": 0.1},
        {"optimiser": "adagrad", "l2": 0.1, "engine": "dense"},
        {"optimiser": "adam", "l2": 0.1, "engine": "torch"},
        {"optimiser": "rowwise_adagrad"},
        {"optimiser": "sgd", "l2": 0.1},
    ],
)
def test_padding_stays_zero(rated: Dataset, tables: dict[str, Any]) -> None:
    dense = tables["optimiser"] == "adam" and "engine" not in tables
    learner = make(rated, tables={"lr": 0.1, **tables}, ema=0.5 if dense else 0.0)
    batch = rows(rated)
    batch.ids[:, ::3] = 0
    for _ in range(4):
        learner.step(batch, 1.0)
    tables_ = learner.recommender.tables
    padding = tables_.get_buffer("padding")
    assert not tables_.matrix[padding].any()
    learner.swap_average()
    assert not tables_.matrix[padding].any()


def test_noise_depends_on_seed_and_step_alone(rated: Dataset) -> None:
    """A learner put at step 2 draws the dropout and the negatives of step 3."""
    spec = narrow(dropout=0.5, embedding_dropout=0.2)
    one, other = make(rated, spec, negatives=2), make(rated, spec, negatives=2)
    batch = rows(rated)
    for _ in range(2):
        one.step(batch, 1.0)
    torch.manual_seed(99)
    saved = {name: tensor.clone() for name, tensor in one.tensors().items()}
    other.load(saved, one.step_number)
    assert one.step(batch, 1.0) == other.step(batch, 1.0)
    assert all(torch.equal(t, weights(other)[n]) for n, t in weights(one).items())
    differently = make(rated, spec, negatives=2, seed=2)
    differently.load(saved, 2)
    assert differently.step(batch, 1.0) != one.step(batch, 1.0)


class TestNegatives:
    """Rows drawn beside the positive ones."""

    @pytest.mark.parametrize("by", ["uniform", "popularity"])
    def test_what_a_negative_is(self, tmp_path: Path, by: str) -> None:
        tasks: list[dict[str, object]] = [LIKED, {"name": "stars", "kind": "regression"}]
        dataset = ratings(tmp_path / "data", tasks)
        learner = make(dataset, negatives=3, negatives_by=by)
        batch = rows(dataset)
        whole = learner._with_negatives(batch, 0)
        positive = (batch.labels[:, 0] > 0).nonzero().flatten()
        added = whole.take(torch.arange(len(batch), len(whole)))
        assert len(added) == 3 * len(positive)
        assert not added.labels.any()
        assert added.label_mask.tolist() == [[True, False]] * len(added)
        assert added.users.tolist() == batch.users[positive].repeat_interleave(3).tolist()
        assert torch.equal(added.ids[0], batch.ids[0, positive].repeat_interleave(3))
        assert torch.equal(added.ids[1], dataset.items.ids[1, added.items])
        assert len(added.items.unique()) > 5

    def test_none_without_a_positive(self, rated: Dataset) -> None:
        learner = make(rated, negatives=3)
        batch = rows(rated)
        batch = replace(batch, labels=torch.zeros_like(batch.labels))
        assert len(learner._with_negatives(batch, 0)) == len(batch)
        learner.step(batch, 1.0)

    def test_processes_that_step_together_draw_as_one(self, rated: Dataset) -> None:
        whole = make(rated, negatives=3)._draw(11, 5)
        parts, sizes = [], [4, 0, 7]
        for rank in range(3):
            learner = make(rated, negatives=3)
            learner.runtime = Neighbour(rank, sizes)
            parts.append(learner._draw(sizes[rank], 5))
        assert torch.equal(torch.cat(parts), whole)

    def test_processes_that_step_alone_draw_other_ones(self, rated: Dataset) -> None:
        drawn = []
        for rank in range(3):
            learner = make(rated, negatives=3)
            learner.runtime = Neighbour(rank, [9] * 3, local_steps=4)
            drawn.append(learner._draw(9, 5))
        assert torch.equal(drawn[0], make(rated, negatives=3)._draw(9, 5))
        assert not torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[1], drawn[2])

    def test_they_need_an_item(self, tmp_path: Path) -> None:
        numbers = rating_rows()
        price = {"name": "price", "kind": "numeric"}
        dataset = make_data(tmp_path / "data", numbers, [price], timestamp="time")
        with pytest.raises(ConfigError, match="negatives need an item; name one in the schema"):
            make(dataset, negatives=1)
        # Without ids there is nothing to look up, and still something to learn.
        before = weights(learner := make(dataset))
        learner.step(rows(dataset), 1.0)
        assert any(not torch.equal(t, before[n]) for n, t in weights(learner).items())

    def test_they_need_a_binary_task(self, tmp_path: Path) -> None:
        dataset = ratings(tmp_path / "data", [{"name": "stars", "kind": "regression"}])
        with pytest.raises(ConfigError, match="need a binary first task; got regression 'stars'"):
            make(dataset, negatives=1)


class TestRetrieval:
    """The softmax over the items of the batch."""

    def test_it_needs_towers_and_to_be_alone(self, tmp_path: Path) -> None:
        dataset = ratings(tmp_path / "one", [RETRIEVAL])
        with pytest.raises(ConfigError, match="needs a two-tower model; got 'deepfm'"):
            make(dataset)
        both = ratings(tmp_path / "two", [RETRIEVAL, {"name": "stars", "kind": "regression"}])
        with pytest.raises(ConfigError, match="must be the only one; got liked, stars"):
            make(both, narrow("two-tower"))

    def test_a_batch_without_a_positive_changes_nothing(self, tmp_path: Path) -> None:
        dataset = ratings(tmp_path / "one", [RETRIEVAL])
        learner = make(dataset, narrow("two-tower"), tables={"engine": "torch"})
        batch = rows(dataset)
        learner.step(batch, 1.0)
        before = weights(learner)
        assert learner.step(replace(batch, labels=torch.zeros_like(batch.labels)), 1.0) == 0.0
        assert all(torch.equal(t, before[n]) for n, t in weights(learner).items())
        assert (learner.step_number, learner.recommender.tables.engine.step) == (2, 1)
        # And a resumed learner goes on with the tables' own number of steps.
        other = make(dataset, narrow("two-tower"), tables={"engine": "torch"})
        other.load({n: t.clone() for n, t in learner.tensors().items()}, 2)
        assert other.recommender.tables.engine.step == 1


def test_clipping(rated: Dataset) -> None:
    """SGD with lr 1 moves the dense part by the gradient, whose norm is the limit."""
    settings: dict[str, Any] = {"dense": {"name": "sgd", "lr": 1.0}, "clip_norm": 1e-3}
    learner = make(rated, **settings)
    before = weights(learner)
    learner.step(rows(rated), 1.0)
    after = weights(learner)
    names = learner.recommender.dense_parameters()
    moved = torch.cat([(after[n] - before[n]).flatten() for n in names])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_average_by_hand(rated: Dataset) -> None:
    """Decay after step n is min(ema, n / (n + 10))."""
    learner = make(rated, ema=0.1)
    name = next(iter(learner.recommender.dense_parameters()))
    mean = weights(learner)[name]
    for decay in (1 / 11, 0.1, 0.1):
        learner.step(rows(rated), 1.0)
        mean = decay * mean + (1 - decay) * weights(learner)[name]
    live = weights(learner)[name]
    learner.swap_average()
    torch.testing.assert_close(weights(learner)[name], mean, rtol=1e-5, atol=1e-7)
    learner.swap_average()
    assert torch.equal(weights(learner)[name], live)


def test_an_average_needs_dense_tables(rated: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"ema needs tables .*; got engine 'torch'"):
        make(rated, ema=0.9, tables={"engine": "torch"})


class TestPrecision:
    """bf16 in the dense part."""

    def test_auto_asks_the_processor(self, rated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        for has in (True, False):
            monkeypatch.setattr("scalerec.train.learner.has_bf16", lambda _, has=has: has)
            assert make(rated, precision="auto").bf16 is has
            assert make(rated, precision="bf16").bf16
            assert not make(rated, precision="fp32").bf16

    @pytest.mark.parametrize("engine", ["dense", "torch"])
    def test_bf16_learns_almost_the_same(self, rated: Dataset, engine: str) -> None:
        """bf16 has 8 bits of mantissa: losses of about 0.7 agree to a few 1e-3."""
        batch = rows(rated)
        tables = {"engine": engine, "lr": 1e-2}
        exact, rough = (make(rated, precision=p, tables=tables) for p in ("fp32", "bf16"))
        for _ in range(5):
            assert rough.step(batch, 1.0) == pytest.approx(exact.step(batch, 1.0), abs=5e-3)
        assert all(t.dtype is not torch.bfloat16 for t in weights(rough).values())


class TestNotFinite:
    """A loss that is not finite stops, with the rows and the feature."""

    def test_a_value(self, rated: Dataset) -> None:
        learner, batch = make(rated), rows(rated)
        learner.step(batch, 1.0)
        before = weights(learner)
        batch.dense[7, 0] = float("nan")
        words = (
            r"step 2: the loss is nan; rows of the batch: 7; feature 'price' holds a value that "
            "is not finite: prepare the data anew"
        )
        with pytest.raises(TrainError, match=words):
            learner.step(batch, 1.0)
        assert all(torch.equal(t, before[n]) for n, t in weights(learner).items())
        assert learner.recommender.training

    def test_an_embedding(self, rated: Dataset) -> None:
        learner, batch = make(rated), rows(rated)
        learner.recommender.tables.table("item")[2] = float("inf")
        bad = (batch.ids[1] == 2).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5]))
        words = f"rows of the batch: {shown}.*feature 'item' has an embedding that is not finite"
        with pytest.raises(TrainError, match=words):
            learner.step(batch, 1.0)

    def test_a_huge_learning_rate(self, rated: Dataset) -> None:
        learner = make(rated, dense={"name": "sgd", "lr": 1e30}, tables={"lr": 1e30})
        learner.step(rows(rated), 1.0)
        with pytest.raises(TrainError, match="try a smaller lr, or clip_norm"):
            learner.step(rows(rated), 1.0)

    def test_in_retrieval(self, tmp_path: Path) -> None:
        dataset = ratings(tmp_path / "data", [RETRIEVAL])
        learner, batch = make(dataset, narrow("two-tower")), rows(dataset)
        batch.dense[3, 0] = float("inf")
        batch = replace(batch, labels=torch.ones_like(batch.labels))
        with pytest.raises(TrainError, match="rows of the batch: 3; feature 'price' holds"):
            learner.step(batch, 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimiser", ["adam", "rowwise_adagrad"])
def test_a_step_on_a_gpu_is_a_step(rated: Dataset, optimiser: str) -> None:
    """Equal to 1e-4: sums in another order, and steps of Adam that divide by small roots."""
    config = TrainConfig.from_dict(
        {"precision": "fp32", "negatives": 2, "tables": {"optimiser": optimiser}}
    )
    learners = []
    for device in ("cpu", "cuda"):
        recommender = build_recommender(rated.layout, narrow(), config.seed)
        learners.append(Learner(recommender, rated, config, OneProcess(device)))
    for _ in range(3):
        one, other = (learner.step(rows(rated), 1.0) for learner in learners)
        assert one == pytest.approx(other, rel=1e-4)
    assert learners[1].recommender.tables.matrix.is_cuda
