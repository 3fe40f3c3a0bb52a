"""One trial: its settings drawn, a training run that can be stopped, and what came of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalerec.data.dataset import Dataset
from scalerec.errors import ScalerecError
from scalerec.models.recommender import ModelSpec
from scalerec.train import Goal, Runtime, TrainConfig, Trained, train
from scalerec.train.loop import OnProgress
from scalerec.tune.plan import MODEL, Plan
from scalerec.tune.space import Choice, Domain

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["RESOURCE", "FailedError", "PrunedError", "TrialRun", "draw", "run_trial"]

# Evaluations are reported by the time of training, in hundredths of an epoch.
RESOURCE = 100
# What a wrong combination of settings can cause. Anything else is a defect, and ends the search.
CAUSES = (ScalerecError, MemoryError, RuntimeError)


class PrunedError(Exception):
    """The pruner stopped a trial at an evaluation."""


class FailedError(Exception):
    """A trial has no result; its text is the reason."""


@dataclass(frozen=True, slots=True)
class TrialRun:
    """A trial that ended.

    Args:
        spec: Its model.
        config: Its settings.
        trained: The run.
        value: What it is judged by, of the weights that are kept.
    """

    spec: ModelSpec
    config: TrainConfig
    trained: Trained
    value: float


class _PruningSink:
    """Tells the study of every evaluation, and stops the run if the study says so.

    A sink is called between two steps and the run has no files of its own, so nothing is left
    half-written.
    """

    def __init__(self, trial: "Trial", goal: Goal, epochs: int) -> None:
        self._trial, self._goal, self._epochs = trial, goal, epochs

    def log(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Report the value, and raise `PrunedError` if the trial is not worth its time."""
        epoch = values["epoch"]
        self._trial.report(_judged(self._goal, values), round(RESOURCE * epoch))
        # The last evaluation costs nothing more.
        if epoch < self._epochs and self._trial.should_prune():
            raise PrunedError

    def close(self) -> None:
        """Do nothing."""


def draw(trial: "Trial", plan: Plan, is_default: bool) -> tuple[str, dict[str, Any]]:
    """Draw the model and the settings of a trial.

    Args:
        trial: Of the study.
        plan: What is searched.
        is_default: Whether it is a run without a search; only what its settings hold is told to
            the study.

    Returns:
        The model, and the values by the settings' dotted names.
    """
    model = plan.models[0]
    if len(plan.models) > 1:
        model = _suggest(trial, MODEL, Choice(plan.models))
    space = plan.spaces[model]
    if is_default:
        held = plan.defaults(model) or {}
        for name in held:
            _suggest(trial, plan.key(model, name), space[name])
        return model, {}
    values = {n: _suggest(trial, plan.key(model, n), domain) for n, domain in space.items()}
    return model, values


def stored(domain: Domain, value: object) -> Any:
    """A value as the study stores it: those of a choice as JSON text, for lists are among them."""
    return json.dumps(value) if isinstance(domain, Choice) else value


def _suggest(trial: "Trial", key: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return json.loads(trial.suggest_categorical(key, [*map(json.dumps, domain.values)]))
    if domain.whole:
        step = int(domain.step) or 1
        return trial.suggest_int(key, int(domain.low), int(domain.high), step=step, log=domain.log)
    step_or_none = domain.step or None
    value = trial.suggest_float(key, domain.low, domain.high, step=step_or_none, log=domain.log)
    # Three steps of .1 are .3, and not .30000000000000004.
    return round(value, 12) if domain.step else value


def run_trial(
    trial: "Trial",
    dataset: Dataset,
    run: tuple[ModelSpec, TrainConfig],
    runtime: Runtime,
    on_progress: OnProgress | None = None,
) -> TrialRun:
    """Train once, on the training part, and judge by the validation part.

    Args:
        trial: Is told of every evaluation.
        dataset: The data.
        run: The model and the settings.
        runtime: The processes.
        on_progress: As in `train`.

    Raises:
        FailedError: If the settings do not go together, or the run did not end well.
        PrunedError: If the pruner stopped it.
    """
    spec, config = run
    goal = Goal(dataset.schema.tasks, config.metric)
    sink = _PruningSink(trial, goal, config.epochs)
    try:
        trained = train(
            dataset, spec, config, runtime=runtime, sinks=[sink], on_progress=on_progress
        )
    except CAUSES as error:
        raise FailedError(reason(error)) from error
    best = trained.best
    # Without early stopping the last weights are kept, not the best.
    value = best if best is not None and config.patience >= 0 else _judged(goal, trained.curve[-1])
    return TrialRun(spec, config, trained, value)


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    lines = str(error).splitlines() or [""]
    own = isinstance(error, ScalerecError)
    return lines[0] if own else f"{type(error).__name__}: {lines[0]}"


def _judged(goal: Goal, entry: Mapping[str, float]) -> float:
    """The goal's value of an entry of a curve."""
    head = "valid/"
    found = {n.removeprefix(head): value for n, value in entry.items() if n.startswith(head)}
    return goal.value(found)
