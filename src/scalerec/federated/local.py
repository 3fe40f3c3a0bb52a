"""Local training of a cohort as one batched computation.

Parties stand in the order of their sizes, largest first, so that those who still have a batch are
always the first few: a step computes their stretch of every stacked tensor and nothing else. Dense
parameters are stacked, ``[P, ...]``; the rows of tables that parties read lie in one matrix, those
of each party in turn. A short last batch is filled with examples that do not count.

`scalerec.federated.alone` trains one party at a time: the reference. Both draw alike and take the
same steps; they differ in the order of sums inside products.

Shapes: P parties, B examples in a step, K rows of all of them, W a row's width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config, require
from scalerec.federated.draws import shuffled
from scalerec.federated.holdings import Holdings
from scalerec.federated.models import PartyModel
from scalerec.models.memory import keep_freed_memory
from scalerec.rounds.cohort import flat

__all__ = ["Cohort", "Local", "LocalConfig", "Pull", "gather_cohort", "train_cohort"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalConfig(Config):
    """How a party trains on its own examples.

    Args:
        epochs: Passes over them, at least 1.
        batch_size: Examples in a step, at least 1; 0 for all of them.
        lr: Learning rate of the dense part.
        rows_lr: Learning rate of rows of tables. A row is read by few of a party's examples, so
            its gradients are small and larger rates may do better; ten times more made a
            factorisation machine diverge on films.
        momentum: Of both, in [0, 1); it starts anew in each round.
        l2: Adds so many times each parameter to its gradient.
        max_norm: Largest norm of a step's gradient, over the dense part and rows together; 0 for no
            bound.
    """

    epochs: int = 1
    batch_size: int = 16
    lr: float = 0.1
    rows_lr: float = 0.1
    momentum: float = 0.0
    l2: float = 0.0
    max_norm: float = 0.0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs must be at least 1; got {self.epochs}")
        require(self.batch_size >= 0, f"batch_size must be at least 0; got {self.batch_size}")
        for name in ("lr", "rows_lr", "l2", "max_norm"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0; got {value}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1); got {self.momentum}")


@dataclass(frozen=True, slots=True)
class Cohort:
    """Some parties and what they hold, largest first.

    Args:
        parties: Their numbers, ``[P]``.
        sizes: Their examples, ``[P]``, falling.
        starts: Where each one's examples start in `order`, ``[P]``.
        rows: Rows of the matrix that they read, ``[K]``, party after party.
        offsets: Where each one's rows start, ``[P + 1]``.
        still: Whether a row is padding, which stays as it is, ``[K]`` bool.
        order: Numbers of examples, those of each party in turn.
        model: The model, with these examples.
    """

    parties: NDArray[np.int64]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: Tensor
    offsets: Tensor
    still: Tensor
    order: NDArray[np.int64]
    model: PartyModel

    def __len__(self) -> int:
        return len(self.parties)

    def part(self, first: int, last: int) -> "Cohort":
        """The parties `first` .. `last`."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        return Cohort(
            self.parties[first:last],
            self.sizes[first:last],
            self.starts[first:last],
            self.rows[low:high],
            self.offsets[first : last + 1] - low,
            self.still[low:high],
            self.order,
            self.model,
        )


class Pull(NamedTuple):
    """What is added to the gradients of a cohort's parties at every step.

    Args:
        anchors: Where parties are drawn to, ``[P, ...]``; none for where they started.
        anchor_rows: The same of rows, ``[K, W]``.
        strength: How many times the distance to the anchor is added.
        shift: A constant gradient by name, ``[P, ...]``.
        shift_rows: The same of rows, ``[K, W]``.
    """

    anchors: Tensors | None = None
    anchor_rows: Tensor | None = None
    strength: float = 0.0
    shift: Tensors | None = None
    shift_rows: Tensor | None = None

    def part(self, first: int, last: int, rows: slice) -> "Pull":
        """That of the parties `first` .. `last`, whose rows are these."""

        def some(tensors: Tensors | None) -> Tensors | None:
            return tensors and {name: own[first:last] for name, own in tensors.items()}

        anchors = None if self.anchor_rows is None else self.anchor_rows[rows]
        shifts = None if self.shift_rows is None else self.shift_rows[rows]
        return Pull(some(self.anchors), anchors, self.strength, some(self.shift), shifts)


