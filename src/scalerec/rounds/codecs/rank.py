"""Matrices as products of low rank: PowerSGD.

Shapes: N rows and M columns of a matrix, R its rank on the way.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.codec import Codec, Encoded, Message

__all__ = ["Mean", "missed_of_matrices", "power_sgd"]

DENSE, LEFT, RIGHT, ERROR, START = "dense/", "/left", "/right", "error/", "start/"
SEED = 20191205

Mean = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Named tensors -> their mean over the parties, each of whom must ask at once."""


def power_sgd(rank: int, mean: Mean | None = None) -> Codec:
    """Send each dense matrix as ``left @ right.T``, found by one step of power iteration a round.

    The step starts from the round before's `right`, and what the product misses of a matrix is
    added to the next update. Tensors of one dimension, and matrices whose factors would be no
    smaller, travel as they are; the last two dimensions of a larger tensor are its matrices. Rows
    of tables pass as they are.

    Both factors are linear in the matrix, so they may be averaged on the way: with `mean` all
    parties send and get the mean's own approximation, for the price of two sums, whatever their
    number, and each remembers what that misses of its own matrix. Without it each sends an
    approximation of its own.

    Paper: PowerSGD, Vogels et al., 2019, algorithms 1 and 2, https://arxiv.org/abs/1905.13727; we
    orthogonalise by QR.

    Args:
        rank: R, at least 1.
        mean: Averages over the parties on the way; then a decoded message is the mean already.

    Raises:
        ConfigError: If the rank is below 1.
    """
    require(rank >= 1, f"rank must be at least 1; got {rank}")
    averaged: Mean = mean or dict

    def encode(message: Message, state: Mapping[str, Tensor], _: torch.Generator) -> Encoded:
        dense = {n: t for n, t in message.items() if n.startswith(DENSE)}
        _check(dense)
        small = {n: t for n, t in dense.items() if not _is_worth_it(t, rank)}
        matrices = {
            n: t + state[ERROR + n].to(t.device) if ERROR + n in state else t
            for n, t in dense.items()
            if n not in small
        }
        starts = {n: _start(n, t, state, rank) for n, t in matrices.items()}
        # The small ones travel with the left factors.
        first = averaged({**small, **{n: t @ starts[n] for n, t in matrices.items()}})
        left = {n: torch.linalg.qr(first[n]).Q for n in matrices}
        right = averaged({n: t.mT @ left[n] for n, t in matrices.items()})
        after = {ERROR + n: t - left[n] @ right[n].mT for n, t in matrices.items()}
        after |= {START + n: t for n, t in right.items()}
        sent = {n: t for n, t in message.items() if n not in dense}
        sent |= {n: first[n] for n in small}
        sent |= {n + LEFT: t for n, t in left.items()}
        return sent | {n + RIGHT: t for n, t in right.items()}, after

    return Codec(dict, encode, _decode)


def missed_of_matrices(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """What `power_sgd` keeps for later, by the dense tensors' names.

    Args:
        state: The codec's.
        names: Of the dense tensors; of some nothing is kept.
    """
    found = {name: state.get(f"{ERROR}{DENSE}{name}") for name in names}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _decode(message: Message) -> dict[str, Tensor]:
    out = {}
    for name, tensor in message.items():
        if name.endswith(LEFT):
            whole = name.removesuffix(LEFT)
            if whole + RIGHT not in message:
                raise RoundError(f"a message of low rank needs {whole + RIGHT}; got none")
            out[whole] = tensor @ message[whole + RIGHT].mT
        elif not name.endswith(RIGHT):
            out[name] = tensor
    return out


def _is_worth_it(tensor: Tensor, rank: int) -> bool:
    if tensor.ndim < 2:
        return False
    n, m = tensor.shape[-2:]
    return rank * (n + m) < n * m


def _start(name: str, tensor: Tensor, state: Mapping[str, Tensor], rank: int) -> Tensor:
    """Where the power iteration starts, ``[..., M, R]``: the same for all parties."""
    known = state.get(START + name)
    if known is not None and bool(known.any()):
        return known.to(tensor.device)
    shape = (*tensor.shape[:-2], tensor.shape[-1], rank)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    return drawn.to(tensor.device)


def _check(dense: Mapping[str, Tensor]) -> None:
    for name, tensor in dense.items():
        if tensor.dtype is not torch.float32:
            own = name.removeprefix(DENSE)
            raise RoundError(f"dense tensor {own!r} must be torch.float32; got {tensor.dtype}")
