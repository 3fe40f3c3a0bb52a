"""A study on disk: every trial of a search, in a journal that survives a kill at any moment.

```text
OUT.study/journal.log    Optuna's journal: one JSON line an event, waited for until it is on disk
OUT.study/lock           held while a search runs
OUT.study/trial-00007/   the bundle of the best trial so far
```

A trial has a number of its own, from 1. One that was running when its search was killed is marked
as failed in the journal and waits under the same number, so that it runs again.
"""

import fcntl
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalerec.data.loading import step_seed
from scalerec.errors import ConfigError, MissingExtraError, TrainError
from scalerec.tune.config import TuneConfig
from scalerec.tune.plan import MODEL, Plan
from scalerec.tune.trial import RESOURCE, stored

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

__all__ = ["JOURNAL", "Study", "TrialRecord", "open_study"]

JOURNAL = "journal.log"
LOCK = "lock"
NAME = "search"
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What is known of a trial that ended.

    Args:
        number: From 1, in the order of their starts.
        state: `complete`, `pruned` or `failed`.
        value: The metric; of a pruned one the last that was seen.
        model: Its name in the zoo.
        values: What was drawn, by the settings' dotted names; empty for a run of the defaults.
        seconds: Time taken.
        reason: Why it failed.
        curve: Epoch and metric of every evaluation.
        repeats: Number of the earlier trial with the same settings, whose end is taken over; 0 if
            it was trained.
    """

    number: int
    state: str
    value: float | None
    model: str
    values: dict[str, Any]
    seconds: float
    reason: str
    curve: tuple[tuple[float, float], ...]
    repeats: int = 0


class _NoLock:
    """The study's own lock is held anyway, and goes when the process goes."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


class Study:
    """The trials of a search; `open_study` gives one.

    Args:
        folder: Where it is kept.
        study: Optuna's.
        plan: What is searched.
        config: How.
    """

    def __init__(self, folder: Path, study: "optuna.Study", plan: Plan, config: TuneConfig) -> None:
        self.folder = folder
        self._study, self._plan, self._config = study, plan, config

    def ended(self) -> list[TrialRecord]:
        """The trials that ended, by their numbers."""
        found = [_record(t) for t in self._study.get_trials(deepcopy=False) if _has_ended(t)]
        return sorted(found, key=lambda record: record.number)

    def next_number(self) -> int:
        """The number of the next trial."""
        return len(self.ended()) + 1

    def ask(self, number: int) -> "tuple[Trial, bool]":
        """Start a trial; gives it, and whether it is a run of the defaults.

        Each draws from a generator of its own, so that a search that was killed goes on as the
        undisturbed one would have.
        """
        self._study.sampler = _sampler(self._config, number)
        models, defaults = self._plan.models, None
        if number <= len(models):
            defaults = self._plan.defaults(models[number - 1])
        if defaults is not None and not self._waiting(number):
            values = self._as_stored(models[number - 1], defaults)
            self._study.enqueue_trial(values, user_attrs={"number": number})
        trial = self._study.ask()
        trial.set_user_attr("number", number)
        return trial, defaults is not None

    def note(self, trial: "Trial", model: str, values: Mapping[str, Any]) -> None:
        """Keep what was drawn for a trial."""
        trial.set_user_attr("drawn", {"model": model, "values": dict(values)})

    def end(
        self,
        trial: "Trial",
        seconds: float,
        *,
        value: float | None = None,
        reason: str = "",
    ) -> None:
        """End a trial: complete with a value, failed with a reason, else pruned."""
        from optuna.trial import TrialState

        trial.set_user_attr("seconds", round(seconds, 3))
        if reason:
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL)
        elif value is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

    def repeat(self, trial: "Trial", earlier: TrialRecord) -> None:
        """End a trial as an earlier one with the same settings ended: it would train the same."""
        trial.set_user_attr("repeats", earlier.repeats or earlier.number)
        for epoch, value in earlier.curve:
            trial.report(value, round(RESOURCE * epoch))
        ended = earlier.value if earlier.state == "complete" else None
        self.end(trial, 0.0, value=ended, reason=earlier.reason)

    def importance(self) -> dict[str, float]:
        """How much each setting matters for the metric, in all 1; nothing where it is not known.

        PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces,
        Watanabe, Bansal, Hutter, 2023, https://arxiv.org/abs/2304.10255.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator())
            return {name: round(float(share), 4) for name, share in found.items()}
        return {}

    def bundle_of(self, number: int) -> Path:
        """Where a trial's bundle is kept while it is the best."""
        return self.folder / f"trial-{number:05d}"

    def keep_bundle(self, number: int) -> None:
        """Remove every bundle but one, and what writes that were cut short left behind."""
        for entry in self.folder.iterdir():
            own = entry.name.startswith(("trial-", ".trial-"))
            if own and entry != self.bundle_of(number):
                shutil.rmtree(entry, ignore_errors=True)

    def requeue(self) -> None:
        """Mark trials that were running as failed; they wait to be run again."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            number = trial.user_attrs.get("number")
            if number is not None and not self._waiting(number):
                # What was drawn in part is drawn again, by the same generator; a run of the
                # defaults was told its values beforehand.
                told = trial.system_attrs.get("fixed_params", {})
                values = trial.params if "drawn" in trial.user_attrs else told
                self._study.enqueue_trial(values, user_attrs={"number": number})
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _waiting(self, number: int) -> bool:
        from optuna.trial import TrialState

        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return any(trial.user_attrs.get("number") == number for trial in waiting)

    def _as_stored(self, model: str, values: Mapping[str, Any]) -> dict[str, Any]:
        plan, space = self._plan, self._plan.spaces[model]
        found = {plan.key(model, n): stored(space[n], value) for n, value in values.items()}
        return {**({MODEL: json.dumps(model)} if len(plan.models) > 1 else {}), **found}


@contextmanager
def open_study(
    folder: Path,
    identity: Mapping[str, Any],
    plan: Plan,
    config: TuneConfig,
    *,
    higher_is_better: bool,
) -> Iterator[Study]:
    """Open the study in a folder, or make it; it is this process's until the block ends.

    Args:
        folder: Where it is kept.
        identity: What a search must share with an earlier one to go on with its trials, as JSON.
        plan: What is searched.
        config: How.
        higher_is_better: Which way the metric is better.

    Raises:
        ConfigError: If the study there is of another search.
        MissingExtraError: If Optuna is not installed.
        TrainError: If another process searches there, or the journal cannot be read.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "tune") from None
    folder.mkdir(parents=True, exist_ok=True)
    verbosity = optuna.logging.get_verbosity()
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainError(f"{folder}: another search is running there") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            found = _load(folder / JOURNAL, config, higher_is_better, plan)
            _check_identity(found, folder, identity)
            study = Study(folder, found, plan, config)
            study.requeue()
            yield study
        finally:
            optuna.logging.set_verbosity(verbosity)


