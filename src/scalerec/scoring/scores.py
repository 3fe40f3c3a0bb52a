"""From a model's logits to predictions: probabilities, numbers, classes."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.data.schema import TaskKind
from scalerec.errors import TrainError
from scalerec.models.recommender import Recommender
from scalerec.scoring.crew import Alone, Crew, together

__all__ = ["check_scores", "predict", "score_all", "task_slices"]

# Rows scored at a time; see `scalerec.scoring.ranking`.
SCORE_BATCH = 4_096


def task_slices(layout: Layout) -> list[slice]:
    """The columns of the model's output that belong to each task."""
    slices, start = [], 0
    for task in layout.tasks:
        slices.append(slice(start, start + task.num_outputs))
        start += task.num_outputs
    return slices


def predict(layout: Layout, logits_bc: Tensor) -> Tensor:
    """Turn logits into predictions.

    Args:
        layout: Names the tasks.
        logits_bc: ``[B, C]``.

    Returns:
        ``[B, C]`` float32: a probability for a binary task, one a class for a multiclass task, the
        number itself for regression, the score itself for retrieval.
    """
    logits_bc = logits_bc.float()
    parts = []
    for task, columns in zip(layout.tasks, task_slices(layout), strict=True):
        own = logits_bc[:, columns]
        if task.kind is TaskKind.BINARY:
            own = own.sigmoid()
        elif task.kind is TaskKind.MULTICLASS:
            own = own.softmax(-1)
        parts.append(own)
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def score_all(
    recommender: Recommender,
    batches: Iterable[Batch],
    device: torch.device | str = "cpu",
    crew: Crew | None = None,
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Give each batch with the model's logits ``[B, C]``; dropout is off while scoring.

    Args:
        recommender: In any mode, which it keeps.
        batches: Of its layout, on the CPU.
        device: Where the model is.
        crew: The processes that share the work; each of them is given all batches and logits.

    Raises:
        TrainError: If a score is not finite.
    """
    was_training, crew = recommender.training, crew or Alone()
    recommender.eval()
    try:
        for some, own in together(batches, crew):
            parts = crew.gather(recommender(own.to(device)).float().cpu(), "scores")
            for batch, logits in zip(some, parts, strict=False):
                yield batch, check_scores(logits).numpy()
    finally:
        recommender.train(was_training)


def check_scores(scores: Tensor) -> Tensor:
    """Give scores back, or refuse those that are not finite.

    Raises:
        TrainError: If one is not.
    """
    if not bool(scores.isfinite().all()):
        raise TrainError(
            "the model's scores are not finite: its weights are too large or were spoilt; "
            "try a smaller lr, or clip_norm"
        )
    return scores
