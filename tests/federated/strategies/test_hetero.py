"""HeteroFL: submodels of every net, the mean over those that hold a number, and who holds what."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.test_zoo import FIRST_LAYOUT, PAIRS, config_of, seeded
from tests.federated.strategies.tiny import close, cohorts, make, one_weight, play, tabled, train
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor

from scalerec.errors import ConfigError
from scalerec.federated.cohorts import gather_cohort
from scalerec.federated.devices import Devices, DevicesConfig
from scalerec.federated.local import LocalConfig
from scalerec.federated.strategies import TABLE
from scalerec.federated.strategies.base import Ground
from scalerec.federated.strategies.widths import WIDTHS, narrowed
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.rounds import Parameters
from scalerec.rounds.cohort import CohortUpdate
from scalerec.train.cohort.holdings import hold
from scalerec.train.cohort.models import RecommenderModel

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.1)
NARROW = [pair for pair in PAIRS if pair[0] in WIDTHS and pair[0] != "finalmlp"]


def first_batch(ground: Ground, parameters: Parameters) -> tuple[Any, Tensor]:
    """The examples of the largest party, and its rows."""
    cohort = gather_cohort(ground.model, ground.holdings, np.array([4]))
    examples = torch.from_numpy(cohort.order[cohort.starts[0] :][: cohort.sizes[0]].copy())
    every = torch.ones(len(examples), dtype=torch.bool)
    batch = ground.model.take(examples, torch.zeros_like(examples), every)
    return batch, parameters.tables[TABLE][cohort.rows]


@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize(("name", "layout"), NARROW)
def test_leading_units_are_a_model(name: str, layout: str, rate: float) -> None:
    ground, parameters = tabled(LOCAL, name=name, layout=layout)
    batch, rows = first_batch(ground, parameters)
    check_leading_units(ground.model, rate, batch, rows)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("finalmlp", {"num_heads": 1}),
        ("finalmlp", {"num_heads": 1, "gate": "none"}),
        ("dcn-v2", {"structure": "stacked", "rank": 3}),
        ("shared-bottom", {"hidden": []}),
        ("mmoe", {"tower_hidden": []}),
        ("din", {"softmax": True}),
    ],
    ids=str,
)
def test_leading_units_with_other_settings(name: str, changes: dict[str, Any]) -> None:
    settings = {**config_of(name).to_dict(), **changes}
    spec = ModelSpec.from_dict({"model": name, "settings": settings, "init_std": 0.3})
    recommender = build_recommender(LAYOUTS["mixed"], spec, 1)
    batch = draw_batch(LAYOUTS["mixed"], 5, seeded(2))
    holdings, local = hold(batch, recommender.tables, np.arange(5), np.array([0, 5]))
    rows = recommender.tables.matrix[holdings.rows]
    check_leading_units(RecommenderModel(recommender, local), 0.4, local, rows)


def check_leading_units(whole: Any, rate: float, batch: Any, rows: Tensor) -> None:
    """The narrow net gives what the wide one does where all other units are zero."""
    own = narrowed(whole, rate, scale=False)
    assert list(own.model.dense) == list(whole.dense)
    inner, outer = {}, {}
    for key, tensor in whole.dense.items():
        assert tensor[own.places[key]].shape == own.model.dense[key].shape
        outer[key] = torch.zeros_like(tensor)
        outer[key][own.places[key]] = tensor[own.places[key]]
        inner[key] = tensor[own.places[key]].unsqueeze(0)
    assert own.num_dense < sum(tensor.numel() for tensor in whole.dense.values())
    found = own.model.score(inner, rows, batch, 1)
    wanted = whole.score({key: t.unsqueeze(0) for key, t in outer.items()}, rows, batch, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_widths_of_every_net() -> None:
    assert set(ZOO) - set(WIDTHS) == {"lr", "fm"}
    for name, settings in WIDTHS.items():
        sizes = {k for k, v in ZOO[name].config().to_dict().items() if isinstance(v, list)}
        assert set(settings) == sizes


@pytest.mark.parametrize("name", ["lr", "fm", "finalmlp"])
def test_nets_without_submodels(name: str) -> None:
    words = {
        "finalmlp": "finalmlp cuts its streams into heads: a narrower one needs num_heads=1; got 10"
    }
    ground, _ = tabled(LOCAL, name=name, layout=FIRST_LAYOUT[name])
    wanted = words.get(name, f"narrower models are there of autoint, .*hidden layers; got {name}")
    with pytest.raises(ConfigError, match=wanted):
        make("heterofl", ground)


def test_nets_without_hidden_layers_of_their_own() -> None:
    spec = ModelSpec.from_dict({"model": "autoint", "settings": {"dim": 4}})
    batch = draw_batch(LAYOUTS["ids"], 3, seeded(1))
    model = RecommenderModel(build_recommender(LAYOUTS["ids"], spec, 1), batch)
    with pytest.raises(ConfigError, match="autoint has no hidden layer to be narrower in"):
        narrowed(model, 0.5, scale=True)


def test_a_module_has_no_submodels() -> None:
    ground, _ = one_weight(LOCAL)
    with pytest.raises(ConfigError, match=r"narrower models are there of .*; got ModuleModel"):
        make("heterofl", ground)


def test_all_wide_is_fedavg() -> None:
    ground, parameters = tabled(LOCAL)
    found = wanted = parameters
    one, other = make("heterofl", ground, rates=[1.0]), make("fedavg", ground)
    for number, parties in enumerate(cohorts(2)):
        found = play(one, found, parties.tolist(), number)
        wanted = play(other, wanted, parties.tolist(), number)
    close(found, wanted, rtol=0.0, atol=0.0)


def test_wide_parties_of_mixed_ones_are_fedavg() -> None:
    ground, parameters = tabled(LOCAL)
    method = make("heterofl", ground)
    wide = np.flatnonzero(method.kinds == 0).tolist()
    assert len(wide) == 2
    found = play(method, parameters, wide)
    close(found, play(make("fedavg", ground), parameters, wide), rtol=0.0, atol=0.0)


def test_the_mean_over_holders_by_hand() -> None:
    """The first is whole and moves all by 1; the other half, and by 4, with a weight of 3."""
    ground, _ = tabled(LOCAL)
    method = make("heterofl", ground, rates=[1.0, 0.5])
    method.kinds = np.array([0, 1, 1, 1, 1, 1])
    dense = {}
    for name, tensor in ground.model.dense.items():
        sent = torch.zeros(2, *tensor.shape)
        sent[0] = 1.0
        sent[(1, *method.submodels[1].places[name])] = 4.0
        dense[name] = sent
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    update = CohortUpdate(dense=dense, tables={}, weights=weights)
    mean = method.combine(update, torch.ones(2, dtype=torch.int64), np.array([0, 3]))
    both, alone = (1 + 3 * 4) / 4, 1.0
    # A layer of 20 inputs and 20 outputs, half of each; the last, of 20 and 1; the first bias.
    layer = mean.dense["net.tower.2.weight"]
    assert (layer[:10, :10] == both).all()
    assert (layer[10:] == alone).all()
    assert (layer[:, 10:] == alone).all()
    last = mean.dense["net.tower.6.weight"]
    assert last.tolist() == [[both] * 10 + [alone] * 10]
    assert mean.dense["net.tower.0.bias"].tolist() == [both] * 10 + [alone] * 10
    assert (mean.dense["embedder.numbers"] == both).all()
    # Without the whole party nobody holds the rest, whatever arrives there.
    sole = update.take(torch.tensor([1]))
    noisy = replace(sole, dense={name: tensor + 0.5 for name, tensor in sole.dense.items()})
    mean = method.combine(noisy, torch.ones(1, dtype=torch.int64), np.array([3]))
    assert mean.dense["net.tower.0.bias"].tolist() == [4.5] * 10 + [0.0] * 10


@pytest.mark.parametrize("name", ["deepfm", "din", "mmoe"])
@pytest.mark.parametrize("engine", ["batched", "loop"])
def test_a_narrow_party_trains_its_own_units(name: str, engine: str) -> None:
    ground, parameters = tabled(LOCAL, name=name, engine=engine)
    method = make("heterofl", ground, rates=[1.0, 0.5])
    narrow = np.flatnonzero(method.kinds == 1).tolist()
    trained = train(method, parameters, narrow, 0)
    own, whole = method.submodels[1], sum(t.numel() for t in ground.model.dense.values())
    inside = 0
    for key, moved in trained.update.dense.items():
        rest = moved.clone()
        rest[(slice(None), *own.places[key])] = 0.0
        assert not rest.any()
        inside += int((moved != 0).any(0).sum())
    assert 0 < inside <= own.num_dense < whole
    traffic = method.traffic(trained.cohort)
    assert traffic.down.tolist() == traffic.up.tolist() == [own.num_dense] * 3
    assert trained.update.tables[TABLE].values.any()
    after = play(method, parameters, narrow)
    key = next(key for key in own.places if own.model.dense[key].shape != after.dense[key].shape)
    beyond = torch.ones_like(after.dense[key], dtype=torch.bool)
    beyond[own.places[key]] = False
    assert torch.equal(after.dense[key][beyond], parameters.dense[key][beyond])


def test_a_party_trains_alike_whoever_else_does() -> None:
    ground, parameters = tabled(LOCAL)
    method = make("heterofl", ground)
    whole = train(method, parameters, list(range(6)), 0)
    for place, party in enumerate(whole.cohort.parties.tolist()):
        alone = train(method, parameters, [party], 0)
        span = slice(int(whole.cohort.offsets[place]), int(whole.cohort.offsets[place + 1]))
        close_enough: Any = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(whole.local.moved_rows[span], alone.local.moved_rows)
        assert int(whole.local.steps[place]) == int(alone.local.steps[0])
        torch.testing.assert_close(whole.local.losses[place], alone.local.losses[0])
        for name, moved in alone.local.moved.items():
            torch.testing.assert_close(whole.local.moved[name][place], moved[0], **close_enough)


@pytest.mark.parametrize("name", ["deepfm", "ple", "din"])
def test_the_scaler_divides_what_hidden_layers_give(name: str) -> None:
    """Weights and biases that were multiplied by the rate beforehand give the unscaled loss."""
    ground, parameters = tabled(LOCAL, name=name)
    plain, scaled = (narrowed(ground.model, 0.5, scale=scale) for scale in (False, True))
    batch, rows = first_batch(ground, parameters)
    hidden = {
        "deepfm": {f"net.tower.{n}.{part}" for n in (0, 2, 4) for part in ("weight", "bias")},
        "ple": {
            f"net.{part}.{kind}.0"
            for part in ("levels.0.experts", "levels.1.experts", "heads.towers")
            for kind in ("weights", "biases")
        },
        "din": {f"net.tower.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")}
        | {f"net.attentions.0.layers.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")},
    }
    assert set(scaled.model.factors) == hidden[name]
    assert set(scaled.model.factors.values()) == {2.0}
    dense = {key: tensor.unsqueeze(0) for key, tensor in plain.model.dense.items()}
    shrunk = {key: t / 2 if key in hidden[name] else t for key, t in dense.items()}
    wanted = plain.model.losses(dense, rows, batch, 1)
    torch.testing.assert_close(scaled.model.losses(shrunk, rows, batch, 1), wanted)
    assert not torch.allclose(scaled.model.losses(dense, rows, batch, 1), wanted)
    own = {key: tensor[0] for key, tensor in shrunk.items()}
    torch.testing.assert_close(scaled.model.loss_of_one(own, rows, batch), wanted[0])


@pytest.mark.parametrize("name", ["autoint", "ple", "two-tower"])
def test_engines_give_the_same(name: str) -> None:
    found = []
    for engine in ("batched", "loop"):
        ground, parameters = tabled(LOCAL, name=name, engine=engine)
        method = make("heterofl", ground)
        for number, parties in enumerate(cohorts(2)):
            parameters = play(method, parameters, parties.tolist(), number)
        found.append(parameters)
    one, other = found
    close(one, other, rtol=1e-3, atol=1e-5)


def test_who_has_which_width() -> None:
    ground, _ = tabled(LOCAL)
    assert np.bincount(make("heterofl", ground).kinds).tolist() == [2, 2, 2]
    method = make("heterofl", ground, rates=[1.0, 0.1], shares=[1.0, 2.0])
    assert np.bincount(method.kinds).tolist() == [2, 4]
    assert make("heterofl", ground).kinds.tolist() == make("heterofl", ground).kinds.tolist()
    devices = DevicesConfig()
    fast = make("heterofl", replace(ground, devices=devices), by="speed").kinds
    order = np.argsort(-Devices(devices).speeds(np.arange(6)))
    assert fast[order].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ConfigError, match="by speed needs devices; got none"):
        make("heterofl", ground, by="speed")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rates": []}, r"rates must start with 1, fall, and be above 0; got \(\)"),
        ({"rates": [0.5]}, "rates must start with 1"),
        ({"rates": [1.0, 0.5, 0.5]}, "rates must start with 1, fall"),
        ({"rates": [1.0, 0.0]}, "and be above 0; got"),
        ({"shares": [1.0]}, "shares must be above 0, one for each of 3 rates; got"),
        ({"by": "size"}, "by must be one of"),
    ],
)
def test_words_of_settings(settings: dict[str, Any], words: str) -> None:
    ground, _ = tabled(LOCAL)
    with pytest.raises(ConfigError, match=words):
        make("heterofl", ground, **settings)
