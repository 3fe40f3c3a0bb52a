"""What a search leaves behind: a step of the lineage, and a table of its trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scalerec.bundle.canonical import json_digest
from scalerec.bundle.lineage import Step
from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec
from scalerec.train import Goal, TrainConfig
from scalerec.tune.config import TuneConfig
from scalerec.tune.plan import Plan
from scalerec.tune.study import TrialRecord

__all__ = ["counts", "identity_of", "reasons", "study_table", "tune_step"]


def identity_of(dataset: Dataset, plan: Plan, config: TuneConfig, goal: Goal) -> dict[str, Any]:
    """What two searches must have in common for their trials to be comparable, as JSON."""
    how = {"seed": config.seed, "startup": config.startup, "pruner": config.pruner}
    return {
        "data": dataset.digest,
        "metric": goal.metric,
        **plan.to_dict(),
        "sampler": config.sampler,
        **how,
    }


def counts(trials: Sequence[TrialRecord]) -> dict[str, int]:
    """How many trials there were, and how they ended."""
    found = Counter(trial.state for trial in trials)
    return {"trials": len(trials), **{s: found[s] for s in ("complete", "pruned", "failed")}}


def reasons(trials: Sequence[TrialRecord]) -> str:
    """Why trials failed, the most frequent reason first."""
    found = Counter(trial.reason for trial in trials if trial.state == "failed")
    return "; ".join(f"{count} x {text}" for text, count in found.most_common())


def tune_step(
    identity: Mapping[str, Any],
    trials: Sequence[TrialRecord],
    best: TrialRecord,
) -> Step:
    """The step of the lineage: the same trials give the same step.

    How much each setting matters is not in it: that estimate depends on how trials are ordered in
    memory, and a search that was killed would end with another digest.

    Args:
        identity: From `identity_of`.
        trials: All that ended.
        best: The one whose weights were kept.
    """
    settings = {
        "study": json_digest(identity),
        **{name: value for name, value in identity.items() if name != "data"},
        **counts(trials),
        "best": {
            "trial": best.number,
            "value": best.value,
            "model": best.model,
            "values": best.values,
        },
    }
    seconds = round(sum(trial.seconds for trial in trials), 3)
    return Step(verb="tune", settings=settings, data=str(identity["data"]), seconds=seconds)


def study_table(
    goal: Goal,
    trials: Sequence[TrialRecord],
    best: TrialRecord,
    run: tuple[ModelSpec, TrainConfig],
    importance: Mapping[str, float],
) -> dict[str, Any]:
    """The attachment ``study.json``: every trial, and the whole settings of the best.

    Args:
        goal: What they were judged by.
        trials: All that ended.
        best: The best of them.
        run: The best one's settings.
        importance: How much each setting matters.
    """
    spec, config = run
    return {
        "metric": goal.metric,
        "higher_is_better": goal.higher_is_better,
        **counts(trials),
        "best": best.number,
        "settings": {**config.to_dict(), "name": spec.model, "model": dict(spec.settings)}
        | {"init_std": spec.init_std},
        "importance": dict(importance),
        "rows": [_row(trial) for trial in trials],
    }


def _row(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state,
        "value": trial.value,
        "epochs": trial.curve[-1][0] if trial.curve else 0.0,
        "seconds": trial.seconds,
        "model": trial.model,
        "values": trial.values,
        "reason": trial.reason,
        "repeats": trial.repeats,
        "curve": [list(point) for point in trial.curve],
    }
