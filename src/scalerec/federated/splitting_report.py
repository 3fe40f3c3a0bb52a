"""How uneven a division among parties is: rows, labels, the rows of tables they read, modalities.

Shapes: P parties, n rows of all parties, K labels, R rows of a table.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.data.dataset import Dataset
from scalerec.data.schema import Task, TaskKind
from scalerec.federated.chance import numbers_of
from scalerec.federated.splitting import Parties
from scalerec.rounds import skew_of

__all__ = ["LabelSkew", "SplitReport", "Spread", "TableSpread", "gini", "rates_of", "report_split"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
# Rows that are read at a time.
CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A number of each party, in short."""

    least: float
    median: float
    mean: float
    most: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Spread":
        """Sum values up, ``[P]``, at least one."""
        found = (values.min(), np.median(values), values.mean(), values.max())
        return cls(**dict(zip(("least", "median", "mean", "most"), map(float, found), strict=True)))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSkew:
    """How far the labels of parties differ from those of all rows together.

    Args:
        rate: Mean label of all rows; None for classes.
        rate_spread: Standard deviation of the parties' mean labels; None for classes.
        variation: Total variation between a party's labels and all, the mean over rows: from 0
            (alike) to 1; None for numbers.
        most_variation: That of the party furthest off.
        divergence: Jensen-Shannon divergence between a party's labels and all, the mean over rows,
            in bits: from 0 to 1; None for numbers.
        variation_by_chance: What `variation` is if the same labels are dealt out at random to
            parties of the same sizes: small parties differ even so.
    """

    rate: float | None
    rate_spread: float | None
    variation: float | None
    most_variation: float | None
    divergence: float | None
    variation_by_chance: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpread:
    """Which rows of an embedding table the parties read; padding does not count.

    Args:
        rows: R.
        read: Rows that some party reads.
        per_party: Distinct rows that each reads.
        holders: Parties that read a row, the mean over the rows that are read.
        alone: Share of the rows read that only one party reads.
        overlap: The chance that another party, drawn at random, reads a row that a party reads,
            over all rows of all parties: 0 if all differ, 1 if all read the same. None for one
            party.
    """

    rows: int
    read: int
    per_party: Spread
    holders: float
    alone: float
    overlap: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """How training rows are divided among parties, and how uneven that is.

    Args:
        by: How they were divided, as `--by` says it.
        num_parties: P.
        num_rows: n.
        num_left_out: Parties that had too few rows.
        num_rows_left_out: Rows that those had.
        rows: Of each party.
        gini: Of the parties' rows: 0 if all have as many, near 1 if one has nearly all.
        size_ratio: The largest party against the mean one.
        labels: Task to how far its labels differ; tasks without a label are left out.
        tables: Embedding table to the rows that parties read.
        vectors: Vector field to the parties that have it, where some do not have all.
        num_without_vectors: Parties that have no vector field, where some do not have all.
        num_domains: Domains, 0 if there are none.
    """

    by: str
    num_parties: int
    num_rows: int
    num_left_out: int
    num_rows_left_out: int
    rows: Spread
    gini: float
    size_ratio: float
    labels: dict[str, LabelSkew]
    tables: dict[str, TableSpread]
    vectors: dict[str, int]
    num_without_vectors: int
    num_domains: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SplitReport":
        """What `to_dict` gave."""
        tables = {
            name: TableSpread(**{**table, "per_party": Spread(**table["per_party"])})
            for name, table in values["tables"].items()
        }
        labels = {name: LabelSkew(**task) for name, task in values["labels"].items()}
        ready = {"rows": Spread(**values["rows"]), "labels": labels, "tables": tables}
        return cls(**{**values, **ready})

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows for a person."""
        out = [
            ["parties", f"{self.num_parties:,}, by {self.by}"],
            ["left out", f"{self.num_left_out:,} parties with {self.num_rows_left_out:,} rows"],
            ["rows", f"{self.num_rows:,}: {_words(self.rows)}"],
            ["balance", f"largest / mean {self.size_ratio:.2f}, Gini {self.gini:.3f}"],
        ]
        out += [[f"labels of {name}", _label_words(task)] for name, task in self.labels.items()]
        out += [[f"table {name}", _table_words(table)] for name, table in self.tables.items()]
        out += [[f"vectors {name}", f"{num:,} parties"] for name, num in self.vectors.items()]
        if self.vectors:
            out.append(["no vectors", f"{self.num_without_vectors:,} parties"])
        if self.num_domains:
            out.append(["domains", f"{self.num_domains:,}"])
        return ["what", "found"], [list[object](line) for line in out]

    def text(self) -> str:
        """The table as lines of text."""
        _, rows = self.table()
        width = max(len(str(name)) for name, _ in rows)
        return "\n".join(f"{name!s:<{width}}  {found}" for name, found in rows)


def report_split(dataset: Dataset, parties: Parties) -> SplitReport:
    """Measure how uneven a division is. All rows are read once, in stretches.

    Args:
        dataset: Whose training rows were divided.
        parties: Who holds which.
    """
    sizes, vectors = parties.sizes, parties.vectors
    fields = [field.name for field in dataset.layout.vectors]
    has = {} if vectors is None else dict(zip(fields, vectors.sum(axis=0).tolist(), strict=True))
    return SplitReport(
        by=parties.by,
        num_parties=len(parties),
        num_rows=parties.num_rows,
        num_left_out=parties.num_left_out,
        num_rows_left_out=parties.num_rows_left_out,
        rows=Spread.of(sizes),
        gini=gini(sizes),
        size_ratio=skew_of(sizes.tolist(), []).size_ratio or 0.0,
        labels=_label_skews(dataset, parties),
        tables=_table_spreads(dataset, parties),
        vectors=has,
        num_without_vectors=0 if vectors is None else int((~vectors.any(axis=1)).sum()),
        num_domains=0 if parties.domains is None else len(np.unique(parties.domains)),
    )


def gini(sizes: NDArray[Any]) -> float:
    """The Gini coefficient of sizes, ``[P]``, at least 0, not all 0.

    Example:
        >>> gini(np.array([1, 1, 1, 5]))
        0.375
    """
    ordered, size = np.sort(sizes).astype(np.float64), len(sizes)
    ranks = np.arange(1, size + 1)
    return float(2.0 * (ranks @ ordered) / (size * ordered.sum()) - (size + 1) / size)


def rates_of(parties: Parties, labels: NDArray[Any]) -> Floats:
    """The mean label of each party, NaN where it knows none, ``[P]``.

    Args:
        parties: Who holds which rows.
        labels: One a row of the split, NaN where not known.
    """
    own = np.asarray(labels, np.float64)[parties.order]
    known = ~np.isnan(own)
    owners, size = parties.owners[known], len(parties)
    counts = np.bincount(owners, minlength=size)
    sums = np.bincount(owners, weights=own[known], minlength=size)
    found: Floats = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return found


def _label_skews(dataset: Dataset, parties: Parties) -> dict[str, LabelSkew]:
    labels, found = dataset.split("train").column("labels"), {}
    for number, task in enumerate(dataset.schema.tasks):
        own = np.asarray(labels[:, number])
        if not np.isnan(own[parties.order]).all():
            found[task.name] = _label_skew(task, parties, own)
    return found


def _label_skew(task: Task, parties: Parties, labels: NDArray[Any]) -> LabelSkew:
    own = labels[parties.order]
    known = ~np.isnan(own)
    owners, own = parties.owners[known], own[known]
    rate = spread = None
    if task.kind is not TaskKind.MULTICLASS:
        rates = rates_of(parties, labels)
        spread = skew_of(parties.sizes.tolist(), rates[~np.isnan(rates)].tolist()).label_spread
        rate = float(own.mean(dtype=np.float64))
    nothing = dict.fromkeys(
        ("variation", "most_variation", "divergence", "variation_by_chance"), None
    )
    if task.kind is TaskKind.REGRESSION:
        return LabelSkew(rate=rate, rate_spread=spread, **nothing)
    _, codes = np.unique(own, return_inverse=True)
    variations, divergences, counts = _distances(owners, codes)
    dealt = numbers_of(0, "report/labels").permutation(codes)
    by_chance = _distances(owners, dealt)[0]
    return LabelSkew(
        rate=rate,
        rate_spread=spread,
        variation=float(np.average(variations, weights=counts)),
        most_variation=float(variations.max()),
        divergence=float(np.average(divergences, weights=counts)),
        variation_by_chance=float(np.average(by_chance, weights=counts)),
    )


def _distances(owners: Index, codes: NDArray[Any]) -> tuple[Floats, Floats, Index]:
    """Total variation and Jensen-Shannon divergence of each party's labels from all, and its rows.

    Only the labels that a party has are looked at: for all others its share is 0, and what they add
    follows from their sum.
    """
    parties, party_of, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    overall = np.bincount(codes) / len(codes)
    pairs, counts = np.unique(party_of * len(overall) + codes, return_counts=True)
    party, all_share = pairs // len(overall), overall[pairs % len(overall)]
    share = counts / sizes[party]
    middle = (share + all_share) / 2.0

    def summed(values: Floats) -> Floats:
        found: Any = np.bincount(party, weights=values, minlength=len(parties))
        return np.asarray(found, np.float64)

    unseen = 1.0 - summed(all_share)
    variation = (summed(np.abs(share - all_share)) + unseen) / 2.0
    logs = share * np.log2(share / middle) + all_share * np.log2(all_share / middle)
    divergence = (summed(logs) + unseen) / 2.0
    return variation, np.maximum(divergence, 0.0), sizes


def _table_spreads(dataset: Dataset, parties: Parties) -> dict[str, TableSpread]:
    layout, events = dataset.layout, dataset.split("train")
    pairs: dict[str, list[Index]] = {name: [] for name in layout.tables}
    owners = parties.owners
    for start in range(0, parties.num_rows, CHUNK):
        own = owners[start : start + CHUNK]
        batch = events.take(parties.order[start : start + CHUNK])
        for field, ids in zip(layout.ids, batch.ids.numpy(), strict=True):
            pairs[field.table].append(np.unique(own * layout.tables[field.table] + ids))
        for bag_field, bag in zip(layout.bags, batch.bags, strict=True):
            size, whose = layout.tables[bag_field.table], own[bag.rows.numpy()]
            pairs[bag_field.table].append(np.unique(whose * size + bag.values.numpy()))
    return {
        name: _table_spread(np.unique(np.concatenate(found)), layout.tables[name], len(parties))
        for name, found in pairs.items()
        if found
    }


def _table_spread(pairs: Index, rows: int, num_parties: int) -> TableSpread:
    """Args: distinct pairs of party and row, each as one number."""
    pairs = pairs[pairs % rows != 0]
    per_party = np.bincount(pairs // rows, minlength=num_parties)
    holders = np.bincount(pairs % rows, minlength=rows)
    held = holders[holders > 0]
    others = (num_parties - 1) * len(pairs)
    return TableSpread(
        rows=rows,
        read=len(held),
        per_party=Spread.of(per_party),
        holders=float(held.mean()) if len(held) else 0.0,
        alone=float((held == 1).mean()) if len(held) else 0.0,
        overlap=float((held * (held - 1)).sum() / others) if others else None,
    )


def _words(spread: Spread) -> str:
    return (
        f"{spread.least:,.0f} to {spread.most:,.0f} each, "
        f"median {spread.median:,.0f}, mean {spread.mean:,.1f}"
    )


def _label_words(task: LabelSkew) -> str:
    parts = []
    if task.rate is not None and task.rate_spread is not None:
        parts.append(f"mean {task.rate:.4f}, of parties ± {task.rate_spread:.4f}")
    if task.variation is not None:
        parts.append(
            f"total variation {task.variation:.3f} ({task.variation_by_chance:.3f} by chance, "
            f"at most {task.most_variation:.3f}), Jensen-Shannon {task.divergence:.3f} bits"
        )
    return "; ".join(parts)


def _table_words(table: TableSpread) -> str:
    overlap = "" if table.overlap is None else f", overlap {table.overlap:.3f}"
    return (
        f"{table.read:,} of {table.rows:,} rows read; a party {_words(table.per_party)}; "
        f"{table.holders:,.1f} parties a row, {table.alone:.1%} read by one alone{overlap}"
    )
