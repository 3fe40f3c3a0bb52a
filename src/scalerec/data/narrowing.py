"""Batches of a layout from which fields are left out, or to which fields were added later."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import Layout
from scalerec.errors import ConfigError

__all__ = ["Narrowing", "Widening"]


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


class Widening:
    """Takes from batches of an earlier layout what a later one's narrowing gives.

    A field that the earlier layout lacks counts as missing: padding, 0, an empty list, no vector.

    Args:
        earlier: Of the batches.
        later: With all of the earlier one's fields, in their order.
        narrow: What is done to batches of the later layout.

    Raises:
        ConfigError: If the later layout does not go on from the earlier one, or a batch of the
            earlier one could not be told from one that was widened already.
    """

    def __init__(self, earlier: Layout, later: Layout, narrow: "Narrowing | Widening") -> None:
        later.beyond(earlier)
        self.layout: Layout = narrow.layout
        self._later, self._narrow = later, narrow
        names = [field.name for field in earlier.fields]
        if _sizes(earlier) == _sizes(narrow.layout):
            raise ConfigError(
                "batches of the fields "
                + ", ".join(names)
                + " cannot be told from those of "
                + ", ".join(field.name for field in narrow.layout.fields)
            )
        groups = (later.ids, later.numbers, later.bags, later.vectors)
        found = ([field.name for field in fields] for fields in groups)
        self._places = tuple(
            [place for place, name in enumerate(own) if name in names] for own in found
        )
        self._sizes = _sizes(narrow.layout)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the fields that the narrowed layout has."""
        held = len(batch.ids), batch.dense.shape[1], len(batch.bags), len(batch.vectors)
        if held == self._sizes:
            return batch
        whole = empty_batch(self._later, len(batch)).to(batch.ids.device)
        ids, numbers, bags, vectors = self._places
        whole.ids[ids], whole.dense[:, numbers] = batch.ids, batch.dense
        all_bags, all_vectors = list(whole.bags), list(whole.vectors)
        for place, bag in zip(bags, batch.bags, strict=True):
            all_bags[place] = bag
        for place, vector in zip(vectors, batch.vectors, strict=True):
            all_vectors[place] = vector
        wide = replace(
            batch,
            ids=whole.ids,
            dense=whole.dense,
            bags=tuple(all_bags),
            vectors=tuple(all_vectors),
        )
        return self._narrow(wide)


def _sizes(layout: Layout) -> tuple[int, int, int, int]:
    return len(layout.ids), len(layout.numbers), len(layout.bags), len(layout.vectors)
