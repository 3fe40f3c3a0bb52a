"""Who teaches: one recommender or several, and a note of what they say of the training rows.

Shapes: B rows of a batch, N training rows, C columns of logits.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout
from scalerec.data.loading import read_in_order
from scalerec.data.schema import TaskKind
from scalerec.models.recommender import Recommender
from scalerec.scoring import task_slices
from scalerec.scoring.scores import SCORE_BATCH, check_scores
from scalerec.train.start import open_start

__all__ = [
    "Average",
    "Teacher",
    "digest_of",
    "mean_logits",
    "note_logits",
    "noted_path",
    "open_teacher",
]

Average = Literal["logits", "probabilities"]


class Teacher:
    """One recommender or several, whose mean is learned from; they are put in evaluation mode.

    They must not change any more: what they say of training rows is found once.

    Args:
        recommenders: At least one, all of one layout.
        average: What of several is averaged: their `logits` or their `probabilities`.
        digests: What tells each from others, such as its bundle's digest; found from its tensors
            by default.

    Raises:
        ConfigError: If there is none, or they are of several layouts.
    """

    def __init__(
        self,
        recommenders: Sequence[Recommender],
        *,
        average: Average = "logits",
        digests: Sequence[str] = (),
    ) -> None:
        require(len(recommenders) >= 1, "there must be at least one teacher; got none")
        words = ("logits", "probabilities")
        require(average in words, f"average must be one of {', '.join(words)}; got {average!r}")
        self.layout: Layout = recommenders[0].layout
        same = all(other.layout == self.layout for other in recommenders)
        require(same, "teachers must be of one layout: encode and train them on one data set")
        self.recommenders = [own.eval() for own in recommenders]
        self.average: Average = average
        self.digests = tuple(digests) or tuple(digest_of(own) for own in recommenders)
        self._noted: dict[str, NDArray[np.float32]] = {}

    @property
    def digest(self) -> str:
        """Tells what it says from what others say."""
        text = "\n".join((self.average, *self.digests) if len(self.digests) > 1 else self.digests)
        return hashlib.sha256(text.encode()).hexdigest()

    def noted(self, dataset: Dataset, folder: str | Path | None = None) -> NDArray[np.float32]:
        """What `note_logits` gives; several students of one data set share it."""
        if dataset.digest not in self._noted:
            self._noted[dataset.digest] = note_logits(self, dataset, folder)
        return self._noted[dataset.digest]

    def to(self, device: torch.device) -> None:
        """Bring all of them to a device."""
        for own in self.recommenders:
            own.to(device)

    @torch.no_grad()
    def logits(self, batch: Batch, *, exact: bool = True) -> Tensor:
        """What it says of a batch, ``[B, C]`` float32, without gradient.

        Args:
            batch: On its device.
            exact: Whether in full precision, and not in that of the caller's autocast.
        """
        device = batch.ids.device.type
        low = not exact and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=low):
            found = [own(batch).float() for own in self.recommenders]
        return mean_logits(self.layout, found, self.average)


def mean_logits(layout: Layout, logits: Sequence[Tensor], average: Average) -> Tensor:
    """The logits of an ensemble, ``[B, C]``.

    Args:
        layout: Names the tasks.
        logits: Of each member, ``[B, C]``.
        average: `logits`, or `probabilities`: those of binary and multiclass tasks are averaged
            and turned back into logits; numbers and scores are averaged as they are.
    """
    if len(logits) == 1:
        return logits[0]
    all_nbc = torch.stack(list(logits))
    if average == "logits":
        return all_nbc.mean(0)
    parts = []
    for task, columns in zip(layout.tasks, task_slices(layout), strict=True):
        own = all_nbc[:, :, columns]
        if task.kind is TaskKind.BINARY:
            # log(mean p) - log(mean (1 - p)), without leaving logarithms.
            yes, no = (torch.nn.functional.logsigmoid(side).logsumexp(0) for side in (own, -own))
            parts.append(yes - no)
        elif task.kind is TaskKind.MULTICLASS:
            parts.append(own.log_softmax(-1).logsumexp(0) - float(np.log(len(own))))
        else:
            parts.append(own.mean(0))
    return torch.cat(parts, 1)


def open_teacher(
    paths: Sequence[str | Path], dataset: Dataset, *, average: Average = "logits"
) -> Teacher:
    """Read bundles as teachers for a data set.

    Args:
        paths: The bundles.
        dataset: What they were trained on, or one that continues it.
        average: As in `Teacher`.

    Raises:
        BundleError: If one is not whole, holds no recommender, or was trained on other data.
    """
    starts = [open_start(path, dataset) for path in paths]
    found = [start.recommender for start in starts]
    return Teacher(found, average=average, digests=[start.digest for start in starts])


def note_logits(
    teacher: Teacher, dataset: Dataset, folder: str | Path | None = None
) -> NDArray[np.float32]:
    """What a teacher says of all training rows, in their order, ``[N, C]`` float32.

    Args:
        teacher: On the CPU or another device.
        dataset: Of its layout.
        folder: Where a file of it is kept, which is mapped and, where it is there already, not
            made again; in memory without one.

    Raises:
        TrainError: If a score is not finite.
    """
    events = dataset.split("train")
    shape = len(events), teacher.layout.num_outputs
    if folder is None:
        noted = np.empty(shape, np.float32)
        _fill(noted, teacher, dataset)
        return noted
    path = noted_path(teacher, dataset, folder)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.partial")
        mapped = np.lib.format.open_memmap(aside, "w+", np.float32, shape)
        _fill(mapped, teacher, dataset)
        mapped.flush()
        del mapped
        aside.replace(path)
    kept: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept


def noted_path(teacher: Teacher, dataset: Dataset, folder: str | Path) -> Path:
    """The file of a folder in which `note_logits` keeps what a teacher says of a data set."""
    name = hashlib.sha256(f"{teacher.digest}\n{dataset.digest}".encode()).hexdigest()[:16]
    return Path(folder) / f"teacher-{name}.npy"


def _fill(noted: NDArray[np.float32], teacher: Teacher, dataset: Dataset) -> None:
    device, start = teacher.recommenders[0].tables.matrix.device, 0
    for batch in read_in_order(dataset.split("train"), SCORE_BATCH):
        logits = check_scores(teacher.logits(batch.to(device)))
        noted[start : start + len(batch)] = logits.cpu().numpy()
        start += len(batch)


def digest_of(recommender: Recommender) -> str:
    """A digest of a recommender's spec and tensors, for one that is in no bundle."""
    found = hashlib.sha256(repr(recommender.spec.to_dict()).encode())
    for name, tensor in sorted(recommender.to_tensors().items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
