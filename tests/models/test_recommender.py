"""Recommenders: seeds, the functional face, and every tensor out and in again."""

from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor

from scalerec.errors import ConfigError
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.zoo import ZOO

LAYOUT = LAYOUTS["mixed"]


def spec(model: str = "deepfm", **settings: object) -> ModelSpec:
    sizes = {
        key: [20] * max(1, len(value))
        for key, value in ZOO[model].config().to_dict().items()
        if isinstance(value, list)
    }
    return ModelSpec(model=model, settings={**sizes, "dim": 4, **settings}, init_std=0.3)


def make(model: str = "deepfm", seed: int = 1, **settings: object) -> Recommender:
    layout = LAYOUTS["funnel"] if model == "esmm" else LAYOUT
    return build_recommender(layout, spec(model, **settings), seed)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


@pytest.mark.parametrize("model", ZOO)
def test_the_same_seed_gives_the_same_weights(model: str) -> None:
    torch.manual_seed(1)
    one = make(model).to_tensors()
    torch.manual_seed(2)
    assert equal(one, make(model).to_tensors())
    assert not equal(one, make(model, seed=2).to_tensors())


@pytest.mark.parametrize("model", ZOO)
def test_tensors_round_trip(model: str, generator: torch.Generator) -> None:
    norm = {"batch_norm": True} if "batch_norm" in ZOO[model].config().to_dict() else {}
    one, other = make(model, **norm), make(model, seed=2, **norm)
    for _ in range(3):
        one.train()(draw_batch(one.layout, 8, generator))
    tensors = {name: tensor.clone() for name, tensor in one.to_tensors().items()}
    other.load_tensors(tensors)
    assert equal(other.to_tensors(), tensors)
    batch = draw_batch(one.layout, 5, generator)
    assert torch.equal(other.eval()(batch), one.eval()(batch))
    counts = [t for name, t in other.to_tensors().items() if name.endswith("batches_tracked")]
    assert bool(counts) == bool(norm)
    assert all(count.dtype is torch.int64 and int(count) == 3 for count in counts)


@pytest.mark.parametrize("model", ZOO)
def test_the_functional_score_is_the_forward_pass(model: str, generator: torch.Generator) -> None:
    recommender = make(model).eval()
    batch = draw_batch(recommender.layout, 6, generator)
    rows = recommender.tables.read(recommender.tables.rows_of(batch)).requires_grad_()
    logits = recommender.score(rows, batch)
    # The compiled lookup sums in another order.
    torch.testing.assert_close(logits, recommender(batch), rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(logits.sum(), rows)
    assert grad.shape == rows.shape
    assert bool(grad.any())


def test_what_is_dense_and_what_is_a_table() -> None:
    recommender = make()
    dense = recommender.dense_parameters()
    assert not any(name.startswith("tables.") for name in dense)
    others = {name for name, _ in recommender.named_parameters()} - dense.keys()
    assert others == {"tables.engine.weight"}
    held = recommender.to_tensors()
    assert dense.keys() < held.keys()
    assert {f"tables.{name}.weight" for name in LAYOUT.tables} < held.keys()
    assert all(tensor.requires_grad is False for tensor in held.values())


def test_embedding_dropout_only_while_training(generator: torch.Generator) -> None:
    recommender, batch = make(embedding_dropout=0.5), draw_batch(LAYOUT, 40, generator)
    plain = recommender.eval().read(batch)
    torch.manual_seed(1)
    dropped = recommender.train().read(batch)
    gone = (dropped.fields == 0) & (plain.fields != 0)
    share = float(gone.sum() / (plain.fields != 0).sum())
    assert 0.4 < share < 0.6
    torch.testing.assert_close(dropped.fields[~gone], plain.fields[~gone] * 2)
    assert torch.equal(dropped.linear, plain.linear)
    # The lookup's pairs are those of the whole fields.
    assert plain.pairs is not None
    assert dropped.pairs is None


def test_towers() -> None:
    recommender = make("two-tower").eval()
    batch = draw_batch(LAYOUT, 5, torch.Generator().manual_seed(1))
    user, item = recommender.towers(batch)
    logits = recommender(batch)[:, 0]
    torch.testing.assert_close((user * item).sum(1), logits, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="a retrieval task needs a two-tower model; got 'deepfm'"):
        make().towers(batch)


def test_tables_that_are_not_drawn() -> None:
    plain = Recommender(LAYOUT, spec(), torch.Generator().manual_seed(1), draw_tables=False)
    assert not plain.tables.matrix.any()
    plain.load_tensors(make().to_tensors())
    assert equal(plain.to_tensors(), make().to_tensors())


class TestRefusals:
    """What does not fit, in words."""

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"model": "x", "settings": {}}, "model must be one of lr, fm, .*; got 'x'"),
            ({"model": "lr", "settings": {}, "init_std": 0.0}, "init_std must be positive; got 0"),
            ({"model": "lr", "settings": {"dmi": 3}}, "model lr: unknown setting 'dmi'; did you m"),
            ({"model": "lr", "settings": {"dim": 0}}, "dim must be at least 1; got 0"),
            ({"model": "lr"}, "setting 'settings' is missing"),
        ],
    )
    def test_specs(self, values: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            ModelSpec.from_dict(values)

    def test_tensors(self) -> None:
        recommender = make()
        held = {name: tensor.clone() for name, tensor in recommender.to_tensors().items()}
        name = next(iter(recommender.dense_parameters()))
        less = {key: tensor for key, tensor in held.items() if key != name}
        with pytest.raises(ConfigError, match=rf"tensors missing or unknown: \['{name}'\]"):
            recommender.load_tensors(less)
        with pytest.raises(ConfigError, match=r"missing or unknown: \['odd'\]"):
            recommender.load_tensors({**held, "odd": torch.ones(1)})
        with pytest.raises(ConfigError, match=rf"tensor '{name}' must be \[.*\]; got \[1\]"):
            recommender.load_tensors({**held, name: torch.ones(1)})
        assert equal(recommender.to_tensors(), held)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", ZOO)
def test_on_a_gpu(model: str, generator: torch.Generator) -> None:
    recommender = make(model).eval()
    batch = draw_batch(recommender.layout, 9, generator)
    here = recommender(batch)
    there = recommender.to("cuda")(batch.to("cuda")).cpu()
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [2, 3_000])
@pytest.mark.parametrize(("place", "wrong"), [("item", 14), ("genres", 6), ("item", -1)])
def test_ids_beyond_their_table_are_refused(
    rows: int, place: str, wrong: int, generator: torch.Generator
) -> None:
    """In small batches, which are looked up without kernels, as in large ones."""
    recommender, batch = make(), draw_batch(LAYOUT, rows, generator)
    held = batch.ids[1] if place == "item" else batch.bags[0].values
    held[0] = wrong
    with torch.no_grad(), pytest.raises(IndexError, match=f"field '{place}' reads must be within"):
        recommender(batch)


def test_small_batches_give_what_large_ones_do(generator: torch.Generator) -> None:
    recommender, batch = make().eval(), draw_batch(LAYOUT, 3_000, generator)
    with torch.no_grad():
        whole = recommender(batch)
        parts = torch.cat([recommender(batch.slice(at, at + 100)) for at in range(0, 3_000, 100)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
