"""Engines that hold embedding rows and learn them: plain torch, fused torch, FBGEMM.

All tables of a model are one matrix ``[R, W]``; an engine looks up rows of it and brings the gradient
back to them. `DenseEngine` leaves the gradient to any optimiser, which is right for small tables. The
fused engines run the row optimiser inside the backward pass: no gradient of the table ever exists, so
a step's cost follows the rows touched and not the rows there are.

Shapes: R rows, W columns, K looked-up rows, U distinct ones.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scalerec.errors import ConfigError, MissingExtraError

__all__ = [
    "DenseEngine",
    "FbgemmEngine",
    "FusedEngine",
    "RowOptimiser",
    "TableEngine",
    "fbgemm_is_available",
    "sum_duplicates",
]


FBGEMM_OPTIMISERS = ("rowwise_adagrad", "adagrad", "sgd")


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

    `matrix` is the live matrix ``[R, W]``: reading it copies nothing. `state` holds the row
    optimiser's numbers by name, empty where a dense optimiser keeps them.
    """

    lr: float = 0.0
    step: int = 0

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``, without gradient."""
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Tensor]:
        """The row optimiser's state, live, each ``[R, k]``."""
        return {}

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows ``[K]`` int64 of the matrix, ``[K, W]``, tied to the backward pass."""
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        """As `lookup`."""
        return self.lookup(rows)

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Copy a saved state back in; the names must be those of `state`."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.step = step


class DenseEngine(TableEngine):
    """One ordinary parameter: any optimiser, a dense gradient. For small tables and for inference."""

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
        self.step = 0
        self._state = {
            name: torch.zeros(len(weight), width, device=weight.device)
            for name, width in optimiser.state_widths(weight.shape[1]).items()
        }
        # Autograd visits the backward pass only if some input wants a gradient.
        self.anchor = nn.Parameter(torch.zeros((), device=weight.device))

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``."""
        return self.get_buffer("weight")

    @property
    def state(self) -> dict[str, Tensor]:
        """The row optimiser's state, live."""
        return self._state

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient moves them within the backward pass."""
        return _FusedLookup.apply(self.anchor, rows, self)  # type: ignore[no-any-return]

    def update(self, rows: Tensor, grads_kw: Tensor) -> None:
        """Move the rows ``[K]`` by their gradients ``[K, W]``; equal rows are summed first."""
        touched, grads_uw = sum_duplicates(rows, grads_kw)
        self.step += 1
        state = {name: tensor[touched] for name, tensor in self._state.items()}
        moved, state = self.optimiser.apply(
            self.matrix[touched], grads_uw, state, self.step, self.lr
        )
        self.matrix[touched] = moved
        for name, tensor in state.items():
            self._state[name][touched] = tensor


class _FusedLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, engine: FusedEngine) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.engine = engine
        return engine.matrix.index_select(0, rows) + 0.0 * anchor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (rows,) = ctx.saved_tensors
        ctx.engine.update(rows, grads[0])
        return None, None, None


class FbgemmEngine(TableEngine):
    """FBGEMM's table-batched lookup with the optimiser fused into its backward pass (CPU).

    Row-wise Adagrad, Adagrad and SGD only. FBGEMM wants a width that is a multiple of 4, so the matrix
    has up to three more columns, which stay unused.

    Args:
        weight: The matrix, ``[R, W]``.
        optimiser: Gives the fused optimiser's settings.
        name: Its name: `rowwise_adagrad`, `adagrad` or `sgd`.

    Raises:
        MissingExtraError: If FBGEMM is not installed.
        ConfigError: If FBGEMM has no fused kernel for the optimiser.
    """

    def __init__(self, weight: Tensor, optimiser: RowOptimiser, name: str) -> None:
        super().__init__()
        if not fbgemm_is_available():
            raise MissingExtraError("fbgemm-gpu-cpu", "fused")
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
            EmbeddingLocation,
            PoolingMode,
        )
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        kinds = {
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
            "sgd": EmbOptimType.EXACT_SGD,
        }
        if name not in FBGEMM_OPTIMISERS or getattr(optimiser, "l2", 0.0):
            raise ConfigError(
                f"engine 'fbgemm' has kernels for {', '.join(FBGEMM_OPTIMISERS)}, without l2; "
                f"got {name} with l2={getattr(optimiser, 'l2', 0.0)}; use engine 'torch'"
            )
        num_rows, self.width = weight.shape
        self.fused = SplitTableBatchedEmbeddingBagsCodegen(
            [(num_rows, -4 * (-self.width // 4), EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=kinds[name],
            learning_rate=0.0,
            eps=getattr(optimiser, "eps", 0.0),
            pooling_mode=PoolingMode.SUM,
            device=torch.device("cpu"),
        )
        self.matrix.copy_(weight.detach())

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``, a view without the unused columns."""
        return self.fused.split_embedding_weights()[0].detach()[:, : self.width]  # type: ignore[no-any-return]

    @property
    def state(self) -> dict[str, Tensor]:
        """The fused optimiser's state, live."""
        states = self.fused.split_optimizer_states()[0]
        return {f"momentum{i}": tensor for i, tensor in enumerate(states)}

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient moves them within the backward pass."""
        self.fused.set_learning_rate(self.lr)
        offsets = torch.arange(len(rows) + 1, dtype=torch.int64)
        return self.fused(rows, offsets)[:, : self.width]  # type: ignore[no-any-return]


def fbgemm_is_available() -> bool:
    """Whether FBGEMM can be imported; a build for another torch fails with an OSError."""
    try:
        import fbgemm_gpu  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


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
