"""What stops a run, in words: labels that teach nothing; a loss or weights that are not finite."""

import numpy as np
import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.schema import TaskKind
from scalerec.errors import DataError, TrainError
from scalerec.models.recommender import Recommender
from scalerec.train.losses import row_losses

__all__ = ["check_finite", "check_labels", "diagnose"]

ROWS_SHOWN = 5


@torch.no_grad()
def diagnose(recommender: Recommender, batch: Batch, loss: float, step: int) -> str:
    """Name the rows and the feature behind a loss that is not finite.

    Args:
        recommender: The model as it was in that step; its mode is kept.
        batch: The step's rows, on the model's device.
        loss: The loss.
        step: Number of the step, from 1.
    """
    was_training = recommender.training
    recommender.eval()
    try:
        logits_bc = recommender(batch).float()
        fields_bfd = recommender.read(batch).fields
    finally:
        recommender.train(was_training)
    losses_bt, _ = row_losses(recommender.layout, logits_bc, batch)
    bad_b = ~(losses_bt.isfinite().all(1) & logits_bc.isfinite().all(1))
    rows: list[int] = bad_b.nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:ROWS_SHOWN])) or "none on its own"
    more = f" and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else ""
    place = f"step {step}: the loss is {loss}; rows of the batch: {shown}{more}"
    return f"{place}; {_cause(recommender, batch, fields_bfd)}"


def _cause(recommender: Recommender, batch: Batch, fields_bfd: Tensor) -> str:
    layout = recommender.layout
    inputs = {n.name: batch.dense[:, i] for i, n in enumerate(layout.numbers)}
    inputs |= {
        f.name: vectors.values for f, vectors in zip(layout.vectors, batch.vectors, strict=True)
    }
    for name, values in inputs.items():
        if not bool(values.isfinite().all()):
            return f"feature {name!r} holds a value that is not finite: prepare the data anew"
    way_out = "try a smaller lr, or clip_norm"
    names = [field.name for field in layout.fields]
    bad = (~fields_bfd.isfinite()).any(-1).any(0).nonzero().flatten().tolist()
    if bad:
        return f"feature {names[bad[0]]!r} has an embedding that is not finite; {way_out}"
    largest = int(fields_bfd.abs().amax((0, 2)).argmax())
    return f"the largest embedding is that of feature {names[largest]!r}; {way_out}"


def check_finite(recommender: Recommender, step: int) -> None:
    """Refuse weights that are not finite; they come of a finite loss whose gradient was not.

    Raises:
        TrainError: If there are any, with the tensor's name.
    """
    for name, tensor in recommender.to_tensors().items():
        if not _is_finite(tensor):
            raise TrainError(
                f"step {step}: {name!r} has weights that are not finite; "
                "try a smaller lr, or clip_norm"
            )


def _is_finite(tensor: Tensor) -> bool:
    # The sum of a large table is several times as fast to have, and not finite if a weight is not.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_labels(dataset: Dataset, *, has_negatives: bool) -> None:
    """Refuse training rows in which a binary task has one class only.

    Args:
        dataset: Its training rows are looked at.
        has_negatives: Whether negatives are drawn, which are the first task's other class.

    Raises:
        DataError: If a binary task has one class only, with the way out.
    """
    labels = np.asarray(dataset.split("train").column("labels"))
    for i, task in enumerate(dataset.schema.tasks):
        if task.kind is not TaskKind.BINARY or (has_negatives and i == 0):
            continue
        known = labels[:, i][~np.isnan(labels[:, i])]
        if len(known) and known.min() == known.max():
            raise DataError(
                f"{dataset.directory}: task {task.name!r} has only label {known[0]:g} in its "
                f"{len(known)} training rows; a binary task needs both: check at_least/positive "
                "in the schema, draw --negatives, or use kind 'retrieval'"
            )
