"""The search: what it keeps, what it counts, and the words for what goes wrong."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.toys import rating_rows, ratings

from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender
from scalerec.data.dataset import Dataset, Events
from scalerec.errors import ConfigError, DataError, MissingExtraError, TrainError
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import train
from scalerec.tune import Plan, TuneConfig, Tuned, make_plan, read_space, tune

SPACE: dict[str, Any] = {
    "tables.lr": "1e-3..1e-1:log",
    "model.dim": [2, 4],
    "model.hidden": [[4], [8, 4]],
}
FIXED: dict[str, Any] = {"epochs": 3, "batch_size": 32, "seed": 5}


def plan_of(
    dataset: Dataset,
    space: dict[str, Any] | None = None,
    models: tuple[str, ...] = ("deepfm",),
    **fixed: Any,
) -> Plan:
    return make_plan(dataset, models, {**FIXED, **fixed}, read_space(space or SPACE))


def search(dataset: Dataset, out: Path, trials: int = 6, **options: Any) -> Tuned:
    plan = options.pop("plan", None) or plan_of(dataset)
    how = {n: options.pop(n) for n in ("resume", "overwrite", "on_trial") if n in options}
    return tune(dataset, plan, out, TuneConfig(trials=trials, startup=3, **options), **how)


@pytest.fixture(scope="module")
def tuned(rated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return search(rated, tmp_path_factory.mktemp("tuned") / "best")


def test_the_best_trial_is_the_bundle(rated: Dataset, tuned: Tuned) -> None:
    complete = [trial for trial in tuned.trials if trial.state == "complete"]
    values = [trial.value for trial in complete if trial.value is not None]
    assert tuned.best.value == max(values)
    opened = open_recommender(tuned.bundle.path)
    found = evaluate(opened.recommender, rated, EvaluateConfig(split="valid", ranking="no"))
    assert found.metrics["auc"] == tuned.best.value


def test_its_weights_are_those_of_a_training_with_its_settings(
    rated: Dataset, tuned: Tuned
) -> None:
    spec, config = plan_of(rated).run(tuned.best.model, tuned.best.values)
    plain = train(rated, spec, config).recommender.to_tensors()
    kept = tuned.bundle.tensors()
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


def test_the_lineage_holds_the_study(rated: Dataset, tuned: Tuned) -> None:
    prepared, searched, trained = tuned.bundle.lineage
    assert [step.verb for step in (prepared, searched, trained)] == ["prepare", "tune", "train"]
    held: dict[str, Any] = searched.settings
    assert searched.data == rated.digest
    assert (held["trials"], held["complete"] + held["pruned"], held["failed"]) == (6, 6, 0)
    assert held["space"] == {
        "tables.lr": "0.001..0.1:log",
        "model.dim": "2|4",
        "model.hidden": "[4]|[8, 4]",
    }
    assert (held["sampler"], held["seed"], held["metric"]) == ("tpe", 1, "auc")
    assert held["best"]["trial"] == tuned.best.number
    assert held["best"]["value"] == tuned.best.value
    assert trained.settings["epochs"] == 3
    settings: dict[str, Any] = trained.settings
    assert held["best"]["values"] == tuned.best.values
    assert settings["tables"]["lr"] == plan_of(rated).run("deepfm", tuned.best.values)[1].tables.lr
    assert "importance" not in held


def test_every_trial_is_in_the_attachment(tuned: Tuned) -> None:
    table = tuned.bundle.attachment_json("study.json")
    assert [row["trial"] for row in table["rows"]] == [1, 2, 3, 4, 5, 6]
    assert table["rows"][0]["values"] == {}
    shares = table["importance"].values()
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)  # of rounded shares
    best = table["rows"][tuned.best.number - 1]
    assert best["value"] == tuned.best.value
    assert best["curve"][-1][0] == 3.0
    assert table["settings"]["name"] == "deepfm"
    assert tuned.bundle.attachment_json("curves.json")["metric"] == "auc"


def test_the_same_seed_gives_the_same_bundle(rated: Dataset, tuned: Tuned, tmp_path: Path) -> None:
    again = search(rated, tmp_path / "again")
    assert [t.values for t in again.trials] == [t.values for t in tuned.trials]
    assert again.bundle.digest == tuned.bundle.digest
    other = search(rated, tmp_path / "other", seed=2)
    assert [t.values for t in other.trials[1:]] != [t.values for t in tuned.trials[1:]]


def test_a_longer_search_goes_on_with_the_same_study(
    rated: Dataset, tuned: Tuned, tmp_path: Path
) -> None:
    out = tmp_path / "best"
    search(rated, out, trials=2)
    assert search(rated, out, trials=6, resume=True).bundle.digest == tuned.bundle.digest
    # Nothing is left to do, and nothing changes.
    assert search(rated, out, trials=6, resume=True).bundle.digest == tuned.bundle.digest


def test_only_the_best_bundle_is_kept_beside(rated: Dataset, tmp_path: Path) -> None:
    seen = []

    def look(_trial: Any, best: Any) -> None:
        folder = tmp_path / "best.study"
        seen.append([p.name for p in sorted(folder.iterdir()) if p.is_dir()])
        assert seen[-1] == [f"trial-{best.number:05d}"]
        read_bundle(folder / seen[-1][0])

    search(rated, tmp_path / "best", on_trial=look)
    assert len(seen) == 6


def test_the_test_part_is_never_read(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = Dataset.store, []

    def watched(self: Dataset, name: str) -> Any:
        read.append(name)
        return store(self, name)

    def refused(self: Events, start: int, stop: int) -> Any:
        assert self.name != "test"
        return self.dataset.assembler.events(self.name, start, min(stop, len(self)))

    monkeypatch.setattr(Dataset, "store", watched)
    monkeypatch.setattr(Events, "read", refused)
    dataset = Dataset(rated.directory)
    search(dataset, tmp_path / "best", trials=2)
    assert {"train", "valid"} <= set(read)
    assert "test" not in read


def test_bad_trials_are_stopped_early(rated: Dataset, tmp_path: Path) -> None:
    """Rates from which nothing is learned lose to the first trial at every evaluation."""
    space = {"tables.lr": "1e-9..1e-8:log", "dense.lr": "1e-9..1e-8:log"}
    plan = plan_of(rated, space, ("fm",), epochs=6, init_std=0.3, patience=-1)
    found = tune(rated, plan, tmp_path / "best", TuneConfig(trials=4, startup=1))
    assert found.trials[0].state == "complete"
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert len(pruned) == 3
    assert all(trial.curve[-1][0] < 6 for trial in pruned)
    assert all(trial.value == trial.curve[-1][1] for trial in pruned)
    assert found.bundle.lineage[1].settings["pruned"] == 3
    kept = tune(
        rated, plan, tmp_path / "all", TuneConfig(trials=4, startup=1, pruner="none")
    ).trials
    assert [trial.state for trial in kept] == ["complete"] * 4
    assert all(trial.curve[-1][0] == 6 for trial in kept)


def test_hyperband_prunes_too(rated: Dataset, tmp_path: Path) -> None:
    space = {"tables.lr": "1e-3..1e-1:log"}
    plan = plan_of(rated, space, ("fm",), epochs=9, patience=-1)
    config = TuneConfig(trials=8, startup=2, pruner="hyperband")
    found = tune(rated, plan, tmp_path / "best", config)
    assert "pruned" in {trial.state for trial in found.trials}


def test_trials_that_fail_are_counted_with_their_reasons(rated: Dataset, tmp_path: Path) -> None:
    plan = plan_of(rated, {"model.dropout": [0.5, 1.5], "model.dim": [2, 4]})
    found = search(rated, tmp_path / "best", plan=plan, trials=8)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert 0 < len(failed) < 8
    assert {trial.reason for trial in failed} == {
        "model deepfm: dropout must be in [0, 1); got 1.5"
    }
    assert all(trial.values["model.dropout"] == 1.5 for trial in failed)
    assert found.bundle.lineage[1].settings["failed"] == len(failed)
    assert found.bundle.attachment_json("study.json")["failed"] == len(failed)


def test_if_all_fail_the_reasons_are_told(rated: Dataset, tmp_path: Path) -> None:
    plan = plan_of(rated, {"model.dim": [2, 4]}, dense={"name": "sgd", "lr": 1e30})
    out = tmp_path / "best"
    with pytest.raises(TrainError) as caught:
        search(rated, out, plan=plan, trials=3)
    text = str(caught.value)
    assert text.startswith("none of 3 trials has a result (0 pruned, 3 failed): ")
    assert "not finite" in text or "the loss is" in text
    assert not out.exists()


def test_what_no_setting_causes_ends_the_search(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no failed trial; and what ran is run again."""
    import scalerec.tune.search as module

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "best"
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_recommender", full)
        with pytest.raises(OSError, match="No space left"):
            search(rated, out, trials=2)
    found = search(rated, out, trials=2, resume=True)
    assert [(t.number, t.state) for t in found.trials] == [(1, "complete"), (2, "complete")]


