"""Where ranked lists meet the relevant items: found once, used by every ranking metric.

Legend: U users, K columns of the ranked lists, V relevant items of all users together.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalerec.errors import DataError
from scalerec.metrics import checks
from scalerec.metrics.checks import BoolArray, FloatArray, IntArray

# Keys are user * items + item; above this they would not fit int64, and items are renumbered.
_LARGEST_KEY = 2**62


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Ranked lists beside what was relevant.

    Attributes:
        hit_uk: [U, K], whether the item at this rank is relevant.
        gain_uk: [U, K], its gain, 0 where it is not relevant.
        num_relevant_u: [U], number of relevant items.
        owner_v: [V], the user of each relevant item.
        place_v: [V], the item's rank among its user's gains, from 0, best first.
        gain_v: [V], its gain.
    """

    hit_uk: BoolArray
    gain_uk: FloatArray
    num_relevant_u: IntArray
    owner_v: IntArray
    place_v: IntArray
    gain_v: FloatArray

    def best_gain(self, k: int) -> FloatArray:
        """Return the discounted gain [U] of the best possible list of `k` items."""
        counts = self.place_v < k
        parts = self.gain_v[counts] * discounts(k)[self.place_v[counts]]
        best = np.zeros(len(self.num_relevant_u))
        np.add.at(best, self.owner_v[counts], parts)
        return best


def discounts(k: int) -> FloatArray:
    """Return 1 / log2(rank + 1) for ranks 1 to `k`."""
    weights: FloatArray = 1.0 / np.log2(np.arange(2, k + 2))
    return weights


def match(
    ranked: npt.ArrayLike,
    values: npt.ArrayLike,
    offsets: npt.ArrayLike,
    *,
    k: int,
    gains: npt.ArrayLike | None = None,
) -> Matches:
    """Find the relevant items in the first `k` columns of the ranked lists.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: columns to look at, at least 1.
        gains: [V], from 1e-100 to 1e100; 1 each if None.

    Returns:
        The matches, in arrays of their own.

    Raises:
        DataError: on wrong shapes or values, or if an item comes twice for one user.
    """
    ranked_uk = checks.ranked_lists(ranked, k)[:, :k]
    item_v = checks.integers("values", values)
    checks.refuse("values", item_v < 0, item_v, "item ids of at least 0")
    edges = checks.ragged_offsets(offsets, len(ranked_uk), len(item_v))
    gain_v = np.ones(len(item_v)) if gains is None else _gains(gains, len(item_v))
    num_relevant_u = np.diff(edges)
    owner_v = np.repeat(np.arange(len(ranked_uk)), num_relevant_u)
    position_uk, hit_uk = _find(ranked_uk, owner_v, item_v)
    gain_uk = np.zeros(hit_uk.shape)
    gain_uk[hit_uk] = gain_v[position_uk[hit_uk]]
    best_first = np.lexsort((-gain_v, owner_v))
    return Matches(
        hit_uk=hit_uk,
        gain_uk=gain_uk,
        num_relevant_u=num_relevant_u,
        owner_v=owner_v,
        place_v=np.arange(len(item_v)) - np.repeat(edges[:-1], num_relevant_u),
        gain_v=gain_v[best_first],
    )


def _gains(gains: npt.ArrayLike, num_values: int) -> FloatArray:
    gain_v = checks.positives_bounded("gains", gains, zero=False)
    checks.same_rows("gains", gain_v, num_values, "values")
    return gain_v


def _find(ranked_uk: IntArray, owner_v: IntArray, item_v: IntArray) -> tuple[IntArray, BoolArray]:
    """Return, for each place in the lists, its position in `item_v` and whether there is one."""
    if not len(item_v) or not ranked_uk.size:
        _refuse_twice(owner_v, item_v, np.lexsort((item_v, owner_v)))
        return np.zeros(ranked_uk.shape, dtype=np.int64), np.zeros(ranked_uk.shape, dtype=np.bool_)
    items_uk, items_v, num_items = _small_ids(ranked_uk, item_v)
    key_v = owner_v * num_items + items_v
    order = np.argsort(key_v, kind="stable")
    _refuse_twice(owner_v, item_v, order)
    key_uk = np.arange(len(ranked_uk))[:, None] * num_items + items_uk
    place_uk = np.minimum(np.searchsorted(key_v[order], key_uk), len(order) - 1)
    position_uk = order[place_uk]
    # Padding has the key of the last item of the user before, so it is ruled out by name.
    return position_uk, (key_v[position_uk] == key_uk) & (ranked_uk >= 0)


def _small_ids(ranked_uk: IntArray, item_v: IntArray) -> tuple[IntArray, IntArray, int]:
    """Renumber the items if keys of user and item together would not fit int64."""
    num_items = int(max(ranked_uk.max(), item_v.max())) + 1
    if len(ranked_uk) * num_items <= _LARGEST_KEY:
        return ranked_uk, item_v, num_items
    ids, number = np.unique(np.concatenate([ranked_uk.ravel(), item_v]), return_inverse=True)
    split = ranked_uk.size
    return number[:split].reshape(ranked_uk.shape), number[split:], len(ids)


def _refuse_twice(owner_v: IntArray, item_v: IntArray, order: IntArray) -> None:
    owner, item = owner_v[order], item_v[order]
    twice = np.flatnonzero((owner[1:] == owner[:-1]) & (item[1:] == item[:-1]))
    if len(twice):
        first = twice[0]
        raise DataError(
            f"values must name an item once per user; got item {item[first]} twice "
            f"at row {owner[first]}"
        )
