"""Tensors with many zeros as a mask of bits and the numbers that are not zero."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from scalerec.errors import ConfigError

__all__ = ["join_sparse", "split_sparse"]

MASK, VALUES = "mask", "values"


def split_sparse(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Replace tensors by ``NAME.mask`` and ``NAME.values``.

    Args:
        tensors: By name.
        names: Those to replace.

    Returns:
        All tensors; a mask is uint8, a bit a number in the order of rows, the last bits unused.

    Example:
        >>> split_sparse({"w": torch.tensor([[0.0, 2.0], [3.0, 0.0]])}, ["w"])
        {'w.mask': tensor([96], dtype=torch.uint8), 'w.values': tensor([2., 3.])}
    """
    found = dict(tensors)
    for name in names:
        flat = found.pop(name).flatten()
        filled = (flat != 0).cpu()
        found[f"{name}.{MASK}"] = torch.from_numpy(np.packbits(filled.numpy()))
        found[f"{name}.{VALUES}"] = flat[filled.to(flat.device)]
    return found


def join_sparse(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Iterable[int]]
) -> dict[str, Tensor]:
    """Undo `split_sparse`.

    Args:
        tensors: As it gave them; a tensor that is there as a whole is left as it is.
        shapes: Those of the tensors that were replaced, by name.

    Raises:
        ConfigError: If a mask and its numbers do not fit each other or the shape.
    """
    found = dict(tensors)
    for name, shape in shapes.items():
        mask, values = (found.pop(f"{name}.{part}", None) for part in (MASK, VALUES))
        if mask is not None and values is not None:
            found[name] = _join(name, mask, values, torch.Size(shape))
        elif name not in found:
            raise ConfigError(f"sparse tensor {name!r} lacks its mask or its numbers")
    return found


def _join(name: str, mask: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    size = shape.numel()
    if mask.dtype is not torch.uint8 or mask.shape != (-(-size // 8),):
        raise ConfigError(
            f"the mask of sparse tensor {name!r} must be uint8 [{-(-size // 8)}]; "
            f"got {str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
        )
    filled = torch.from_numpy(np.unpackbits(mask.cpu().numpy(), count=size)).bool()
    num = int(filled.sum())
    if values.shape != (num,):
        raise ConfigError(
            f"sparse tensor {name!r} must have {num} numbers, as its mask says; "
            f"got {list(values.shape)}"
        )
    whole = values.new_zeros(size)
    whole[filled.to(values.device)] = values
    return whole.view(shape)
