"""Engines that hold embedding rows and learn them: dense, and fused in plain torch.

All tables of a model are one matrix ``[R, W]``; an engine looks up rows of it and brings the
gradient back to them. `DenseEngine` leaves the gradient to any optimiser, which is right for small
tables. A fused engine runs the row optimiser inside the backward pass: no gradient of the table
ever exists, so a step's cost follows the rows touched and not the rows there are. The other fused
engine is in `scalerec.models.fbgemm`.

Shapes: R rows, W columns, K looked-up rows, U distinct ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "DenseEngine",
    "Fetched",
    "FusedEngine",
    "RemoteEngine",
    "RowOptimiser",
    "TableEngine",
    "sum_duplicates",
]


class RowOptimiser(Protocol):
    """How touched rows move; see `scalerec.optim.rows` for its members."""

    def state_widths(self, width: int) -> dict[str, int]:
        """Columns of each kind of state that a row of `width` columns needs."""
        ...

    def apply(
        self,
        weight_kw: Tensor,
        grad_kw: Tensor,
        state_k: Mapping[str, Tensor],
        step: int,
        lr: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The moved rows and their new state; inputs stay as they are."""
        ...


class TableEngine(nn.Module):
    """What all engines offer; see the module's text for how they differ.

    `lr` is the learning rate of the next backward pass, `step` the number of steps taken; both mean
    something to fused engines only.
    """

    lr: float = 0.0
    step: int = 0

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``, without gradient; reading it copies nothing."""
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Tensor]:
        """The row optimiser's numbers by its own names for them, each ``[R, k]``, for a checkpoint.

        Every engine gives the same names, so a run may go on in another one. Empty where a dense
        optimiser keeps them.
        """
        return {}

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows ``[K]`` int64 of the matrix, ``[K, W]``, tied to the backward pass."""
        raise NotImplementedError

    def update(self, rows: Tensor, grads_kw: Tensor) -> None:
        """Move the rows ``[K]`` by their gradients ``[K, W]``; equal rows are summed first."""
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        """As `lookup`."""
        return self.lookup(rows)

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Copy a state that `state` gave back in.

        Args:
            state: Its names must be those of `state`.
            step: Steps taken until then.
        """
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.step = step


class DenseEngine(TableEngine):
    """One ordinary parameter: any optimiser, a dense gradient. For small tables and inference.

    Args:
        weight: The matrix, ``[R, W]``; it is taken over, not copied.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``."""
        return self.weight.detach()

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows, with a dense gradient for the matrix."""
        return nn.functional.embedding(rows, self.weight)


class FusedEngine(TableEngine):
    """The plain twin of the fused kernels, in torch operations, on any device.

    The backward pass sums the gradients of equal rows and lets the row optimiser move them at once.

    Args:
        weight: The matrix, ``[R, W]``; it is taken over, not copied.
        optimiser: Moves the touched rows.
    """

    def __init__(self, weight: Tensor, optimiser: RowOptimiser) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.optimiser = optimiser
        widths = optimiser.state_widths(weight.shape[1])
        self._names = {name: f"state_{name}" for name in widths}
        for name, width in widths.items():
            # Buffers, so that they follow the module to another device.
            zeros = torch.zeros(len(weight), width, device=weight.device)
            self.register_buffer(self._names[name], zeros, persistent=False)
        # Autograd visits the backward pass only if some input wants a gradient.
        self.anchor = nn.Parameter(torch.zeros((), device=weight.device))

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``."""
        return self.get_buffer("weight")

    @property
    def state(self) -> dict[str, Tensor]:
        """The row optimiser's state, live."""
        return {name: self.get_buffer(own) for name, own in self._names.items()}

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient moves them within the backward pass."""
        return _FusedLookup.apply(self.anchor, rows, self)  # type: ignore[no-any-return]

    @torch.no_grad()
    def update(self, rows: Tensor, grads_kw: Tensor) -> None:
        """Move the rows ``[K]`` by their gradients ``[K, W]``; equal rows are summed first."""
        touched, grads_uw = sum_duplicates(rows, grads_kw)
        self.step += 1
        live = self.state
        state = {name: tensor[touched] for name, tensor in live.items()}
        moved, state = self.optimiser.apply(
            self.matrix[touched], grads_uw, state, self.step, self.lr
        )
        self.matrix[touched] = moved
        for name, tensor in state.items():
            live[name][touched] = tensor


@dataclass(frozen=True, slots=True)
class Fetched:
    """Rows that were brought here for one step.

    Args:
        places: Where each looked-up row stands in `rows_mw`, ``[K]`` int64.
        rows_mw: The distinct rows, ``[M, W]``; the first is padding, a zero row.
        ticket: What the engine needs to bring their gradients back.
        near: The engine that holds `rows_mw`, where there is one: it may move them at once.
    """

    places: Tensor
    rows_mw: Tensor
    ticket: Any
    near: TableEngine | None = None


class RemoteEngine(TableEngine):
    """Rows that are kept elsewhere: fetched for a step, their gradients pushed back to be moved.

    A member says how. Like a fused engine it needs no gradient of a whole table; one exists only of
    the rows that a step touches.
    """

    def __init__(self) -> None:
        super().__init__()
        # Autograd visits the backward pass only if some input wants a gradient.
        self.anchor = nn.Parameter(torch.zeros(()))

    def fetch(self, rows: Tensor) -> Fetched:
        """Bring the rows ``[K]`` int64 here."""
        raise NotImplementedError

    def push(self, fetched: Fetched, grad_mw: Tensor) -> None:
        """Bring the gradient ``[M, W]`` of fetched rows to where they are kept, and move them."""
        raise NotImplementedError

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient is pushed within the backward pass."""
        return _RemoteLookup.apply(self.anchor, rows, self)  # type: ignore[no-any-return]


class _RemoteLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, engine: RemoteEngine) -> Tensor:
        del anchor
        ctx.engine, ctx.fetched = engine, engine.fetch(rows)
        return ctx.fetched.rows_mw.index_select(0, ctx.fetched.places)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        fetched: Fetched = ctx.fetched
        sums = torch.zeros_like(fetched.rows_mw).index_add_(0, fetched.places, grads[0])
        ctx.engine.push(fetched, sums)
        return None, None, None


class _FusedLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, engine: FusedEngine) -> Tensor:
        del anchor
        ctx.save_for_backward(rows)
        ctx.engine = engine
        return engine.matrix.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (rows,) = ctx.saved_tensors
        ctx.engine.update(rows, grads[0])
        return None, None, None


def sum_duplicates(rows: Tensor, values_kw: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the values of equal rows.

    Args:
        rows: ``[K]`` int64.
        values_kw: ``[K, W]``.

    Returns:
        The distinct rows in order, ``[U]``, and their sums, ``[U, W]``.

    Example:
        >>> sum_duplicates(torch.tensor([3, 1, 3]), torch.tensor([[1.0], [2.0], [4.0]]))
        (tensor([1, 3]), tensor([[2.],
                [5.]]))
    """
    touched, inverse = torch.unique(rows, return_inverse=True)
    sums = values_kw.new_zeros(len(touched), values_kw.shape[1])
    return touched, sums.index_add_(0, inverse, values_kw)
