"""Tasks: what is predicted, and from which column."""

from dataclasses import dataclass
from enum import StrEnum

from scalerec.config import Config, require

__all__ = ["Task", "TaskKind"]


class TaskKind(StrEnum):
    """What a task predicts, and so its loss and its metrics."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    RETRIEVAL = "retrieval"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(Config):
    """Something to predict.

    Args:
        name: The task's name; it heads the task's metrics where there are several tasks.
        kind: Binary, multiclass, regression or retrieval.
        column: The label's column in the events table; `name` if empty.
        at_least: For binary and retrieval: the label is positive when the column is at least this.
            Without it (and without `positive`) a binary column holds 0/1, and every row of a
            retrieval task is positive: no column is read.
        positive: For binary and retrieval: the label is positive when the column, as text, is one
            of these.
        num_classes: Of a multiclass task; its column holds 0 .. num_classes-1.
        weight: The task's weight in the sum of losses.
    """

    name: str
    kind: TaskKind = TaskKind.BINARY
    column: str = ""
    at_least: float | None = None
    positive: tuple[str, ...] = ()
    num_classes: int = 2
    weight: float = 1.0

    def __post_init__(self) -> None:
        head = f"task {self.name!r}:"
        require(self.weight > 0, f"{head} weight must be positive; got {self.weight}")
        cuts = (self.at_least is not None) + bool(self.positive)
        require(cuts < 2, f"{head} give at_least or positive, not both")
        cuttable = self.kind in (TaskKind.BINARY, TaskKind.RETRIEVAL)
        require(
            cuttable or not cuts,
            f"{head} at_least and positive are for binary and retrieval; got {self.kind.value}",
        )
        require(self.num_classes >= 2, f"num_classes must be at least 2; got {self.num_classes}")

    @property
    def source(self) -> str:
        """The label's column in the events table."""
        return self.column or self.name

    @property
    def has_column(self) -> bool:
        """Whether a label is read; without, every row of a retrieval task is positive."""
        cut = self.at_least is not None or bool(self.positive)
        return cut or self.kind is not TaskKind.RETRIEVAL

    @property
    def num_outputs(self) -> int:
        """How many columns of the model's output belong to this task."""
        return self.num_classes if self.kind is TaskKind.MULTICLASS else 1
