"""Local training of a cohort as one batched computation.

Parties stand in the order of their sizes, largest first, so that those who still have a batch are
always the first few: a step computes their stretch of every stacked tensor and nothing else. Dense
parameters are stacked, ``[P, ...]``; the rows of tables that parties read lie in one matrix, those
of each party in turn. A short last batch is filled with examples that do not count.

`scalerec.federated.alone` trains one party at a time: the reference. Both draw alike and take the
same steps; they differ in the order of sums inside products.

Shapes: P parties, B examples in a step, K rows of all of them, W a row's width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.federated.batches import steps_of
from scalerec.federated.cohorts import Cohort
from scalerec.federated.gradients import Gradients, PlainGradients
from scalerec.models.memory import keep_freed_memory, use_large_pages
from scalerec.rounds.cohort import flat

__all__ = ["Local", "LocalConfig", "Pull", "train_cohort"]

Tensors = Mapping[str, Tensor]
# Memory so large is asked for anew each time; in larger pages it is had sooner.
LARGE_BYTES = 2**22


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
    """What the parties of a cohort moved while they trained.

    Args:
        moved: How far each one's parameters went from where they started, ``[P, ...]``.
        moved_rows: The same of rows, ``[K, W]``.
        losses: Each one's mean loss over the steps of its first epoch, ``[P]``.
        steps: Steps that each took, ``[P]`` int64.
    """

    moved: dict[str, Tensor]
    moved_rows: Tensor
    losses: Tensor
    steps: Tensor

    @staticmethod
    def room(cohort: Cohort, dense: Tensors, rows_kw: Tensor) -> "Local":
        """Memory for a cohort, not written yet.

        Args:
            cohort: Who will train.
            dense: Where they start; of their shapes.
            rows_kw: Their rows.
        """
        num = len(cohort)
        moved = {name: tensor.new_empty(num, *tensor.shape[1:]) for name, tensor in dense.items()}
        rows = torch.empty_like(rows_kw)
        for tensor in (*moved.values(), rows):
            if tensor.nbytes > LARGE_BYTES:
                use_large_pages(tensor)
        return Local(moved, rows, torch.zeros(num), torch.zeros(num, dtype=torch.int64))

    def part(self, first: int, last: int, rows: slice) -> "Local":
        """The parties `first` .. `last`, whose rows are these; the same memory."""

        def own(tensor: Tensor, places: slice) -> Tensor:
            # `data` has a count of changes of its own: other threads write to other parts.
            return tensor[places].data

        some = slice(first, last)
        moved = {name: own(tensor, some) for name, tensor in self.moved.items()}
        return Local(
            moved, own(self.moved_rows, rows), own(self.losses, some), own(self.steps, some)
        )

    @staticmethod
    def join(parts: Sequence["Local"]) -> "Local":
        """The parties of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Local(
            {name: torch.cat([part.moved[name] for part in parts]) for name in parts[0].moved},
            torch.cat([part.moved_rows for part in parts]),
            torch.cat([part.losses for part in parts]),
            torch.cat([part.steps for part in parts]),
        )


def train_cohort(
    cohort: Cohort,
    dense: Tensors,
    rows_kw: Tensor,
    config: LocalConfig,
    key: tuple[int, ...],
    pull: Pull | None = None,
    gradients: Gradients | None = None,
    room: Local | None = None,
) -> Local:
    """Train all parties of a cohort at once.

    Args:
        cohort: Who trains.
        dense: Where they start, ``[P, ...]`` each, or ``[1, ...]`` where all start alike.
        rows_kw: Their rows, ``[K, W]``; left as they are.
        config: How they train.
        key: What the order of examples follows from: the run's seed and the round.
        pull: What is added to their gradients.
        gradients: What their steps follow; plain ones by default.
        room: Where to put what they moved; new memory by default.
    """
    keep_freed_memory()
    gradients = gradients or PlainGradients(config.lr if _is_plain(config, pull) else None)
    # In memory of its own, which part after part stays in the caches; `room` is written once.
    own = Local.room(cohort, dense, rows_kw)
    out = room or own
    for name, tensor in dense.items():
        own.moved[name].copy_(tensor.expand_as(own.moved[name]))
    own.moved_rows.copy_(rows_kw)
    frozen = cohort.still.nonzero()[:, 0] if bool(cohort.still.any()) else None
    state = _State(own.moved, own.moved_rows, config, pull, dense, rows_kw, frozen)
    sums, firsts = torch.zeros(len(cohort)), torch.zeros(len(cohort))
    out.steps.zero_()
    for step in steps_of(cohort, config.epochs, config.batch_size, key):
        active, held = step.active, step.held
        near = {name: tensor[:active] for name, tensor in state.dense.items()}
        losses, grads = gradients.of_cohort(step, near, state.rows[:held])
        state.step(grads, active, held, cohort)
        out.steps[:active] += 1
        if step.epoch == 0:
            sums[:active] += losses
            firsts[:active] += 1
    out.losses.copy_(sums / firsts.clamp(min=1))
    # Where they are becomes how far they went, while it is at hand.
    for name, tensor in dense.items():
        torch.sub(own.moved[name], tensor, out=out.moved[name])
    torch.sub(own.moved_rows, rows_kw, out=out.moved_rows)
    return out


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

    def step(self, grads: Sequence[Tensor | None], active: int, held: int, cohort: Cohort) -> None:
        """Move the first few parties against their gradients."""
        named = zip(self.dense, grads, strict=False)
        parts = {name: grad for name, grad in named if grad is not None}
        rows = grads[-1] if held else None
        if rows is not None and rows.is_sparse:
            self._move_rows(rows, held)
            rows = None
        self._change(parts, rows, active, held)
        config = self.config
        if config.max_norm:
            _clip(parts, rows, cohort, active, config.max_norm)
        for name, grad in parts.items():
            self.dense[name][:active].add_(self._moved(name, grad, active), alpha=-config.lr)
        if rows is not None:
            self.rows[:held].add_(self._moved("", rows, held), alpha=-config.rows_lr)

    def _change(
        self, parts: dict[str, Tensor], rows: Tensor | None, active: int, held: int
    ) -> None:
        """Add the pull and L2 to gradients; padding has none."""
        if self.pull is not None:
            self._add_pull(parts, rows, active, held)
        if self.config.l2:
            for name, grad in parts.items():
                grad.add_(self.dense[name][:active], alpha=self.config.l2)
            if rows is not None:
                rows.add_(self.rows[:held], alpha=self.config.l2)
        if rows is not None and self.frozen is not None:
            rows[self.frozen[self.frozen < held]] = 0.0

    def _move_rows(self, grad: Tensor, held: int) -> None:
        """Move the rows that the examples read, and no others."""
        values = grad._values().mul_(-self.config.rows_lr)
        self.rows[:held].index_add_(0, grad._indices()[0], values)
        if self.frozen is not None:
            still = self.frozen[self.frozen < held]
            self.rows[still] = self.start_rows[still]

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


def _is_plain(config: LocalConfig, pull: Pull | None) -> bool:
    """Whether a step adds gradients times a rate and nothing else."""
    return not (pull or config.momentum or config.l2 or config.max_norm)


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
