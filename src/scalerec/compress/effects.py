"""What a step of compression did: size, quality and time of the model after it."""

from dataclasses import dataclass
from typing import NamedTuple

from scalerec.config import Config
from scalerec.scoring.cost import CANDIDATES

__all__ = ["CANDIDATES", "METRICS", "Effect", "Metric", "metrics_of"]


class Metric(NamedTuple):
    """A metric of quality that an effect carries.

    Args:
        name: Its name there.
        title: Its name in tables.
        higher: Whether more of it is better.
        own: Whether it is what a kind of task is judged by where nothing else is asked for.
    """

    name: str
    title: str
    higher: bool
    own: bool = True


METRICS = (
    Metric("auc", "AUC", higher=True),
    Metric("accuracy", "accuracy", higher=True),
    Metric("ndcg", "NDCG@10", higher=True),
    Metric("rmse", "RMSE", higher=False),
    Metric("log_loss", "log loss", higher=False, own=False),
    Metric("ece", "ECE", higher=False, own=False),
)
"""In the order in which tables show them; a model has those of its kinds of tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect(Config):
    """A model as a server feels it.

    Args:
        step: What was done last, as a command says it; empty for the model that was given.
        parameters: Numbers that the model holds.
        nonzero: Those that are not zero.
        weight_bytes: Of the weights on disk.
        directory_bytes: Of the whole bundle, attachments aside.
        tensor_bytes: Of its tensors in memory.
        resident_bytes: By how much a process grows that opens the bundle; None where the system
            does not tell.
        auc: On the validation part, of binary tasks; of several the mean; None where it is
            undefined.
        log_loss: The same, of binary and multiclass tasks.
        ne: Normalised entropy: log loss as a share of that of the labels' mean; as `auc`.
        ece: Expected calibration error; as `auc`.
        accuracy: The same, of multiclass tasks.
        rmse: The same, of regression tasks, in their unit; of several the geometric mean, whose
            rise as a share depends on no unit.
        ndcg: NDCG@10 of lists from the whole catalogue, where the first task is one of retrieval.
        p50_ms: Milliseconds in which half of the requests with 1, 100 and 1,000 candidates are
            answered, on one thread.
        p99_ms: The same of 99 in 100.
    """

    step: str = ""
    parameters: int
    nonzero: int
    weight_bytes: int
    directory_bytes: int
    tensor_bytes: int
    resident_bytes: int | None
    auc: float | None = None
    log_loss: float | None = None
    ne: float | None = None
    ece: float | None = None
    accuracy: float | None = None
    rmse: float | None = None
    ndcg: float | None = None
    p50_ms: tuple[float, ...]
    p99_ms: tuple[float, ...]

    def metric(self, name: str) -> float | None:
        """One of `METRICS`, by name; None where it is undefined."""
        found: float | None = getattr(self, name)
        return found


def metrics_of(effect: Effect) -> list[Metric]:
    """Those of `METRICS` that a model has."""
    return [metric for metric in METRICS if effect.metric(metric.name) is not None]
