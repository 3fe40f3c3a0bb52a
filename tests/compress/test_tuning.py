"""Training further with what was pruned."""

from dataclasses import replace

import pytest
import torch
from tests.train.toys import narrow

from scalerec.compress.neurons import NeuronConfig
from scalerec.compress.pruning import PruneConfig, prunable_weights
from scalerec.compress.recommenders import without_fields, without_units
from scalerec.compress.tuning import fine_tune, prune_and_tune, with_sparse_layers
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.forms import LayerForm
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.train import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**changes: object) -> TrainConfig:
    start = {"epochs": 3, "batch_size": 50, "precision": "fp32", "dense": {"lr": 1e-2}}
    return TrainConfig.from_dict({**start, **changes})


def zeros(recommender: Recommender) -> float:
    parts = [recommender.get_parameter(name) for name in prunable_weights(recommender)]
    flat = torch.cat([part.flatten() for part in parts])
    return float((flat == 0).float().mean())


@pytest.mark.parametrize("ramp", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_weights_that_went_are_zero_at_the_end(rated: Dataset, ramp: float, ema: float) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    before = {name: own.clone() for name, own in recommender.to_tensors().items()}
    pruning = PruneConfig(ratio=0.8)
    small, masks = prune_and_tune(recommender, rated, pruning, settings(ema=ema), ramp=ramp)
    assert zeros(small) == pytest.approx(0.8, abs=1e-3)
    assert masks.counts.sparsity == pytest.approx(0.8, abs=1e-3)
    assert not small.training
    after = small.to_tensors()
    assert not torch.equal(after["net.tower.0.bias"], before["net.tower.0.bias"])
    assert not torch.equal(after["tables.item.weight"], before["tables.item.weight"])
    for name, own in recommender.to_tensors().items():
        assert torch.equal(own, before[name])


def test_pruning_without_training(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    small, _ = prune_and_tune(recommender, rated, PruneConfig(ratio=0.5, scope="tensor"), None)
    assert zeros(small) == 0.5
    kept = small.get_parameter("net.tower.0.weight")
    own = recommender.get_parameter("net.tower.0.weight")
    assert torch.equal(kept[kept != 0], own[kept != 0])


def test_tuning_changes_the_recommender_in_place(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    steps: list[int] = []
    same = fine_tune(recommender, rated, settings(epochs=1), after_step=steps.append)
    assert same is recommender
    assert steps == [1, 2, 3, 4, 5]


def test_layers_of_zeros_are_stored_as_masks(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    names = ["net.tower.2.weight", "net.tower.4.weight"]
    small, _ = prune_and_tune(recommender, rated, PruneConfig(ratio=0.75), None, names=names)
    sparse = with_sparse_layers(small)
    tensors = sparse.to_tensors()
    assert sorted(sparse.spec.forms.layers) == ["net.tower.2", "net.tower.4"]
    assert "net.tower.2.weight" not in tensors
    size = sum(len(tensors[f"net.tower.{number}.weight.values"]) for number in (2, 4))
    assert size == 200
    batch = rated.split("valid").read(0, 20)
    assert sparse(batch).equal(small(batch))
    again = with_sparse_layers(sparse)
    assert again.spec == sparse.spec


def test_units_and_fields_go_after_weights(rated: Dataset) -> None:
    """Zeros that are stored as masks stay zeros in a smaller net."""
    recommender = build_recommender(rated.layout, narrow(), 1)
    small, _ = prune_and_tune(recommender, rated, PruneConfig(ratio=0.75), None)
    sparse = with_sparse_layers(small)
    fewer = without_units(sparse, NeuronConfig(ratio=0.5))
    assert fewer.spec.forms.layers["net.tower.2"] == LayerForm(inputs=10, outputs=10, sparse=True)
    assert zeros(fewer) > 0.5
    least = without_fields(fewer, ["price"])
    assert zeros(least) > 0.5
    batch = rated.split("valid").read(0, 20)
    empty = replace(batch, dense=torch.zeros_like(batch.dense))
    # The same sums without the products with zero.
    torch.testing.assert_close(least(batch), fewer(empty), rtol=1e-4, atol=1e-5)


def test_a_ramp_needs_training_and_a_range(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    with pytest.raises(ConfigError, match=r"ramp must be in \[0, 1\]; got 2"):
        prune_and_tune(recommender, rated, PruneConfig(ratio=0.5), settings(), ramp=2.0)
    with pytest.raises(ConfigError, match=r"while training goes on; got ramp 0\.5"):
        prune_and_tune(recommender, rated, PruneConfig(ratio=0.5), None, ramp=0.5)
    with pytest.raises(ConfigError, match="gradual pruning needs a ratio, not a threshold"):
        prune_and_tune(recommender, rated, PruneConfig(threshold=0.1), settings(), ramp=0.5)
