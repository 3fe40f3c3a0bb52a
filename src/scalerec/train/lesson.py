"""What a model learns from beside the labels, as one more loss in every step."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.schema import TaskKind
from scalerec.models.recommender import Recommender

__all__ = ["Lesson", "begin_lesson"]


class Lesson(Protocol):
    """Gives the loss of each step in the place of the labels' own, which it may be made of.

    Whatever it draws must follow from the step's number, so that a resumed run goes on as the
    undisturbed one would have.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """What shapes it, as JSON: a checkpoint is only resumed with an equal one."""
        ...

    def begin(self, recommender: Recommender) -> nn.Module:
        """Prepare for a model, on the device where it is.

        Returns:
            What is learned beside the model, by an optimiser of the same kind as its dense part;
            a module without parameters where that is nothing.
        """
        ...

    def extend(self, batch: Batch, step: int) -> Batch:
        """The batch of a step with further rows, if there are any, at its end."""
        ...

    def loss(self, logits_bc: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """The loss of a step, a scalar.

        Args:
            logits_bc: What the model gave for the batch, ``[B, C]`` float32.
            batch: Training rows, then drawn negatives, then what `extend` added.
            rows: Numbers of the first ones among all training rows, ``[n]`` int64.
        """
        ...


def begin_lesson(lesson: Lesson | None, recommender: Recommender, world: int) -> nn.Module:
    """Begin a lesson, if there is one, and give what is learned beside the model.

    Args:
        lesson: The lesson.
        recommender: Where it is to be trained.
        world: Number of processes.

    Raises:
        ConfigError: If there are several processes, or the task is one of retrieval.
    """
    if lesson is None:
        return nn.Identity()
    require(world == 1, f"a teacher is learned from in one process; got {world}")
    kinds = [task.kind for task in recommender.layout.tasks]
    wrong = TaskKind.RETRIEVAL in kinds
    require(not wrong, "a teacher's scores are not learned from for tasks of kind retrieval")
    return lesson.begin(recommender)
