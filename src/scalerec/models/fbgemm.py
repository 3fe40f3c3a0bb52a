"""FBGEMM's table-batched lookup, with the optimiser fused into its backward pass, as an engine."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalerec.errors import ConfigError, MissingExtraError
from scalerec.models.engines import RowOptimiser, TableEngine

__all__ = ["FBGEMM_OPTIMISERS", "FbgemmEngine", "fbgemm_is_available", "has_kernel"]

FBGEMM_OPTIMISERS = ("rowwise_adagrad", "adagrad", "sgd")
ALIGNMENT = 4


class FbgemmEngine(TableEngine):
    """FBGEMM's fused engine, on the CPU.

    Row-wise Adagrad, Adagrad and SGD only. FBGEMM wants a width that is a multiple of 4, so its
    matrix has up to three more columns, which stay zero. Its row-wise Adagrad averages the squared
    gradient over those as well; learning rate, `eps` and state are scaled so that rows move as if
    they were not there.

    Args:
        weight: The matrix, ``[R, W]``, with at least one row; it is copied.
        optimiser: Gives the fused optimiser's settings.
        name: Its name: `rowwise_adagrad`, `adagrad` or `sgd`.

    Raises:
        MissingExtraError: If FBGEMM is not installed.
        ConfigError: If the matrix is not on the CPU, or there is no kernel for the optimiser.
    """

    def __init__(self, weight: Tensor, optimiser: RowOptimiser, name: str) -> None:
        super().__init__()
        if not fbgemm_is_available():
            raise MissingExtraError("fbgemm-gpu-cpu", "fused")
        _check(weight, optimiser, name)
        num_rows, self.width = weight.shape
        padded = -ALIGNMENT * (-self.width // ALIGNMENT)
        # State of row-wise Adagrad is 1 / `excess` of what it is without the unused columns.
        self.excess = padded / self.width if name == "rowwise_adagrad" else 1.0
        eps = float(getattr(optimiser, "eps", 0.0)) / math.sqrt(self.excess)
        self.fused = _build(num_rows, padded, name, eps)
        self.fused.split_embedding_weights()[0].detach().zero_()
        self.matrix.copy_(weight.detach())

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``, a view without the unused columns."""
        whole: Tensor = self.fused.split_embedding_weights()[0]
        return whole.detach()[:, : self.width]

    @property
    def state(self) -> dict[str, Tensor]:
        """The optimiser's state; a copy in float64 where it is scaled, so that nothing is lost."""
        live = self._live_state()
        if live is None:
            return {}
        return {"sum": live if self.excess == 1.0 else live.double() * self.excess}

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient moves them within the backward pass."""
        if not torch.is_grad_enabled():
            # Plain reading: FBGEMM's operator does not run in inference mode on the CPU.
            return self.matrix.index_select(0, rows)
        self.fused.set_learning_rate(self.lr / math.sqrt(self.excess))
        offsets = torch.arange(len(rows) + 1, dtype=torch.int64)
        looked_up: Tensor = self.fused(rows, offsets)
        return looked_up[:, : self.width]

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Copy a saved state back in; see `TableEngine.load_state`."""
        live = self._live_state()
        if live is not None:
            live.copy_(state["sum"].double() / self.excess)
        self.step = step

    def _live_state(self) -> Tensor | None:
        states: list[Tensor] = [s for group in self.fused.split_optimizer_states() for s in group]
        if not states:
            return None
        (sums,) = states
        return sums.view(-1, 1) if sums.ndim == 1 else sums[:, : self.width]


def _build(num_rows: int, width: int, name: str, eps: float) -> Any:
    """FBGEMM's module for one table on the host."""
    with warnings.catch_warnings():
        # The CPU build warns of the GPU kernels that it lacks.
        warnings.simplefilter("ignore")
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
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(num_rows, width, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=kinds[name],
        learning_rate=0.0,
        eps=eps,
        pooling_mode=PoolingMode.SUM,
        device=torch.device("cpu"),
    )


def _check(weight: Tensor, optimiser: RowOptimiser, name: str) -> None:
    if weight.device.type != "cpu":
        raise ConfigError(
            f"engine 'fbgemm' runs on the CPU; the tables are on {weight.device}; "
            "use engine 'torch'"
        )
    if not has_kernel(optimiser, name):
        raise ConfigError(
            f"engine 'fbgemm' has kernels for {', '.join(FBGEMM_OPTIMISERS)}, without l2; "
            f"got {name} with l2={getattr(optimiser, 'l2', 0.0)}; use engine 'torch'"
        )


def has_kernel(optimiser: RowOptimiser, name: str) -> bool:
    """Whether FBGEMM has a fused CPU kernel for an optimiser of this name and these settings."""
    return name in FBGEMM_OPTIMISERS and not getattr(optimiser, "l2", 0.0)


def fbgemm_is_available() -> bool:
    """Whether FBGEMM can be imported; a build for another torch fails with an OSError."""
    try:
        import fbgemm_gpu  # noqa: F401
    except (ImportError, OSError):
        return False
    return True
