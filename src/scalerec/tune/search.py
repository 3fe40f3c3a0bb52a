"""The search: trial after trial on the validation part; the best one's weights become the bundle.

The test part is never read. A trial that beats all before it writes its bundle beside the journal,
and only then is it told to the study; so whatever the study calls the best has its bundle, at
whatever moment the search is killed.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scalerec.bundle import Bundle, read_bundle, write_bundle, write_recommender
from scalerec.bundle.canonical import json_digest
from scalerec.data.dataset import Dataset
from scalerec.errors import BundleError, ConfigError, DataError, TrainError
from scalerec.train import Goal, OneProcess, Runtime
from scalerec.train.lineage import prepare_step, train_step
from scalerec.train.loop import OnProgress
from scalerec.tune.config import TuneConfig
from scalerec.tune.plan import Plan
from scalerec.tune.record import counts, identity_of, reasons, study_table, tune_step
from scalerec.tune.study import JOURNAL, Study, TrialRecord, open_study
from scalerec.tune.trial import FailedError, PrunedError, TrialRun, draw, run_trial

__all__ = ["OnTrial", "Tuned", "study_folder", "tune"]

CURVES, TRIALS = "curves.json", "study.json"
OnTrial = Callable[[TrialRecord, TrialRecord | None], None]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search gave.

    Args:
        bundle: The best trial's, with the search in its lineage.
        best: That trial.
        trials: All that ended.
        metric: What they were judged by.
    """

    bundle: Bundle
    best: TrialRecord
    trials: tuple[TrialRecord, ...]
    metric: str


@dataclass(frozen=True, slots=True)
class _Search:
    dataset: Dataset
    plan: Plan
    goal: Goal
    study: Study
    runtime: Runtime
    on_progress: OnProgress | None


def study_folder(out: Path) -> Path:
    """Where the study of a search is kept: beside what it makes."""
    return out.with_name(f"{out.name}.study")


def tune(
    dataset: Dataset,
    plan: Plan,
    out: str | Path,
    config: TuneConfig | None = None,
    *,
    runtime: Runtime | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_trial: OnTrial | None = None,
    on_progress: OnProgress | None = None,
) -> Tuned:
    """Search settings, and write the best trial's model as a bundle.

    The first trial of each model has the plan's own settings, so the result is never worse on the
    validation part than a training without a search. The study stays beside `out`, as
    ``OUT.study``: a later call with `resume` goes on with it.

    Args:
        dataset: Trials train on its training part and are judged on its validation part.
        plan: What is searched; from `make_plan`.
        out: The bundle to write.
        config: How many trials, and how they are drawn.
        runtime: The process; on the CPU by default.
        resume: Whether to go on with the study that is there, if there is one.
        overwrite: Whether a bundle at `out` may be replaced, and its study thrown away.
        on_trial: Called after each trial with it and the best so far.
        on_progress: Called now and then by the trial that runs.

    Raises:
        ConfigError: If `out` or its study exists, or the study is of another search.
        DataError: If there are no validation rows.
        MissingExtraError: If Optuna is not installed.
        TrainError: If no trial has a result, or another process searches there.
    """
    config, runtime, out = config or TuneConfig(), runtime or OneProcess(), Path(out)
    goal = Goal(dataset.schema.tasks, plan.metric)
    if not dataset.num_rows("valid"):
        raise DataError(f"{dataset.directory}: a search judges by the validation part; it is empty")
    identity = identity_of(dataset, plan, config, goal)
    folder = study_folder(out)
    own = _check_target(out, folder, json_digest(identity), resume, overwrite)
    with open_study(
        folder, identity, plan, config, higher_is_better=goal.higher_is_better
    ) as study:
        search = _Search(dataset, plan, goal, study, runtime, on_progress)
        started = time.perf_counter()
        while (number := study.next_number()) <= config.trials:
            late = time.perf_counter() - started >= config.timeout > 0
            if late and _best(search) is not None:
                break
            _run(search, number)
            best = _best(search)
            study.keep_bundle(best.number if best else 0)
            if on_trial:
                on_trial(study.ended()[-1], best)
        return _finish(search, identity, out, overwrite=overwrite or own)