def test_settings_that_were_tried_are_not_trained_again(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is deterministic, so a small space is soon known."""
    import scalerec.tune.trial as module

    trained = []

    def counted(*arguments: Any, **named: Any) -> Any:
        trained.append(arguments[1])
        return train(*arguments, **named)

    monkeypatch.setattr(module, "train", counted)
    plan = plan_of(rated, {"model.dim": [2, 4]})
    found = search(rated, tmp_path / "best", plan=plan, trials=8, pruner="none")
    assert len(found.trials) == 8
    assert len(trained) == 3  # the defaults, and both sizes
    for trial in found.trials:
        if trial.repeats:
            earlier = found.trials[trial.repeats - 1]
            assert earlier.repeats == 0
            assert (trial.values, trial.value) == (earlier.values, earlier.value)
            assert trial.curve == earlier.curve
    assert sum(trial.repeats > 0 for trial in found.trials) == 5


def test_steps_are_written_as_they_are_meant(rated: Dataset, tmp_path: Path) -> None:
    plan = plan_of(rated, {"model.dropout": "0..0.9:0.1"}, epochs=1)
    found = search(rated, tmp_path / "best", plan=plan, trials=12, sampler="random")
    drawn = {trial.values["model.dropout"] for trial in found.trials[1:]}
    assert drawn <= {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    assert len(drawn) > 2


def test_errors_are_made_small(rated: Dataset, tmp_path: Path) -> None:
    plan = plan_of(rated, metric="log_loss")
    found = search(rated, tmp_path / "best", plan=plan, pruner="none")
    values = [trial.value for trial in found.trials if trial.value is not None]
    assert found.best.value == min(values)
    assert found.bundle.attachment_json("study.json")["higher_is_better"] is False


def test_several_models_are_compared(rated: Dataset, tmp_path: Path) -> None:
    space = {"model.hidden": [[4], [8]], "tables.lr": "1e-3..1e-1:log"}
    plan = plan_of(rated, space, ("fm", "deepfm"))
    found = search(rated, tmp_path / "best", plan=plan, trials=10, sampler="random")
    assert [trial.model for trial in found.trials[:2]] == ["fm", "deepfm"]
    assert {trial.model for trial in found.trials[2:]} == {"fm", "deepfm"}
    assert all(("model.hidden" in t.values) == (t.model == "deepfm") for t in found.trials[2:])
    assert found.bundle.spec["model"] == found.best.model


def test_without_early_stopping_the_last_weights_are_judged(rated: Dataset, tmp_path: Path) -> None:
    plan = plan_of(rated, patience=-1, epochs=4)
    found = search(rated, tmp_path / "best", plan=plan, trials=3, pruner="none")
    assert all(trial.value == trial.curve[-1][1] for trial in found.trials)
    opened = open_recommender(found.bundle.path)
    measured = evaluate(opened.recommender, rated, EvaluateConfig(split="valid", ranking="no"))
    assert measured.metrics["auc"] == found.best.value


def test_no_trial_starts_after_the_timeout(rated: Dataset, tmp_path: Path) -> None:
    found = search(rated, tmp_path / "best", trials=50, timeout=1e-9)
    assert [trial.number for trial in found.trials] == [1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "log_loss"}, 'with another metric: "auc", now "log_loss"'),
        ({"epochs": 4}, 'with another settings: {"epochs": 3}, now {"epochs": 4}'),
        ({"space": {"model.dim": [2, 4]}}, "with another space: "),
        ({"models": ("wide-deep",)}, 'with another models: ["deepfm"], now ["wide-deep"]'),
    ],
)
def test_a_study_of_another_search_is_refused(
    rated: Dataset, tuned: Tuned, change: dict[str, Any], says: str
) -> None:
    plan = plan_of(rated, **change)
    with pytest.raises(ConfigError) as caught:
        search(rated, tuned.bundle.path, plan=plan, resume=True, overwrite=True)
    assert says in str(caught.value)
    assert "start anew with --overwrite" in str(caught.value)


def test_a_study_of_other_data_or_another_seed_is_refused(
    rated: Dataset, tuned: Tuned, tmp_path: Path
) -> None:
    other = ratings(tmp_path / "other", columns=rating_rows(seed=9))
    with pytest.raises(ConfigError, match="with another data: "):
        search(other, tuned.bundle.path, resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="with another seed: 1, now 7"):
        search(rated, tuned.bundle.path, resume=True, overwrite=True, seed=7)
    with pytest.raises(ConfigError, match='another sampler: "tpe", now "random"'):
        search(rated, tuned.bundle.path, resume=True, overwrite=True, sampler="random")


def test_nothing_is_replaced_that_was_not_named(rated: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "best"
    first = search(rated, out, trials=1)
    with pytest.raises(ConfigError, match="exists already; choose another, or --overwrite"):
        search(rated, out, trials=1)
    other = plan_of(rated, {"model.dim": [2, 4]})
    with pytest.raises(ConfigError, match="exists already"):
        search(rated, out, trials=1, plan=other, resume=True)
    for entry in sorted(out.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    out.rmdir()
    with pytest.raises(ConfigError, match=r"best\.study holds a study already; go on with --resu"):
        search(rated, out, trials=1)
    again = search(rated, out, trials=1, overwrite=True)
    assert again.bundle.digest == first.bundle.digest
    (tmp_path / "mine.study").mkdir()
    (tmp_path / "mine.study" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds a study already"):
        search(rated, tmp_path / "mine", trials=1, overwrite=True)


def test_two_searches_do_not_share_a_study(rated: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "best"

    def intrude(_trial: Any, _best: Any) -> None:
        with pytest.raises(TrainError, match="another search is running there"):
            search(rated, out, trials=1, resume=True)

    search(rated, out, trials=1, on_trial=intrude)


def test_a_journal_that_is_none_is_refused(rated: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "best.study"
    folder.mkdir()
    (folder / "journal.log").write_text("no\njson\n")
    with pytest.raises(TrainError, match="not a journal of a study"):
        search(rated, tmp_path / "best", resume=True)


def test_a_line_that_was_cut_short_is_cut_off(rated: Dataset, tuned: Tuned, tmp_path: Path) -> None:
    out = tmp_path / "best"
    search(rated, out, trials=3)
    with (tmp_path / "best.study" / "journal.log").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x')
    assert search(rated, out, trials=6, resume=True).bundle.digest == tuned.bundle.digest


def test_a_bundle_that_was_taken_away_is_told(rated: Dataset, tmp_path: Path) -> None:
    found = search(rated, tmp_path / "best", trials=1)
    (tmp_path / "best.study" / "trial-00001" / "manifest.json").unlink()
    with pytest.raises(TrainError, match="the bundle of the best trial, 1, is gone"):
        search(rated, found.bundle.path, trials=1, resume=True)


def test_there_must_be_rows_to_judge_by(tmp_path: Path) -> None:
    none = {"split": {"by": "random", "valid": 0.0, "test": 0.2}}
    dataset = ratings(tmp_path / "data", config=none)
    with pytest.raises(DataError, match="judges by the validation part; it is empty"):
        search(dataset, tmp_path / "best")


def test_without_optuna_the_extra_is_named(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError) as caught:
        search(rated, tmp_path / "best")
    assert "pip install 'scalerec[tune]'" in str(caught.value)
    assert not (tmp_path / "best.study").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"trials": 0}, "trials must be at least 1; got 0"),
        ({"timeout": -1.0}, "timeout must be at least 0; got -1.0"),
        ({"sampler": "grid"}, "sampler must be one of tpe, random; got 'grid'"),
        ({"pruner": "all"}, "pruner must be one of median, hyperband, none; got 'all'"),
    ],
)
def test_settings_of_a_search_are_checked(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TuneConfig.from_dict(settings)
    assert says in str(caught.value)
