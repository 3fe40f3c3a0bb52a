"""The batch: what travels from the data to a model, as plain tensors.

Shapes: B rows (events), F id fields, N numbers, V values of a bag, T tasks, D floats of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["Bag", "Batch", "Vectors", "take_ragged"]


@dataclass(frozen=True, slots=True)
class Bag:
    """A list of ids per row, all lists in one tensor.

    Args:
        values: Ids of all rows, one after the other, ``[V]`` int64.
        offsets: Where each row's ids start; the last entry is V; ``[B+1]`` int64.
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """Number of ids of each row, ``[B]`` int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def rows(self) -> Tensor:
        """The row to which each value belongs, ``[V]`` int64."""
        return torch.repeat_interleave(self.lengths)

    def slice(self, start: int, stop: int) -> "Bag":
        """The lists of the rows `start` .. `stop`; their values are a view."""
        offsets = self.offsets[start : stop + 1]
        first = offsets[0]
        return Bag(self.values[first : offsets[-1]], offsets - first)

    def take(self, index: Tensor) -> "Bag":
        """The lists of these rows, in this order."""
        values, offsets = take_ragged(self.values, self.offsets, index)
        return Bag(values, offsets)


@dataclass(frozen=True, slots=True)
class Vectors:
    """A vector per row, or none.

    Args:
        values: ``[B, D]`` float32, zero where absent.
        present: Whether a row has one, ``[B]`` bool.
    """

    values: Tensor
    present: Tensor

    def take(self, index: Tensor) -> "Vectors":
        """The vectors of these rows, in this order."""
        return Vectors(self.values[index], self.present[index])


@dataclass(frozen=True, slots=True)
class Batch:
    """Events (or users, or items) ready for a model.

    Args:
        ids: One id per field and row, feature-major, ``[F, B]`` int64. 0 is padding, 1 is
            out-of-vocabulary.
        dense: Numbers, ``[B, N]`` float32.
        bags: One a bag field of the layout.
        vectors: One a vector field of the layout.
        labels: ``[B, T]`` float32; a class's number for a multiclass task; 0 where masked.
        label_mask: Whether the label is known, ``[B, T]`` bool.
        weights: Sample weights, ``[B]`` float32.
        groups: Number of the row's group, ``[B]`` int64; -1 if there are no groups.
        times: Unix seconds, ``[B]`` int64; 0 if there are no timestamps.
        users: Number of the row's user in the data set's user table, ``[B]`` int64; -1 if none.
        items: Number of the row's item in the catalogue, ``[B]`` int64; -1 if none.
    """

    ids: Tensor
    dense: Tensor
    bags: tuple[Bag, ...]
    vectors: tuple[Vectors, ...]
    labels: Tensor
    label_mask: Tensor
    weights: Tensor
    groups: Tensor
    times: Tensor
    users: Tensor
    items: Tensor

    def __len__(self) -> int:
        return self.ids.shape[1]

    def take(self, index: Tensor) -> "Batch":
        """The rows `index` ``[K]`` int64, in that order; a row may be taken twice."""
        return Batch(
            ids=_take_ids(self.ids, index),
            dense=self.dense.index_select(0, index),
            bags=tuple(bag.take(index) for bag in self.bags),
            vectors=tuple(vectors.take(index) for vectors in self.vectors),
            **{name: getattr(self, name).index_select(0, index) for name in _PER_ROW},
        )

    def slice(self, start: int, stop: int) -> "Batch":
        """The rows `start` .. `stop`, as views where that can be."""
        return Batch(
            ids=self.ids[:, start:stop],
            dense=self.dense[start:stop],
            bags=tuple(bag.slice(start, stop) for bag in self.bags),
            vectors=tuple(
                Vectors(v.values[start:stop], v.present[start:stop]) for v in self.vectors
            ),
            **{name: getattr(self, name)[start:stop] for name in _PER_ROW},
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            bags=tuple(Bag(b.values.to(device), b.offsets.to(device)) for b in self.bags),
            vectors=tuple(Vectors(v.values.to(device), v.present.to(device)) for v in self.vectors),
            **{name: getattr(self, name).to(device) for name in ("ids", "dense", *_PER_ROW)},
        )

    @staticmethod
    def concat(batches: Sequence["Batch"]) -> "Batch":
        """All rows of several batches of one layout."""
        first = batches[0]
        return Batch(
            ids=torch.cat([b.ids for b in batches], dim=1),
            dense=torch.cat([b.dense for b in batches]),
            bags=tuple(_concat_bags([b.bags[i] for b in batches]) for i in range(len(first.bags))),
            vectors=tuple(
                Vectors(
                    torch.cat([b.vectors[i].values for b in batches]),
                    torch.cat([b.vectors[i].present for b in batches]),
                )
                for i in range(len(first.vectors))
            ),
            **{name: torch.cat([getattr(b, name) for b in batches]) for name in _PER_ROW},
        )


_PER_ROW = tuple(f.name for f in fields(Batch) if f.name not in ("ids", "dense", "bags", "vectors"))


def _take_ids(ids_fb: Tensor, index: Tensor) -> Tensor:
    """Columns `index` ``[K]`` of ``[F, B]``; NumPy takes them several times as fast as torch."""
    if ids_fb.device.type != "cpu":
        return ids_fb.index_select(1, index)
    low, high = (int(bound) for bound in index.aminmax()) if len(index) else (0, -1)
    size = ids_fb.shape[1]
    if low < 0 or high >= size:
        raise IndexError(f"rows must be from 0 to {size - 1}; got {low} to {high}")
    taken = torch.empty(len(ids_fb), len(index), dtype=ids_fb.dtype)
    places = index.numpy()
    for own, out in zip(ids_fb.numpy(), taken.numpy(), strict=True):
        # Any mode but `raise` writes to its place without a copy between.
        own.take(places, out=out, mode="clip")
    return taken


def take_ragged(values: Tensor, offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Take rows of a ragged tensor.

    Args:
        values: ``[V]``, any dtype.
        offsets: ``[B+1]`` int64.
        index: Rows to take, ``[K]`` int64.

    Returns:
        The values of the taken rows and their offsets ``[K+1]``.

    Example:
        >>> take_ragged(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 3]), torch.tensor([1, 0]))
        (tensor([8, 9, 7]), tensor([0, 2, 3]))
    """
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    taken = torch.zeros(len(index) + 1, dtype=torch.int64, device=offsets.device)
    torch.cumsum(lengths, 0, out=taken[1:])
    shift = torch.repeat_interleave(starts - taken[:-1], lengths)
    return values[shift + torch.arange(len(shift), device=values.device)], taken


def _concat_bags(bags: Sequence[Bag]) -> Bag:
    lengths = torch.cat([bag.lengths for bag in bags])
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return Bag(torch.cat([bag.values for bag in bags]), offsets)