def _check_target(out: Path, folder: Path, study: str, resume: bool, overwrite: bool) -> bool:
    """Refuse to replace what is not asked for; tell whether `out` is an earlier result of it."""
    own = resume and _is_result(out, study)
    if out.exists() and not (overwrite or own):
        raise ConfigError(f"--out {out} exists already; choose another, or --overwrite")
    if not resume and folder.exists():
        known = (folder / JOURNAL).exists() or not any(folder.iterdir())
        if not (overwrite and known):
            raise ConfigError(
                f"{folder} holds a study already; go on with --resume, choose another --out, or "
                "start anew with --overwrite"
            )
        shutil.rmtree(folder)
    return own


def _is_result(out: Path, study: str) -> bool:
    """Whether a bundle came of a study."""
    try:
        lineage = read_bundle(out, verify=False).lineage if out.exists() else ()
    except BundleError:
        return False
    return any(step.verb == "tune" and step.settings.get("study") == study for step in lineage)


def _run(search: _Search, number: int) -> None:
    """Run one trial, and tell the study of its end."""
    study, started = search.study, time.perf_counter()
    trial, is_default = study.ask(number)
    model, values = draw(trial, search.plan, is_default)
    study.note(trial, model, values)
    known = [t for t in study.ended() if (t.model, t.values) == (model, values)]
    if known:
        study.repeat(trial, known[0])
        return
    try:
        try:
            run = search.plan.run(model, values)
        except ConfigError as error:
            raise FailedError(str(error)) from error
        found = run_trial(trial, search.dataset, run, search.runtime, search.on_progress)
    except PrunedError:
        study.end(trial, time.perf_counter() - started)
    except FailedError as error:
        study.end(trial, time.perf_counter() - started, reason=str(error))
    else:
        best = _best(search)
        if search.goal.is_better(found.value, best.value if best else None):
            _keep(search, number, found)
        study.end(trial, time.perf_counter() - started, value=found.value)


def _keep(search: _Search, number: int, found: TrialRun) -> None:
    """Write a trial's bundle aside; a killed attempt of the same trial is replaced."""
    dataset, trained = search.dataset, found.trained
    steps = (
        prepare_step(dataset),
        train_step(dataset, found.spec, found.config, trained.seconds),
    )
    trained.recommender.to("cpu")
    place = search.study.bundle_of(number)
    bundle = write_recommender(place, trained.recommender, dataset, steps, overwrite=True)
    bundle.attach(CURVES, {"metric": trained.metric, "steps": trained.curve})


def _best(search: _Search) -> TrialRecord | None:
    """The first of the trials that no other beats."""
    best: TrialRecord | None = None
    for trial in search.study.ended():
        value = trial.value if trial.state == "complete" else None
        if value is not None and search.goal.is_better(value, best.value if best else None):
            best = trial
    return best


def _finish(search: _Search, identity: dict[str, object], out: Path, *, overwrite: bool) -> Tuned:
    """Write the best trial's bundle to its place, with the search in its lineage."""
    trials, best, goal = search.study.ended(), _best(search), search.goal
    if best is None:
        found = counts(trials)
        raise TrainError(
            f"none of {found['trials']} trials has a result ({found['pruned']} pruned, "
            f"{found['failed']} failed): {reasons(trials)}"
        )
    place = search.study.bundle_of(best.number)
    try:
        aside = read_bundle(place)
    except BundleError as error:
        raise TrainError(
            f"the bundle of the best trial, {best.number}, is gone: {error}; start anew with "
            "--overwrite"
        ) from error
    importance = search.study.importance()
    *before, last = aside.lineage
    lineage = (*before, tune_step(identity, trials, best), last)
    contents = dataclasses.replace(aside.contents(), lineage=lineage)
    bundle = write_bundle(out, contents, overwrite=overwrite)
    curves = {k: v for k, v in aside.attachment_json(CURVES).items() if k != "bundle"}
    bundle.attach(CURVES, curves)
    run = search.plan.run(best.model, best.values)
    bundle.attach(TRIALS, study_table(goal, trials, best, run, importance))
    return Tuned(bundle, best, tuple(trials), goal.metric)