@dataclass(frozen=True, slots=True)
class Local:
    """What the parties of a cohort ended with.

    Args:
        dense: Their parameters, ``[P, ...]``.
        rows: Their rows, ``[K, W]``.
        losses: Each one's mean loss over the steps of its first epoch, ``[P]``.
        steps: Steps that each took, ``[P]`` int64.
    """

    dense: dict[str, Tensor]
    rows: Tensor
    losses: Tensor
    steps: Tensor

    @staticmethod
    def join(parts: Sequence["Local"]) -> "Local":
        """The parties of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Local(
            {name: torch.cat([part.dense[name] for part in parts]) for name in parts[0].dense},
            torch.cat([part.rows for part in parts]),
            torch.cat([part.losses for part in parts]),
            torch.cat([part.steps for part in parts]),
        )


def gather_cohort(
    model: PartyModel,
    holdings: Holdings,
    parties: NDArray[np.int64],
    names: NDArray[np.int64] | None = None,
) -> Cohort:
    """Put parties in the order of their sizes, and their rows one after the other.

    Args:
        model: The model, with the examples that are held.
        holdings: Of all parties.
        parties: Numbers of some of them, each once.
        names: The numbers by which draws know them; the same by default.
    """
    sizes = holdings.sizes[parties]
    order = np.argsort(-sizes, kind="stable")
    own = parties[order]
    bounds = holdings.row_offsets.numpy()
    lengths = bounds[own + 1] - bounds[own]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(bounds[own] - offsets[:-1], lengths)
    taken = torch.from_numpy(places)
    rows, still = holdings.rows[taken], holdings.still[taken]
    numbers = own if names is None else names[order]
    held = holdings.offsets[own], rows, torch.from_numpy(offsets), still, holdings.order
    return Cohort(numbers, sizes[order], *held, model)


def train_cohort(
    cohort: Cohort,
    dense: Tensors,
    rows_kw: Tensor,
    config: LocalConfig,
    key: tuple[int, ...],
    pull: Pull | None = None,
) -> Local:
    """Train all parties of a cohort at once.

    Args:
        cohort: Who trains.
        dense: Where they start, ``[P, ...]`` each, or ``[1, ...]`` where all start alike.
        rows_kw: Their rows, ``[K, W]``; left as they are.
        config: How they train.
        key: What the order of examples follows from: the run's seed and the round.
        pull: What is added to their gradients.
    """
    keep_freed_memory()
    num = len(cohort)
    params = {n: t.expand(num, *t.shape[1:]).clone() for n, t in dense.items()}
    frozen = cohort.still.nonzero()[:, 0] if bool(cohort.still.any()) else None
    state = _State(params, rows_kw.clone(), config, pull, dense, rows_kw, frozen)
    losses, steps = torch.zeros(num), torch.zeros(num, dtype=torch.int64)
    firsts = torch.zeros(num)
    for batch in _batches(cohort, config, key):
        active, held = batch.active, int(cohort.offsets[batch.active])
        shift = cohort.offsets[:active].repeat_interleave(batch.width)
        examples = cohort.model.take(batch.examples, shift, batch.mask)
        leaves, rows = state.leaves(active, held)
        per_party = cohort.model.losses(leaves, rows, examples, active)
        wanted = [*leaves.values(), rows] if held else list(leaves.values())
        found = torch.autograd.grad(per_party.sum(), wanted, allow_unused=True)
        # A parameter may have no numbers, or none that this batch's losses depend on.
        grads = [
            torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)
        ]
        state.step(grads, active, held, cohort)
        steps[:active] += 1
        if batch.epoch == 0:
            losses[:active] += per_party.detach()
            firsts[:active] += 1
    return Local(state.dense, state.rows, losses / firsts.clamp(min=1), steps)


@dataclass(slots=True)
class _State:
    """Parameters of a cohort while it trains; all are moved in place."""

    dense: dict[str, Tensor]
    rows: Tensor
    config: LocalConfig
    pull: Pull | None
    start: Tensors
    start_rows: Tensor
    frozen: Tensor | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)

    def leaves(self, active: int, held: int) -> tuple[dict[str, Tensor], Tensor]:
        """The parameters of the first few parties, to be differentiated."""
        found = {n: t[:active].detach().requires_grad_() for n, t in self.dense.items()}
        return found, self.rows[:held].detach().requires_grad_()

    def step(self, grads: Sequence[Tensor], active: int, held: int, cohort: Cohort) -> None:
        """Move the first few parties against their gradients."""
        config = self.config
        parts = dict(zip(self.dense, grads, strict=False))
        rows = grads[-1] if held else None
        if self.pull is not None:
            self._add_pull(parts, rows, active, held)
        if config.l2:
            for name, grad in parts.items():
                grad.add_(self.dense[name][:active], alpha=config.l2)
            if rows is not None:
                rows.add_(self.rows[:held], alpha=config.l2)
        if rows is not None and self.frozen is not None:
            rows[self.frozen[self.frozen < held]] = 0.0
        if config.max_norm:
            _clip(parts, rows, cohort, active, config.max_norm)
        for name, grad in parts.items():
            self.dense[name][:active].add_(self._moved(name, grad, active), alpha=-config.lr)
        if rows is not None:
            self.rows[:held].add_(self._moved("", rows, held), alpha=-config.rows_lr)

    def _moved(self, name: str, grad: Tensor, first: int) -> Tensor:
        if not self.config.momentum:
            return grad
        if name not in self.moments:
            whole = self.dense[name] if name else self.rows
            self.moments[name] = torch.zeros_like(whole)
        return self.moments[name][:first].mul_(self.config.momentum).add_(grad)

    def _add_pull(
        self, parts: dict[str, Tensor], rows: Tensor | None, active: int, held: int
    ) -> None:
        pull = self.pull
        assert pull is not None, "there is something to add"
        for name, grad in parts.items():
            if pull.strength:
                anchor = (self.start if pull.anchors is None else pull.anchors)[name]
                near = anchor if len(anchor) == 1 else anchor[:active]
                grad.add_(self.dense[name][:active] - near, alpha=pull.strength)
            if pull.shift is not None:
                grad.add_(pull.shift[name][:active])
        if rows is None:
            return
        if pull.strength:
            anchor = self.start_rows if pull.anchor_rows is None else pull.anchor_rows
            rows.add_(self.rows[:held] - anchor[:held], alpha=pull.strength)
        if pull.shift_rows is not None:
            rows.add_(pull.shift_rows[:held])


def _clip(
    parts: dict[str, Tensor], rows: Tensor | None, cohort: Cohort, active: int, most: float
) -> None:
    """Shrink each party's gradient to a norm, in place."""
    squares = torch.stack([flat(grad).square().sum(1) for grad in parts.values()]).sum(0)
    owners = None
    if rows is not None:
        lengths = (cohort.offsets[1:] - cohort.offsets[:-1])[:active]
        owners = torch.repeat_interleave(lengths)
        squares = squares.index_add(0, owners, rows.square().sum(1))
    factors = most / squares.sqrt().clamp(min=most)
    for grad in parts.values():
        grad.mul_(factors.view(-1, *[1] * (grad.ndim - 1)))
    if rows is not None and owners is not None:
        rows.mul_(factors[owners, None])


class _Step(NamedTuple):
    """One step of the first few parties."""

    epoch: int
    active: int
    width: int
    examples: Tensor
    mask: Tensor


def _batches(cohort: Cohort, config: LocalConfig, key: tuple[int, ...]) -> Iterator[_Step]:
    """The steps of a cohort; each party's batches are those of `train_one`."""
    sizes, starts = cohort.sizes, cohort.starts
    whole = int(sizes[0]) if len(sizes) else 0
    size = config.batch_size or whole
    for epoch in range(config.epochs):
        order = shuffled((*key, epoch), cohort.parties, sizes)
        for first in range(0, whole, size):
            active = int(np.searchsorted(-sizes, -first, side="left"))
            width = min(size, whole - first)
            places = order[:active, first : first + width]
            mask = np.arange(first, first + width) < sizes[:active, None]
            held = cohort.order[
                np.where(mask, starts[:active, None] + places, starts[:active, None])
            ]
            yield _Step(
                epoch,
                active,
                width,
                torch.from_numpy(held.reshape(-1)),
                torch.from_numpy(mask.reshape(-1)),
            )
