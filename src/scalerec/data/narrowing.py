"""Batches of a layout from which fields are left out."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout

__all__ = ["Narrowing"]


class Narrowing:
    """Takes from batches of a layout what a layout without some fields holds.

    Args:
        layout: Of the batches.
        names: Fields that are left out.

    Raises:
        ConfigError: If there is no such field, or none would be left.
    """

    def __init__(self, layout: Layout, names: Sequence[str]) -> None:
        self.layout = layout.without(names)
        groups = (layout.ids, layout.numbers, layout.bags, layout.vectors)
        found = ([field.name for field in fields] for fields in groups)
        self._kept = tuple(
            [place for place, name in enumerate(own) if name not in names] for own in found
        )
        self._sizes = tuple(map(len, self._kept))

    def __call__(self, batch: Batch) -> Batch:
        """The batch without the fields; one that has none of them is given back as it is."""
        held = len(batch.ids), batch.dense.shape[1], len(batch.bags), len(batch.vectors)
        if held == self._sizes:
            return batch
        ids, numbers, bags, vectors = self._kept
        return replace(
            batch,
            ids=_pick(batch.ids, ids, 0),
            dense=_pick(batch.dense, numbers, 1),
            bags=tuple(batch.bags[place] for place in bags),
            vectors=tuple(batch.vectors[place] for place in vectors),
        )


def _pick(tensor: Tensor, places: list[int], dim: int) -> Tensor:
    if len(places) == tensor.shape[dim]:
        return tensor
    return tensor.index_select(dim, torch.tensor(places, device=tensor.device, dtype=torch.int64))
