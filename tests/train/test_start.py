"""Going on from a bundle: new ids are learned, old ones are kept, and optimisers remember."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.stream import StreamConfig, days_of, raw_of
from tests.train.toys import narrow

from scalerec.bundle import Bundle, write_recommender
from scalerec.bundle.growing import base_of, recommender_for
from scalerec.bundle.recommenders import open_recommender
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.errors import BundleError, ConfigError, TrainError
from scalerec.models.recommender import build_recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import Learner, OneProcess, Start, TrainConfig, open_start, train
from scalerec.train.start import STATE_FILE, restore_state, state_bytes

SETTINGS: dict[str, Any] = {
    "batch_size": 128, "precision": "fp32", "dense": {"lr": 3e-3}, "tables": {"lr": 1e-2},
}  # fmt: skip
SPEC = narrow()
Days = list[Any]


def days(seed: int = 1, **size: int) -> Days:
    small = {"rows": 5_000, "days": 3, "users": 80, "items": 50, "stay": 5, **size}
    return [events for events, _ in days_of(StreamConfig(seed=seed, **small))]


def prepared(path: Path, *events: Any, base: Bundle | None = None, **grow: Any) -> Dataset:
    config = PrepareConfig.from_dict({"split": {"valid": 0.1, "test": 0.0}})
    known = base_of(base, GrowConfig.from_dict(grow)) if base else None
    return prepare(raw_of(*events), path, config, base=known)


def fit(
    path: Path, dataset: Dataset, start: Start | None = None, **settings: Any
) -> tuple[Bundle, TrainConfig]:
    config = TrainConfig.from_dict({**SETTINGS, **settings})
    trained = train(dataset, SPEC, config, start=start, keep_state=True)
    bundle = write_recommender(path, trained.recommender, dataset, ())
    bundle.attach(STATE_FILE, state_bytes(trained.state, config))
    return bundle, config


def auc_of(bundle: Bundle, path: Path, events: Any) -> float:
    dataset = prepared(path, events, base=bundle)
    recommender = recommender_for(open_recommender(bundle.path), dataset)
    config = EvaluateConfig(split="train", ranking="no")
    found = evaluate(recommender, dataset, config).metrics["auc"]
    assert found is not None
    return found


@pytest.mark.parametrize("seed", [1, 3])
def test_two_days_one_after_the_other_and_at_once(tmp_path: Path, seed: int) -> None:
    """AUC on the third day: far above the first day's bundle, close to training on both days.

    The tolerance of .02 is about three times the standard error of an AUC over 4,000 rows.
    """
    one, two, three = days(seed)
    first, _ = fit(tmp_path / "first", prepared(tmp_path / "1", one), epochs=8, patience=1)
    both, _ = fit(tmp_path / "both", prepared(tmp_path / "12", one, two), epochs=8, patience=1)
    more = prepared(tmp_path / "2", two, base=first, evict_after=1.2)
    after, _ = fit(tmp_path / "after", more, open_start(first.path, more), epochs=4, patience=1)
    old, new, all_ = (
        auc_of(bundle, tmp_path / f"3-{i}", three) for i, bundle in enumerate((first, after, both))
    )
    assert new > old + 0.02
    assert new > all_ - 0.02


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Dataset]:
    """A bundle of one day, and the next day prepared to continue it."""
    folder = tmp_path_factory.mktemp("grown")
    one, two, _ = days(rows=600)
    first, _ = fit(folder / "first", prepared(folder / "1", one), epochs=1)
    return first, prepared(folder / "2", two, base=first, evict_after=0.5)


KINDS: dict[str, dict[str, Any]] = {
    "adam, dense": {},
    "lazy adam": {"tables": {"optimiser": "lazy_adam", "engine": "torch", "lr": 1e-2}},
    "adagrad": {"tables": {"optimiser": "adagrad", "lr": 1e-2}},
    "row-wise adagrad": {"tables": {"optimiser": "rowwise_adagrad", "lr": 1e-2}},
    "adagrad, dense": {"tables": {"optimiser": "adagrad", "engine": "dense", "lr": 1e-2}},
    "sgd": {"tables": {"optimiser": "sgd", "lr": 1e-2}, "dense": {"name": "sgd", "momentum": 0.9}},
}


def batches(dataset: Dataset) -> list[Batch]:
    events = dataset.split("train")
    return [events.read(start, start + 60) for start in range(0, 300, 60)]


@pytest.mark.parametrize("kind", KINDS)
def test_optimisers_go_on_as_if_nothing_had_been_between(
    grown: tuple[Bundle, Dataset], tmp_path: Path, kind: str
) -> None:
    """Steps on the same data, with a bundle written and read in between, give the same weights."""
    data = prepared(tmp_path / "1", days(rows=600)[0])
    config = TrainConfig.from_dict({**SETTINGS, **KINDS[kind]})
    steps = batches(data)
    whole = Learner(build_recommender(data.layout, SPEC, 1), data, config, OneProcess())
    half = Learner(build_recommender(data.layout, SPEC, 1), data, config, OneProcess())
    for batch in steps:
        whole.step(batch, 1.0)
    for batch in steps[:3]:
        half.step(batch, 1.0)
    bundle = write_recommender(tmp_path / "half", half.recommender.eval(), data, ())
    bundle.attach(STATE_FILE, state_bytes(half.optimiser_state(), config))
    start = open_start(bundle.path, data)
    rest = Learner(start.recommender, data, config, OneProcess())
    restore_state(rest, start)
    for batch in steps[3:]:
        rest.step(batch, 1.0)
    expected = whole.recommender.to_tensors()
    for name, tensor in rest.recommender.to_tensors().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("kind", ["adam, dense", "adagrad", "lazy adam"])
def test_state_of_fresh_rows_is_zero_and_of_others_stays(
    grown: tuple[Bundle, Dataset], tmp_path: Path, kind: str
) -> None:
    _, data = grown
    one = prepared(tmp_path / "1", days(rows=600)[0])
    bundle, config = fit(tmp_path / "one", one, epochs=1, **KINDS[kind])
    start = open_start(bundle.path, data)
    learner = Learner(start.recommender, data, config, OneProcess())
    restore_state(learner, start)
    now, before = learner.optimiser_state(), start.state
    plan, place = start.grown.plans["item"], start.recommender.tables.start["item"]
    assert len(plan.fresh) > 0
    assert int(plan.fresh.min()) < plan.num_before  # a row that was freed
    names = [n for n in before if n.startswith(("rows.", "optimiser.tables.0.exp_"))]
    assert names
    old = sum(p.num_before for n, p in list(start.grown.plans.items())[: _place(start, "item")])
    kept = sorted(set(range(plan.num_before)) - set(plan.fresh.tolist()))
    for name in names:
        assert not now[name][place + plan.fresh].any()
        own = now[name][place : place + plan.num_before][kept]
        assert torch.equal(own.float(), before[name][old : old + plan.num_before][kept].float())
        assert own.any()


def _place(start: Start, table: str) -> int:
    return list(start.grown.plans).index(table)


def test_other_optimisers_start_anew_and_say_so(grown: tuple[Bundle, Dataset]) -> None:
    first, data = grown
    config = TrainConfig.from_dict({**SETTINGS, **KINDS["adagrad"]})
    start = open_start(first.path, data)
    learner = Learner(start.recommender, data, config, OneProcess())
    with pytest.warns(UserWarning, match="these start anew: kept .*'tables': 'adam'.*'adagrad'"):
        restore_state(learner, start)
    assert not learner.recommender.tables.engine.state["sum"].any()
    assert learner.optimisers["dense"][0].state


def test_before_the_first_step_the_old_bundle_speaks(grown: tuple[Bundle, Dataset]) -> None:
    """Only rows of retired ids differ, and a data set made anew for the same days is refused."""
    first, data = grown
    opened = open_recommender(first.path)
    start = open_start(first.path, data)
    batch = data.split("train").read(0, 200)
    known = torch.stack(
        [
            ids < opened.layout.tables[field.table]
            for field, ids in zip(data.layout.ids, batch.ids, strict=True)
        ]
    )
    unknown = replace(batch, ids=torch.where(known, batch.ids, 1))
    with torch.no_grad():
        assert torch.equal(start.recommender(batch), opened.recommender(unknown))


def test_refusals(grown: tuple[Bundle, Dataset], tmp_path: Path) -> None:
    first, data = grown
    other = prepared(tmp_path / "anew", days(rows=600)[1])
    with pytest.raises(BundleError, match=r"does not continue .* an id of 'user' belongs to"):
        open_start(first.path, other)
    start = open_start(first.path, data)
    with pytest.raises(ConfigError, match="the start is a model"):
        train(data, narrow("lr"), TrainConfig(), start=start)
    with pytest.raises(ConfigError, match="the start has another layout"):
        train(other, SPEC, TrainConfig(), start=start)
    first.attach(STATE_FILE, b"nothing", overwrite=True)
    with pytest.raises(BundleError, match=r"optimisers\.safetensors cannot be read"):
        open_start(first.path, data)


def test_a_checkpoint_knows_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = days(rows=600)
    first, _ = fit(tmp_path / "first", prepared(tmp_path / "1", one), epochs=1)
    data = prepared(tmp_path / "2", two, base=first)
    config = TrainConfig.from_dict({**SETTINGS, "epochs": 2, "checkpoint_steps": 1})
    whole = train(data, SPEC, config, start=open_start(first.path, data))
    real = Learner.step

    def dying(self: Learner, batch: Batch, factor: float) -> float:
        if self.step_number == 3:
            raise KeyboardInterrupt
        return real(self, batch, factor)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(
                data, SPEC, config, start=open_start(first.path, data), checkpoints=tmp_path / "c"
            )
    with pytest.raises(TrainError, match=f"another start: '{first.digest}', now None"):
        train(data, SPEC, config, checkpoints=tmp_path / "c", resume=True)
    start = open_start(first.path, data)
    resumed = train(data, SPEC, config, start=start, checkpoints=tmp_path / "c", resume=True)
    expected = whole.recommender.to_tensors()
    for name, tensor in resumed.recommender.to_tensors().items():
        assert torch.equal(tensor, expected[name]), name
