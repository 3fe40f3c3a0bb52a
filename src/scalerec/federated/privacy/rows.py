"""Noise on every row of a table, at a cost that follows the rows that are read.

Paper: LazyDP: Co-Designing Algorithm-Software for Scalable Training of Differentially Private
Recommendation Models, Lim et al., 2024, https://arxiv.org/abs/2404.08847

A round puts independent Gaussian noise on every row, touched or not. While a row is not read, the
noise of several rounds can wait: their sum is one Gaussian whose variance is the sum of theirs. So
it is drawn when the row is next read, and at the end. This is exact in distribution as long as the
server's step is linear in the mean and keeps nothing else of it: ``row += rate * mean`` (FedAvg
with any rate). With momentum or Adam, noise has to be there each round: use `noise_rows`.

Rows whose noise still waits are the server's secret: never send, score, store for others or publish
one before `catch_up` or `flush`.

Shapes: R rows, W width, n rows asked for, T rounds so far.
"""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.federated.privacy.entropy import NoiseSource, SystemNoise, add_noise

__all__ = ["RowNoise"]

_CHUNK_NUMBERS = 2**22


class RowNoise:
    """The noise that waits on the rows of one matrix.

    Args:
        num_rows: R.
        still: Rows that nobody ever moves (padding, rows that stay with their users), chosen
            without looking at data, ``[n]`` int64; they get no noise.
        source: Gives the noise; None for the operating system.

    Raises:
        ConfigError: If a row lies outside.

    Example:
        >>> noise = RowNoise(1000)
        >>> matrix = torch.zeros(1000, 4)
        >>> noise.advance(0.1)
        >>> noise.advance(0.1)
        >>> noise.catch_up(matrix, torch.tensor([3, 7]))
        >>> int(matrix.any(1).sum())
        2
        >>> noise.flush(matrix)
        >>> int(matrix.any(1).sum())
        1000
    """

    def __init__(
        self, num_rows: int, *, still: Tensor | None = None, source: NoiseSource | None = None
    ) -> None:
        require(num_rows >= 0, f"num_rows must be at least 0; got {num_rows}")
        self.num_rows = num_rows
        self.source = source or SystemNoise()
        # Per row, the round up to which noise is in it; -1 marks rows that never get any.
        self._done = torch.zeros(num_rows, dtype=torch.int32)
        if still is not None and len(still):
            self._check(still)
            self._done[still] = -1
        self._variance = torch.zeros(1, dtype=torch.float64)  # sum up to each round, [T + 1]

    @property
    def rounds(self) -> int:
        """T, the rounds whose noise is in the rows or waits."""
        return len(self._variance) - 1

    def advance(self, std: float) -> None:
        """Let one more round's noise fall due on every row; nothing is drawn yet.

        Args:
            std: Standard deviation on each number of a row, as the server's step leaves it there:
                ``rate * PrivateMean.row_std``; at least 0.

        Raises:
            ConfigError: If it is below 0 or not finite.
        """
        require(math.isfinite(std) and std >= 0, f"std must be finite and at least 0; got {std}")
        total = self._variance[-1:] + std * std
        self._variance = torch.cat([self._variance, total])

    def pending(self, rows: Tensor) -> Tensor:
        """The variance of the noise that waits on rows, ``[n]`` float64.

        Args:
            rows: ``[n]`` int64.

        Raises:
            ConfigError: If a row lies outside.
        """
        self._check(rows)
        return self._pending(rows)

    def catch_up(self, matrix: Tensor, rows: Tensor) -> None:
        """Put the noise that waits into some rows; do so before anyone reads them.

        Args:
            matrix: ``[R, W]``; it is changed in place.
            rows: ``[n]`` int64, in any order; a row may come more than once.

        Raises:
            ConfigError: If a row lies outside.
            RoundError: If the matrix has another number of rows.
        """
        self._check_matrix(matrix)
        self._check(rows)
        self._settle(matrix, torch.unique(rows))

    def flush(self, matrix: Tensor) -> None:
        """Put all noise that waits into all rows: before a bundle, an evaluation, a checkpoint.

        Args:
            matrix: ``[R, W]``; it is changed in place.

        Raises:
            RoundError: If the matrix has another number of rows.
        """
        self._check_matrix(matrix)
        step = max(1, _CHUNK_NUMBERS // max(1, matrix.shape[1]))
        for start in range(0, self.num_rows, step):
            self._settle(matrix, torch.arange(start, min(start + step, self.num_rows)))

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors, for a checkpoint; the matrix beside it is the server's secret."""
        return {"done": self._done.clone(), "variance": self._variance.clone()}

    @classmethod
    def restore(cls, state: Mapping[str, Tensor], source: NoiseSource | None = None) -> Self:
        """The noise whose `state` this is.

        Raises:
            RoundError: If the state does not fit together.
        """
        if state.keys() != {"done", "variance"}:
            raise RoundError(f"row noise must hold done and variance; got {sorted(state)}")
        done, variance = state["done"], state["variance"]
        steps = variance[1:] - variance[:-1]
        fits = (
            done.ndim == 1
            and done.dtype == torch.int32
            and variance.ndim == 1
            and variance.dtype == torch.float64
            and len(variance) >= 1
            and bool(variance[0] == 0)
            and bool((steps >= 0).all())
            and bool(((done >= -1) & (done < len(variance))).all())
        )
        if not fits:
            raise RoundError(
                "row noise must hold rounds done, [R] int32, from -1 to T, and growing variances "
                f"from 0, [T + 1] float64; got {list(done.shape)} of {done.dtype} and "
                f"{list(variance.shape)} of {variance.dtype}"
            )
        noise = cls(len(done), source=source)
        noise._done, noise._variance = done.clone(), variance.clone()
        return noise

    def _pending(self, rows: Tensor) -> Tensor:
        done = self._done[rows].long()
        waits = self._variance[-1] - self._variance[done.clamp(min=0)]
        return torch.where(done < 0, 0.0, waits)

    def _settle(self, matrix: Tensor, rows: Tensor) -> None:
        variance = self._pending(rows)
        due = variance > 0
        rows, variance = rows[due], variance[due]
        if len(rows):
            places = rows.to(matrix.device)
            noisy = add_noise(
                matrix[places].detach(), variance.sqrt()[:, None].to(matrix.device), self.source
            )
            with torch.no_grad():
                matrix[places] = noisy
            self._done[rows] = self.rounds

    def _check(self, rows: Tensor) -> None:
        if len(rows):
            low, high = int(rows.min()), int(rows.max())
            require(
                low >= 0 and high < self.num_rows,
                f"rows must be in [0, {self.num_rows}); got {low} to {high}",
            )

    def _check_matrix(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or len(matrix) != self.num_rows:
            raise RoundError(f"the matrix must have {self.num_rows} rows; got {list(matrix.shape)}")
