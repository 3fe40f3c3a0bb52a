"""Histories in episodes: what a user's support tells, and nothing else.

A row of the data holds what its user met before it. In an episode that would tell more than the
examples: a query row's history would hold items that the support hides, and a later support row's
that of a query row was liked. A user who is a task stands for one never seen, of whom nothing is
known but the examples. So, where tasks are users, histories are told anew:

- rows to adapt on have none, as the examples of `recommend --history` and of a file have none;
- rows to be judged by have the items of the support, oldest first: all of them, or the liked ones
  where the history holds these. So has whoever asks for `recommend --history`.

Where tasks are items or domains, rows keep theirs: their users are known, and so is what each met
before the row's time. Some of a domain's query rows may be in histories of later support rows.

Shapes: T tasks, S support rows of each, V ids of all lists.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Bag, Batch
from scalerec.data.layout import Layout
from scalerec.data.schema import Schema

__all__ = ["history_kinds", "tell_anew"]


def history_kinds(schema: Schema) -> dict[str, str]:
    """The histories of a schema by name: `all`, or `positive` if they hold what was liked.

    Args:
        schema: Of the data.
    """
    return {feature.name: feature.history for feature in schema.history}


def tell_anew(
    layout: Layout, kinds: Mapping[str, str], support: Batch, query: Batch, counts_ts: Tensor
) -> tuple[Batch, Batch]:
    """Give an episode's rows the histories that the support tells; see the module.

    Args:
        layout: Of the batches.
        kinds: As `history_kinds` gives them.
        support: S rows of each task in turn.
        query: As many rows of each task, in turn.
        counts_ts: Which support rows count, ``[T, S]`` bool.
    """
    num = len(counts_ts)
    order = support.times.view(num, -1).argsort(dim=1, stable=True)
    met = counts_ts.gather(1, order)
    liked = (support.labels[:, 0] > 0) & support.label_mask[:, 0]
    liked = met & liked.view(num, -1).gather(1, order)
    tasks = torch.arange(num).repeat_interleave(len(query) // num)
    before, told = list(support.bags), list(query.bags)
    for place, field in enumerate(layout.bags):
        if not field.history:
            continue
        items = support.ids[layout.targets_of(field)[0]].view(num, -1).gather(1, order)
        kept = _last(liked if kinds[field.name] == "positive" else met, field.max_length)
        told[place] = _bag(items[kept], kept.sum(1)).take(tasks)
        before[place] = _bag(items[:0].flatten(), torch.zeros(len(support), dtype=torch.int64))
    return replace(support, bags=tuple(before)), replace(query, bags=tuple(told))


def _last(mask_ts: Tensor, most: int) -> Tensor:
    """The last few of each task's marks."""
    rest = mask_ts.flip(1).cumsum(1).flip(1)
    return mask_ts & (rest <= most)


def _bag(values: Tensor, lengths: Tensor) -> Bag:
    return Bag(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
