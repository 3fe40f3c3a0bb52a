"""A small net over sums of rows, by one compiled kernel.

Calls of torch cost some microseconds each whatever they compute, which at a thousand candidates is
as much as the layers of a small net. One kernel gathers, adds, applies ReLU and runs the layers.

Shapes: K candidates, N rows summed for each, R rows of the matrices, S = H + T + C sums, C outputs.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from scalerec.models.compiled import as_array
from scalerec.models.kernels.score import score_rows
from scalerec.models.kernels.threads import run_shares
from scalerec.scoring.sums import FieldSums

__all__ = ["NarrowNet"]

# Products a candidate up to which the kernel is quicker than torch.
NARROW = 16_384
# Candidates below which another thread is not worth its start.
CANDIDATES_A_SHARE = 256


class NarrowNet:
    """What follows the sums of a net, compiled.

    Args:
        sums: Of the net; it must fit, see `of`.
    """

    def __init__(self, sums: FieldSums) -> None:
        layers = sums.layers
        weights = () if layers is None else layers.weights
        biases = () if layers is None else layers.biases
        sizes = [sums.first, *(len(bias) for bias in biases)] if sums.first else []
        assert all(a == w.shape[1] for a, w in zip(sizes, weights, strict=False)), pairwise(sizes)
        self._sizes = np.array(sizes, np.int64)
        self._weights = _flat([weight.T for weight in weights])
        self._biases = _flat(list(biases))
        self._pairs = as_array(sums.pairs.contiguous())
        self._num_outputs = sums.num_outputs

    @classmethod
    def of(cls, sums: FieldSums) -> "NarrowNet | None":
        """The compiled net where it fits and is quicker: on the CPU, plain layers, few products."""
        if sums.start.device.type != "cpu":
            return None
        if sums.upper is None:
            return cls(sums)
        fits = sums.layers is not None and sums.layers.products <= NARROW
        return cls(sums) if fits else None

    def __call__(
        self, rows: Tensor, first: Tensor, scales: Tensor, rest: Tensor, base: Tensor
    ) -> Tensor:
        """Logits ``[K, C]`` float32.

        Args:
            rows: Which rows are summed for each, ``[N, K]`` int64; they must be there.
            first: ``[R, H]`` float32, float16 or int8.
            scales: What its rows are multiplied with, ``[R]`` float32; empty for one.
            rest: ``[R, T + C]`` float32.
            base: What all start from, ``[1, S]``, or each, ``[K, S]``, float32.
        """
        size = rows.shape[1]
        logits = np.empty((size, self._num_outputs), np.float32)
        held = [as_array(tensor) for tensor in (rows, first, scales, rest, base)]
        net = self._pairs, self._sizes, self._weights, self._biases
        run_shares(score_rows, *held, *net, logits, most=1 + size // CANDIDATES_A_SHARE)
        return torch.from_numpy(logits)


def _flat(tensors: list[Tensor]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    parts = [tensor.detach().float().contiguous().numpy().ravel() for tensor in tensors]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
