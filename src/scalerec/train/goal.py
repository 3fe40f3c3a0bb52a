"""What a run is judged by: a metric of the validation part, and which way is better."""

from collections.abc import Mapping, Sequence

from scalerec.data.schema import Task, TaskKind
from scalerec.errors import ConfigError, DataError
from scalerec.scoring import EvaluateConfig

__all__ = ["LOWER_IS_BETTER", "OWN_METRIC", "Goal"]

LOWER_IS_BETTER = ("log_loss", "ne", "ece", "rmse", "mae")
OWN_METRIC = {
    TaskKind.BINARY: "auc",
    TaskKind.MULTICLASS: "accuracy",
    TaskKind.REGRESSION: "rmse",
    TaskKind.RETRIEVAL: "ndcg@10",
}
# What an evaluation gives for each kind of task; `gauc` only where rows have groups.
OF_KIND = {
    TaskKind.BINARY: ("auc", "log_loss", "ne", "ece", "gauc"),
    TaskKind.MULTICLASS: ("accuracy", "log_loss"),
    TaskKind.REGRESSION: ("rmse", "mae"),
    TaskKind.RETRIEVAL: (),
}
OF_LISTS = ("hit_rate", "recall", "precision", "ndcg", "mrr", "map")


class Goal:
    """The metric that decides when to stop and what to keep.

    Args:
        tasks: The schema's.
        metric: A metric's name, with a task's before a dot if only that task counts; empty for
            the tasks' own metrics.

    Raises:
        ConfigError: If no task has such a metric.

    Example:
        >>> goal = Goal((Task(name="click"), Task(name="stars", kind=TaskKind.REGRESSION)))
        >>> goal.metric
        'click.auc+stars.rmse'
        >>> goal.value({"click.auc": 0.75, "click.ne": 0.9, "stars.rmse": 0.5})   # mean(auc, -rmse)
        0.125
    """

    def __init__(self, tasks: Sequence[Task], metric: str = "") -> None:
        self.metric = metric or _own_metrics(tasks)
        self._names = self.metric.split("+")
        _check(tasks, self._names)
        lower = [_bare(name) in LOWER_IS_BETTER for name in self._names]
        # An error beside a gain counts negatively; errors alone are averaged as they are.
        self.higher_is_better = not all(lower)
        self._signs = [-1.0 if self.higher_is_better and low else 1.0 for low in lower]

    @property
    def evaluation(self) -> EvaluateConfig:
        """What is to be measured for it: items are ranked only if the metric ends in ``@k``."""
        cuts = [name.rpartition("@")[2] for name in self._names if "@" in name]
        if not cuts:
            return EvaluateConfig(split="valid", ranking="no")
        ks = tuple(sorted({int(cut) for cut in cuts}))
        return EvaluateConfig(split="valid", ranking="yes", ks=ks)

    def value(self, found: Mapping[str, float | None]) -> float:
        """The mean of the metric over the tasks that have it.

        Args:
            found: Metrics by name, as an evaluation gives them.

        Raises:
            ConfigError: If it was not measured.
            DataError: If it is undefined.
        """
        values: list[float] = []
        for wanted, sign in zip(self._names, self._signs, strict=True):
            own = {n: v for n, v in found.items() if wanted in (n, _bare(n))}
            if not own:
                raise ConfigError(f"metric must be one of {', '.join(found)}; got {wanted!r}")
            for name, value in own.items():
                if value is None:
                    raise DataError(
                        f"metric {name!r} is undefined on the validation part, where all labels "
                        "may be alike; choose another metric, such as log_loss, or another split"
                    )
                values.append(sign * value)
        return sum(values) / len(values)

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value is a gain over the best so far; the first always is."""
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best


def _own_metrics(tasks: Sequence[Task]) -> str:
    """Each kind's metric; with the task's name where tasks differ in kind."""
    names = list(dict.fromkeys(OWN_METRIC[task.kind] for task in tasks))
    if len(names) == 1:
        return names[0]
    return "+".join(f"{task.name}.{OWN_METRIC[task.kind]}" for task in tasks)


def _bare(name: str) -> str:
    """A metric's name without the task's."""
    return name.rpartition(".")[2]


def _check(tasks: Sequence[Task], names: Sequence[str]) -> None:
    allowed = dict.fromkeys(name for task in tasks for name in OF_KIND[task.kind])
    if len(tasks) > 1:
        full = (f"{task.name}.{name}" for task in tasks for name in OF_KIND[task.kind])
        allowed |= dict.fromkeys(full)
    for name in names:
        head, _, cut = name.partition("@")
        ranked = head in OF_LISTS and cut.isdecimal() and int(cut) >= 1
        if name not in allowed and not ranked:
            lists = ", ".join(f"{head}@k" for head in OF_LISTS)
            raise ConfigError(f"metric must be one of {', '.join((*allowed, lists))}; got {name!r}")
