"""How many distinct rows a batch reads: from a law of ids, or from a data set.

What processes send each other for tables follows the distinct rows that each reads in a step, not
the rows there are. Ids follow a bounded Pareto law: the k-th most frequent id of R has the chance
of ``[k, k + 1)`` under a density ``x ** -a`` on ``[1, R + 1)``. For a = 0 all are alike; near 1 it
is Zipf's law. n draws read ``sum_k 1 - (1 - p_k) ** n`` distinct ids on average.

Shapes: R rows of a table, n draws from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout

__all__ = [
    "EXPONENT",
    "TableReads",
    "distinct_rows",
    "layout_reads",
    "measured_reads",
    "total_distinct",
]

# Of the generated data of the benchmarks: a long tail, so that a batch reads many rows.
EXPONENT = 1.05
HEAD = 1 << 16
GRID = 2048
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableReads(Config):
    """What is read of one table.

    Args:
        rows: R, at least 1.
        lookups: Ids of it that an example holds, on average; above 0.
        exponent: Of the law of its ids, at least 0.
        points: Examples of a batch to the distinct rows they read, where that was measured; between
            two points and beyond the last one a power of the examples is taken.
    """

    rows: int
    lookups: float = 1.0
    exponent: float = EXPONENT
    points: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.rows >= 1, f"rows of a table must be at least 1; got {self.rows}")
        require(self.lookups > 0, f"lookups of a table must be above 0; got {self.lookups}")
        require(self.exponent >= 0, f"the exponent must be at least 0; got {self.exponent}")

    def distinct(self, examples: float) -> float:
        """Distinct rows that so many examples read."""
        if not self.points:
            return distinct_rows(self.rows, examples * self.lookups, self.exponent)
        known = sorted((float(size), rows) for size, rows in self.points.items())
        return min(_between(known, examples), examples * self.lookups, float(self.rows))


@lru_cache(maxsize=4096)
def distinct_rows(rows: int, draws: float, exponent: float = EXPONENT) -> float:
    """Distinct ids among some draws.

    Args:
        rows: R, of the table.
        draws: n, at least 0.
        exponent: a, of the law.

    Example:
        >>> round(distinct_rows(2, 2, 0.0), 6)  # the second draw is another id half the time
        1.5
    """
    if draws <= 0:
        return 0.0
    head = min(rows, HEAD)
    edges = _below(np.arange(1.0, head + 2.0), rows, exponent)
    found = float(_met(np.diff(edges), draws).sum())
    if rows > head:
        places = np.geomspace(head + 1.0, rows + 1.0, GRID)
        chances = places**-exponent / _area(rows + 1.0, exponent)
        # In the logarithm of the place, where the law is smooth.
        inner = _met(chances, draws) * places
        found += float(np.trapezoid(inner, np.log(places)))
    return min(found, draws, float(rows))


def _met(chances: Floats, draws: float) -> Floats:
    return -np.expm1(draws * np.log1p(-np.minimum(chances, 1 - 1e-12)))


def _area(end: float, exponent: float) -> float:
    """Of ``x ** -exponent`` from 1 to the end."""
    power = 1.0 - exponent
    return float(np.log(end) if abs(power) < 1e-9 else (end**power - 1) / power)


def _below(places: Floats, rows: int, exponent: float) -> Floats:
    """The chance of an id before each place."""
    power = 1.0 - exponent
    areas = np.log(places) if abs(power) < 1e-9 else (places**power - 1) / power
    return areas / _area(rows + 1.0, exponent)


def _between(known: list[tuple[float, float]], examples: float) -> float:
    """On the line between two points, both axes logarithmic; the last line goes on."""
    sizes, counts = np.log(known).T if len(known) > 1 else np.log([(1e-9, 1e-9), *known]).T
    right = int(np.clip(np.searchsorted(sizes, np.log(examples)), 1, len(sizes) - 1))
    run = sizes[right] - sizes[right - 1]
    slope = float(np.clip((counts[right] - counts[right - 1]) / run, 0.0, 1.0))
    return float(np.exp(counts[right - 1] + slope * (np.log(examples) - sizes[right - 1])))


def layout_reads(layout: Layout, exponent: float = EXPONENT) -> dict[str, TableReads]:
    """What an example reads of each table, by the layout alone; bags are taken as full.

    Args:
        layout: Of the batches.
        exponent: Of the law of ids.
    """
    lookups = dict.fromkeys(layout.tables, 0.0)
    for own in layout.ids:
        lookups[own.table] += 1.0
    for bag in layout.bags:
        lookups[bag.table] += bag.max_length
    return {
        name: TableReads(rows=rows, lookups=max(lookups[name], 1e-9), exponent=exponent)
        for name, rows in layout.tables.items()
    }


def measured_reads(dataset: Dataset, most: int = 65_536, seed: int = 1) -> dict[str, TableReads]:
    """What examples read of each table, counted in the training part.

    Args:
        dataset: The data.
        most: Examples that are read, in eight stretches from all over the part.
        seed: Of their order.
    """
    events = dataset.split("train")
    size = max(1, min(most, len(events)) // 8)
    starts = [int(start) for start in np.linspace(0, len(events) - size, 8)]
    batch = Batch.concat([events.read(start, start + size) for start in starts])
    order = np.random.default_rng(seed).permutation(len(batch))
    layout, found = dataset.layout, {}
    for name, rows in layout.tables.items():
        ids, owners = _lookups(layout, batch, name)
        places = np.empty(len(batch), np.int64)
        places[order] = np.arange(len(batch))
        points = _curve(ids, places[owners], len(batch))
        lookups = max(1e-9, len(ids) / len(batch))
        found[name] = TableReads(rows=rows, lookups=lookups, points=points)
    return found


def _lookups(
    layout: Layout, batch: Batch, table: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of a table that a batch looks up, padding left out, and the example of each."""
    every = np.arange(len(batch))
    ids = [batch.ids[i].numpy() for i, own in enumerate(layout.ids) if own.table == table]
    owners = [every for _ in ids]
    for bag, own in zip(batch.bags, layout.bags, strict=True):
        if own.table == table:
            ids.append(bag.values.numpy())
            owners.append(bag.rows.numpy())
    whole = np.concatenate(ids) if ids else np.empty(0, np.int64)
    whose = np.concatenate(owners) if owners else np.empty(0, np.int64)
    kept = whole > 0
    return whole[kept], whose[kept]


def _curve(ids: NDArray[np.int64], places: NDArray[np.int64], size: int) -> dict[str, float]:
    """Distinct ids among the first examples, for a few numbers of examples."""
    if not len(ids):
        return {"1": 1e-9}
    ids = ids[np.argsort(places, kind="stable")]
    _, first = np.unique(ids, return_index=True)
    new_at = np.sort(np.sort(places)[first])
    sizes = [n for n in (64, 256, 1024, 4096, 16_384, 65_536) if n < size] + [size]
    return {str(n): max(1e-9, float(np.searchsorted(new_at, n))) for n in sizes}


def total_distinct(reads: Mapping[str, TableReads], examples: float) -> float:
    """Distinct rows of all tables that so many examples read."""
    return sum(table.distinct(examples) for table in reads.values())