def _load(journal: Path, config: TuneConfig, higher_is_better: bool, plan: Plan) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    _cut_torn_line(journal)
    lock: Any = _NoLock()
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=lock)),
            study_name=NAME,
            direction="maximize" if higher_is_better else "minimize",
            sampler=_sampler(config, 0),
            pruner=_pruner(config, plan),
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TrainError(
            f"{journal}: not a journal of a study: {error}; start anew with --overwrite"
        ) from error


def _cut_torn_line(journal: Path) -> None:
    """Cut off what a kill in the middle of a write left; Optuna would write on in that line."""
    if not journal.is_file():
        return
    with journal.open("r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)


def _check_identity(study: "optuna.Study", folder: Path, identity: Mapping[str, Any]) -> None:
    known = study.user_attrs.get("identity")
    now = json.loads(json.dumps(identity))
    if known is None:
        study.set_user_attr("identity", now)
        return
    for name, value in now.items():
        if known.get(name) != value:
            was, now_is = _difference(known.get(name), value)
            raise ConfigError(
                f"{folder} is a study with another {name}: {was}, now {now_is}; go on with what "
                "it was started with, choose another --out, or start anew with --overwrite"
            )


def _difference(was: Any, now: Any) -> tuple[str, str]:
    """Two values as text; of two tables only what differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [n for n in {**was, **now} if was.get(n) != now.get(n)]
        was, now = ({n: one[n] for n in names if n in one} for one in (was, now))
    return json.dumps(was), json.dumps(now)


def _sampler(config: TuneConfig, number: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    seed = step_seed(config.seed, number) & 0xFFFFFFFF
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # settings drawn together are an experiment of Optuna 4
        return TPESampler(
            seed=seed,
            n_startup_trials=config.startup,
            multivariate=True,
            group=True,
            constant_liar=False,
        )


def _pruner(config: TuneConfig, plan: Plan) -> "optuna.pruners.BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if config.pruner == "none":
        return NopPruner()
    if config.pruner == "median":
        return MedianPruner(n_startup_trials=min(5, config.startup))
    return HyperbandPruner(min_resource=RESOURCE, max_resource=RESOURCE * plan.epochs)


def _has_ended(trial: "FrozenTrial") -> bool:
    """Whether it is over for good: an interrupted one has no reason, and runs again."""
    ended = trial.state.is_finished() and "number" in trial.user_attrs
    return ended and (trial.state.name != "FAIL" or "reason" in trial.user_attrs)


def _record(trial: "FrozenTrial") -> TrialRecord:
    held = trial.user_attrs
    drawn = held.get("drawn", {"model": "", "values": {}})
    curve = tuple((k / RESOURCE, v) for k, v in sorted(trial.intermediate_values.items()))
    state = STATES[trial.state.name]
    value = trial.value if state == "complete" else curve[-1][1] if curve else None
    return TrialRecord(
        number=held["number"],
        state=state,
        value=value,
        model=drawn["model"],
        values=drawn["values"],
        seconds=held.get("seconds", 0.0),
        reason=held.get("reason", ""),
        curve=curve,
        repeats=held.get("repeats", 0),
    )
