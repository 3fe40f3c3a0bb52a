"""The fused engine of compiled kernels, for the processor."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalerec.errors import ConfigError
from scalerec.models.engines import RowOptimiser, TableEngine
from scalerec.models.kernels import move
from scalerec.models.kernels.threads import run_shares
from scalerec.models.memory import use_large_pages

__all__ = ["COMPILED_OPTIMISERS", "CompiledEngine", "as_array"]

COMPILED_OPTIMISERS = tuple(kind for kind in move.KINDS if kind != "gradient")
NOISE = 0x9E3779B97F4A7C15


class CompiledEngine(TableEngine):
    """Rows that compiled kernels look up and move; the twin of `FusedEngine`, several times faster.

    Weights may be float16: they are computed with as float32 and rounded up or down by chance when
    they are written, so that small moves are not lost (Deep Learning with Limited Numerical
    Precision, Gupta et al., 2015, https://arxiv.org/abs/1502.02551).

    Args:
        weight: The matrix, ``[R, W]``, float32 or float16, on the CPU; it is taken over.
        optimiser: Gives the settings of the formula.
        name: Its name, one of `COMPILED_OPTIMISERS`.
        seed: Of the rounding.

    Raises:
        ConfigError: If the matrix is elsewhere or of another type, or there is no such kernel.
    """

    def __init__(self, weight: Tensor, optimiser: RowOptimiser, name: str, seed: int = 0) -> None:
        super().__init__()
        _check(weight, name)
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.kind = move.KINDS[name]
        self.optimiser = optimiser
        self.seed = seed
        self._widths = optimiser.state_widths(weight.shape[1])
        wide = {part: width for part, width in self._widths.items() if part != "last"}
        self._state = _zeros(len(weight), sum(wide.values()))
        self._last = _zeros(len(weight), int("last" in self._widths))
        # Autograd visits the backward pass only if some input wants a gradient.
        self.anchor = nn.Parameter(torch.zeros(()))

    @property
    def matrix(self) -> Tensor:
        """The live matrix, ``[R, W]``."""
        return self.get_buffer("weight")

    @property
    def state(self) -> dict[str, Tensor]:
        """The row optimiser's state, live."""
        found, start = {}, 0
        for part, width in self._widths.items():
            if part == "last":
                found[part] = self._last
            else:
                found[part] = self._state[:, start : start + width]
                start += width
        return found

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient moves them within the backward pass."""
        return _Lookup.apply(self.anchor, rows, self)  # type: ignore[no-any-return]

    def update(self, rows: Tensor, grads_kw: Tensor) -> None:
        """Move the rows ``[K]`` by their gradients ``[K, W]``; equal rows are summed first."""
        whole = np.array([[0, 0, len(rows)]])
        # Without tables no row is known to be padding; the caller keeps those at zero.
        padding = np.array([-1])
        self.move(move.move_rows, rows.numpy(), as_array(grads_kw.contiguous()), whole, padding)

    def move(self, kernel: Any, *sources: Any) -> None:
        """Take one step of the optimiser.

        Args:
            kernel: One of `scalerec.models.kernels.move` that ends in the arguments of `move_rows`.
            sources: The kernel's arguments until then.
        """
        self.step += 1
        noise = np.uint64((self.seed + self.step) * NOISE % 2**64)
        run_shares(
            kernel,
            *sources,
            self.kind,
            self._settings(),
            as_array(self.matrix),
            self._state.numpy(),
            self._last.numpy(),
            noise,
        )

    def _settings(self) -> NDArray[np.float32]:
        """The settings of this step, as the kernels want them."""
        of = self.optimiser
        betas = getattr(of, "betas", (0.0, 0.0))
        settings = np.zeros(move.NUM_SETTINGS, np.float32)
        settings[move.LR], settings[move.STEP] = self.lr, self.step
        settings[move.EPS], settings[move.L2] = getattr(of, "eps", 0.0), getattr(of, "l2", 0.0)
        settings[move.BETA1], settings[move.BETA2] = betas
        settings[move.CORRECTION1] = 1.0 / (1.0 - betas[0] ** self.step)
        settings[move.CORRECTION2] = 1.0 / (1.0 - betas[1] ** self.step)
        settings[move.L2_MISSED] = getattr(of, "l2_missed", False)
        settings[move.DECAY_MISSED] = getattr(of, "decay_missed", False)
        return settings


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, engine: CompiledEngine) -> Tensor:
        del anchor
        ctx.save_for_backward(rows)
        ctx.engine = engine
        return engine.matrix.index_select(0, rows).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (rows,) = ctx.saved_tensors
        ctx.engine.update(rows, grads[0])
        return None, None, None


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's memory as the kernels want it: float16 as int16, bfloat16 as uint16."""
    plain = tensor.detach()
    if plain.dtype is torch.float16:
        return plain.view(torch.int16).numpy()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.uint16).numpy()
    return plain.numpy()


def _zeros(rows: int, width: int) -> Tensor:
    """State for rows, zero; no rows if it would have no columns."""
    state = torch.empty(rows if width else 0, max(1, width))
    use_large_pages(state)
    return state.zero_()


def _check(weight: Tensor, name: str) -> None:
    if weight.device.type != "cpu" or not weight.is_contiguous():
        raise ConfigError(
            f"engine 'numba' runs on the CPU; the tables are on {weight.device}; use engine 'torch'"
        )
    if weight.dtype not in (torch.float32, torch.float16):
        raise ConfigError(f"engine 'numba' holds float32 or float16; got {weight.dtype}")
    if name not in COMPILED_OPTIMISERS:
        known = ", ".join(COMPILED_OPTIMISERS)
        raise ConfigError(f"engine 'numba' has kernels for {known}; got {name!r}")
