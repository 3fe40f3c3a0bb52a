"""What a net of the zoo sees: embedded fields, whatever they were before.

Shapes: B rows, F fields, D embedding, L history length, V values of a bag, W = D + 1 columns of a
table row (the embedding and the first-order weight, so that one look-up brings both).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.batches import Bag, Batch
from scalerec.data.layout import Layout

__all__ = ["FieldEmbedder", "Folded", "History", "Inputs", "folded_columns"]

# Columns of a folded input come in multiples of so many, which products like.
MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class History:
    """The user's earlier items, one by one.

    Args:
        values: Their embeddings, ``[B, L, D]``, oldest first, zero where there is none.
        mask: Whether there is one, ``[B, L]`` bool.
        target: Number of the field that holds the item to be scored, or None.
    """

    values: Tensor
    mask: Tensor
    target: int | None


@dataclass(frozen=True, slots=True)
class Folded:
    """All fields side by side for a linear layer, with each number in one column and not in D.

    A number's field is the number times its vector, so the layer's weights for that field matter
    only by their product with the vector: the sums are the same, over (D - 1) columns fewer a
    number, each way.

    Args:
        values: ``[B, K]``: the fields of ids, bags and vectors side by side, then the numbers, then
            zeros up to a multiple of 16.
        vectors: What a number is multiplied with, ``[N, D]``.
        num_ids: Number of id fields, which come before the numbers in a layer's weights.
    """

    values: Tensor
    vectors: Tensor
    num_ids: int

    def fold(self, weight_oi: Tensor) -> Tensor:
        """The weights over the columns of `values`, ``[O, K]``, from those over all fields.

        Args:
            weight_oi: ``[O, F * D]``.
        """
        num, dim = self.vectors.shape
        start = self.num_ids * dim
        stop = start + num * dim
        own_ond = weight_oi[:, start:stop].unflatten(1, (num, dim))
        pad = weight_oi.new_zeros(len(weight_oi), folded_columns(num) - num)
        parts = (weight_oi[:, :start], weight_oi[:, stop:], (own_ond * self.vectors).sum(-1), pad)
        return torch.cat(parts, 1)

    def unfold(self) -> Tensor:
        """The fields side by side, ``[B, F * D]``, for a layer whose weights do not fold."""
        num, dim = self.vectors.shape
        start, stop = self.num_ids * dim, self.values.shape[1] - folded_columns(num)
        own_bnd = self.values[:, stop : stop + num].unsqueeze(-1) * self.vectors
        parts = (self.values[:, :start], own_bnd.flatten(1), self.values[:, start:stop])
        return torch.cat(parts, 1)


def folded_columns(num_numbers: int) -> int:
    """Columns that so many numbers take in `Folded.values`."""
    return -(-num_numbers // MULTIPLE) * MULTIPLE


@dataclass(frozen=True, slots=True)
class Inputs:
    """Embedded fields of a batch.

    Args:
        fields: ``[B, F, D]``, in the order of `Layout.fields`. Bags are averaged. ``[0]`` where
            `folded` is given.
        linear: Sum of the first-order weights of all fields, ``[B]``.
        dense: The raw numbers, ``[B, N]``.
        histories: One a history of the layout, in order; none for a net that does not read them.
        pairs: Sum of the products of all pairs of fields, ``[B, D]``, where the lookup gave it;
            `scalerec.models.interactions.pairs_of` computes it elsewhere.
        folded: The fields for a net that reads them as `flat` alone, where that is quicker.
    """

    fields: Tensor
    linear: Tensor
    dense: Tensor
    histories: tuple[History, ...]
    pairs: Tensor | None = None
    folded: Folded | None = None

    @property
    def flat(self) -> Tensor | Folded:
        """The fields side by side, as `Mlp` reads them: ``[B, F * D]``, or folded."""
        return self.fields.flatten(1) if self.folded is None else self.folded


class FieldEmbedder(nn.Module):
    """Turns looked-up rows, numbers and vectors into `Inputs`.

    A number x becomes x times a learned vector; a vector becomes a linear image of itself, or zero
    where it is absent; a bag becomes the mean of its rows. All other nets then see only fields.

    Args:
        layout: The batch's layout.
        dim: D.
        generator: Draws the initial values.
        histories: Whether histories are also given one item at a time, for nets that read them so.
        init_std: Standard deviation of the numbers' initial vectors; their first-order weights
            start at zero. Both as for ids: thirteen numbers at the scale of a linear layer would
            start a factorisation machine with a logit of noise, with deviation 2.
    """

    def __init__(
        self,
        layout: Layout,
        dim: int,
        generator: torch.Generator,
        *,
        histories: bool = True,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.histories = histories
        width = dim + 1
        numbers = torch.randn(len(layout.numbers), width, generator=generator) * init_std
        numbers[:, -1] = 0.0
        self.numbers = nn.Parameter(numbers)
        self.vectors = nn.ParameterList(
            torch.randn(field.dim, width, generator=generator) / field.dim**0.5
            for field in layout.vectors
        )

    def forward(self, rows_kw: Tensor, batch: Batch) -> Inputs:
        """Assemble the inputs.

        Args:
            rows_kw: The looked-up rows, ``[F_ids * B + V, W]``: those of `batch.ids` flattened,
                then those of each bag's values.
            batch: The batch they were looked up for.
        """
        num_rows = len(batch)
        num_ids = len(self.layout.ids)
        ids_fbw = rows_kw[: num_ids * num_rows].view(num_ids, num_rows, rows_kw.shape[-1])
        bags, histories = self.pool(rows_kw[num_ids * num_rows :], batch)
        vectors = [own.values for own in batch.vectors]
        return self.assemble(ids_fbw.transpose(0, 1), batch.dense, bags, vectors, histories)

    def assemble(
        self,
        ids_bfw: Tensor,
        dense: Tensor,
        bags: Sequence[Tensor],
        vectors: Sequence[Tensor],
        histories: Sequence[History],
    ) -> Inputs:
        """Put fields together; all that has parameters, and it may run under `vmap`.

        Args:
            ids_bfw: The rows of id fields, ``[B, F_ids, W]``.
            dense: Numbers, ``[B, N]``.
            bags: The mean of each bag, ``[B, 1, W]``, as `pool` gives them.
            vectors: Vectors, ``[B, D]`` each.
            histories: As `pool` gives them.
        """
        parts = [ids_bfw]
        if self.layout.numbers:
            parts.append(dense.unsqueeze(-1) * self.numbers)
        parts += bags
        images = zip(vectors, self.vectors, strict=True)
        parts += [(values @ weight).unsqueeze(1) for values, weight in images]
        all_bfw = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        # One split: two slices would each have a gradient as large as the whole, mostly zeros.
        fields, linear = all_bfw.split([all_bfw.shape[-1] - 1, 1], dim=-1)
        return Inputs(fields, linear.squeeze(-1).sum(1), dense, tuple(histories))

    def images(self, batch: Batch) -> list[Tensor]:
        """The linear image of each vector field, ``[B, W]``; that of an absent vector is zero."""
        return [v.values @ weight for v, weight in zip(batch.vectors, self.vectors, strict=True)]

    @property
    def reads_items(self) -> bool:
        """Whether it gives histories one item at a time."""
        return self.histories and any(field.history for field in self.layout.bags)

    def pool(self, rows_vw: Tensor, batch: Batch) -> tuple[list[Tensor], list[History]]:
        """The mean of each bag, ``[B, 1, W]``, and the histories item by item.

        Args:
            rows_vw: The rows of the bags' values, one bag after the other.
            batch: The batch they were looked up for.
        """
        pooled, histories, start = [], [], 0
        for bag, field in zip(batch.bags, self.layout.bags, strict=True):
            values = rows_vw[start : start + len(bag.values)]
            start += len(bag.values)
            pooled.append(_mean(values, bag).unsqueeze(1))
            if field.history and self.histories:
                targets = self.layout.targets_of(field)
                padded, mask = _pad(values[:, :-1], bag)
                histories.append(History(padded, mask, targets[0] if targets else None))
        return pooled, histories


def _mean(values_vw: Tensor, bag: Bag) -> Tensor:
    total = values_vw.new_zeros(len(bag.offsets) - 1, values_vw.shape[-1])
    total = total.index_add(0, bag.rows, values_vw)
    return total / bag.lengths.clamp(min=1).to(total.dtype).unsqueeze(-1)


def _pad(values_vd: Tensor, bag: Bag) -> tuple[Tensor, Tensor]:
    num_rows = len(bag.offsets) - 1
    length = max(1, int(bag.lengths.max())) if num_rows else 1
    mask = torch.arange(length, device=values_vd.device) < bag.lengths.unsqueeze(-1)
    padded = values_vd.new_zeros(num_rows, length, values_vd.shape[-1])
    rows = bag.rows
    places = torch.arange(len(rows), device=rows.device) - bag.offsets[rows]
    return padded.index_put((rows, places), values_vd), mask
