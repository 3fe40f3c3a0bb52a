"""From a model's logits to predictions: probabilities, numbers, classes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Events
from scalerec.data.layout import Layout
from scalerec.data.schema import TaskKind
from scalerec.errors import TrainError
from scalerec.models.recommender import Recommender
from scalerec.scoring.crew import Alone, Crew, together

__all__ = [
    "Scored",
    "check_scores",
    "evaluating",
    "predict",
    "score_all",
    "score_events",
    "task_slices",
]

# Rows scored at a time; see `scalerec.scoring.ranking`.
SCORE_BATCH = 4_096


@contextmanager
def evaluating(recommender: Recommender) -> Iterator[None]:
    """Without dropout; the mode is kept."""
    if not recommender.training:
        yield
        return
    recommender.eval()
    try:
        yield
    finally:
        recommender.train()


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


@dataclass(frozen=True, slots=True)
class Scored:
    """What metrics need to know of some rows.

    Args:
        labels: ``[B, T]`` float32.
        label_mask: Whether the label is known, ``[B, T]`` bool.
        weights: ``[B]`` float32.
        groups: ``[B]`` int64.
        logits: ``[B, C]`` float32.
    """

    labels: Tensor
    label_mask: Tensor
    weights: Tensor
    groups: Tensor
    logits: Tensor

    def pack(self) -> Tensor:
        """All of it as one tensor, ``[B, 2 T + 2 + C]`` float64, which holds each of them exactly.

        A number of a group is below 2^53.
        """
        beside = torch.stack([self.weights.double(), self.groups.double()], 1)
        own = (self.labels, self.label_mask, beside, self.logits)
        return torch.cat([part.double() for part in own], 1)

    @classmethod
    def unpack(cls, packed: Tensor, num_tasks: int) -> "Scored":
        """What `pack` gave."""
        labels, mask, beside = packed[:, : 2 * num_tasks + 2].split([num_tasks, num_tasks, 2], 1)
        logits = packed[:, 2 * num_tasks + 2 :].float()
        weights, groups = beside[:, 0].float(), beside[:, 1].long()
        return cls(labels.float(), mask.bool(), weights, groups, logits)


@torch.inference_mode()
def score_events(recommender: Recommender, events: Events, crew: Crew) -> Iterator[Scored]:
    """Score all events; process 0 is given them all, in their order, and the others nothing.

    Each process reads and scores its own batches, the same ones whoever scores them, so that the
    scores are the same in however many processes.

    Args:
        recommender: In any mode, which it keeps.
        events: The same on all processes.
        crew: The processes that share the work; all of them must go through to the end.
    """
    was_training, device = recommender.training, recommender.tables.device
    recommender.eval()
    try:
        for some, start in together(range(0, len(events), SCORE_BATCH), crew):
            batch = events.read(start, start + SCORE_BATCH)
            logits = recommender(batch.to(device)).float().cpu()
            own = Scored(batch.labels, batch.label_mask, batch.weights, batch.groups, logits)
            if crew.world == 1:
                yield own
                continue
            parts = crew.gather_first(own.pack(), "scores")
            for packed in parts[: len(some)]:
                yield Scored.unpack(packed, batch.labels.shape[1])
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
