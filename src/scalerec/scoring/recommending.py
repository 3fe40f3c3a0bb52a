"""Recommendations: the best items for a known user, or for somebody with a history alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.batches import Bag, Batch
from scalerec.data.frames import empty_batch
from scalerec.data.schema import Categorical, Role, TaskKind
from scalerec.data.vocabulary import OOV
from scalerec.errors import RequestError
from scalerec.scoring.ranking import CatalogueScorer, top_items

__all__ = ["Recommendation", "recommend", "stranger"]

MOST = 10_000


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a list.

    Args:
        rank: From 1.
        item: Its key.
        title: What a person calls it.
        score: The predicted chance (binary), number (regression), or raw score (retrieval).
    """

    rank: int
    item: str
    title: str
    score: float


def recommend(
    opened: OpenRecommender,
    *,
    user: str | None = None,
    history: Sequence[str] = (),
    k: int = 10,
    exclude_met: bool = True,
    scorer: CatalogueScorer | None = None,
    adapted: bool = False,
    skip: Sequence[str] = (),
) -> list[Recommendation]:
    """The best items of the catalogue for one user.

    Args:
        opened: A recommender whose schema has an item.
        user: The key of a user; one never seen is served from what all users have in common.
        history: Keys of items the user met, oldest first, instead of the recorded ones; unknown
            items count as out-of-vocabulary.
        k: Length of the list, 1 to 10,000.
        exclude_met: Whether items are left out that the user met in training or that are in
            `history`.
        scorer: One made of the recommender and its items, so that what items add to scores is
            computed once for many calls; made anew without one.
        adapted: Whether the recommender has adapted to the history, and need not read it.
        skip: Keys of further items that are left out, known or not.

    Returns:
        Up to `k` items, best first.

    Raises:
        RequestError: If there is no catalogue, its items are not ranked by a single number, `k` is
            out of range, or neither a user nor a history came.
    """
    _check(opened, user, history, k, adapted=adapted)
    number = None if user is None else opened.user_numbers.get(str(user))
    row = _known(opened, number) if number is not None else stranger(opened)
    met = _met(opened, number)
    if history:
        items = [opened.item_numbers.get(str(key)) for key in history]
        row = _with_history(opened, row, items)
        met = sorted({*met, *(item for item in items if item is not None)})
    left = [opened.item_numbers.get(str(key)) for key in skip]
    met = sorted({*met, *(item for item in left if item is not None)})
    scorer = scorer or CatalogueScorer(opened.recommender, opened.items)
    scores = scorer(row)
    exclude = Bag(torch.tensor(met, dtype=torch.int64), torch.tensor([0, len(met)]))
    lists, values = top_items(scores, k, exclude if exclude_met else None)
    binary = opened.layout.tasks[0].kind is TaskKind.BINARY
    logits = torch.from_numpy(values[0])
    chances = (logits.sigmoid() if binary else logits).tolist()
    return [
        Recommendation(rank + 1, opened.item_keys[item], opened.titles[item], chance)
        for rank, (item, chance) in enumerate(zip(lists[0].tolist(), chances, strict=True))
        if item >= 0
    ]


def _check(
    opened: OpenRecommender, user: str | None, history: Sequence[str], k: int, *, adapted: bool
) -> None:
    if not 1 <= k <= MOST:
        raise RequestError(f"k must be from 1 to {MOST}; got {k}")
    if not len(opened.items):
        raise RequestError(
            f"{opened.bundle.path} has no catalogue: its schema names no item to recommend"
        )
    task = opened.layout.tasks[0]
    if task.kind is TaskKind.MULTICLASS:
        raise RequestError(
            f"{opened.bundle.path} cannot rank items: its first task {task.name!r} is multiclass; "
            "allowed: binary, regression, retrieval"
        )
    if user is None and not history and not adapted:
        raise RequestError("whom to recommend to? give a user or a history")
    reads = adapted or any(bag.history for bag in opened.layout.bags)
    if history and not reads and user is None:
        raise RequestError(
            f"{opened.bundle.path} reads no history, so a history alone tells it nothing; "
            "give a user, or add a feature of kind 'sequence' with a history to the schema"
        )


def _known(opened: OpenRecommender, number: int) -> Batch:
    return opened.users.take(torch.tensor([number]))


def stranger(opened: OpenRecommender) -> Batch:
    """A user never seen: the user's key is out-of-vocabulary, all else is missing.

    Args:
        opened: Of its layout.
    """
    row = empty_batch(opened.layout, 1)
    schema = opened.encoders.schema
    keys = {schema.user, schema.key_of("users") if "users" in schema.tables else schema.user}
    for feature in schema.features:
        if (
            isinstance(feature, Categorical)
            and feature.role is Role.USER
            and feature.source in keys
        ):
            place = [field.name for field in opened.layout.ids].index(feature.name)
            row.ids[place] = OOV
    return row


def _met(opened: OpenRecommender, number: int | None) -> list[int]:
    if number is None:
        return []
    met: pa.Scalar = opened.met[number]
    return list(met.as_py())


def _with_history(opened: OpenRecommender, row: Batch, items: Sequence[int | None]) -> Batch:
    bags = list(row.bags)
    for i, field in enumerate(opened.layout.bags):
        if field.history:
            own = opened.items.ids[opened.layout.targets_of(field)[0]]
            ids = [OOV if item is None else int(own[item]) for item in items][-field.max_length :]
            bags[i] = Bag(torch.tensor(ids, dtype=torch.int64), torch.tensor([0, len(ids)]))
    return replace(row, bags=tuple(bags))
