"""The step `shrink`: tables of fewer rows or columns, and training further after it."""

from dataclasses import dataclass, replace
from typing import Literal

from scalerec.compress.recommenders import check_float, reads_by_table, share_table_rows
from scalerec.compress.rows import RowConfig
from scalerec.compress.shrinking import fit_shared
from scalerec.compress.work import Work, check_tuning
from scalerec.config import Config, require
from scalerec.models.forming import formed
from scalerec.models.forms import TableForm
from scalerec.models.recommender import Recommender
from scalerec.models.sharing import plan_shares

__all__ = ["Shrink"]

How = Literal["rare", "hash", "quotient", "lowrank"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shrink(Config):
    """Make tables smaller. Exactly one of the settings that `how` reads is given.

    Args:
        how: `rare`: ids that training rows read fewer than `times` times share one row. `hash`: an
            id's row is the sum of two of `share` times as many rows. `quotient`: it is the product
            of two of them. `lowrank`: rows of `dim` columns, and one basis a table.
        times: Of `rare`, at least 1.
        share: Of `hash` and `quotient`: rows that stay, in (0, 1).
        dim: Of `lowrank`, at least 1 and below the embedding's size. Tables of so few rows that
            they would not get smaller stay as they are.
        least_rows: Tables with fewer rows stay as they are; not for `lowrank`.
        epochs: Passes of training further; 0 for none.
        rate: Times the learning rates of the first training.
        teach: Share of the teacher's scores in that training, in [0, 1].
    """

    how: How
    times: int = 0
    share: float = 0.0
    dim: int = 0
    least_rows: int = 64
    epochs: int = 1
    rate: float = 0.3
    teach: float = 0.5

    def __post_init__(self) -> None:
        wanted = {"rare": "times", "hash": "share", "quotient": "share", "lowrank": "dim"}
        for name in ("times", "share", "dim"):
            value, read = getattr(self, name), wanted[self.how] == name
            require(value > 0 or not read, f"how={self.how} needs {name} above 0; got {value}")
            require(read or not value, f"how={self.how} does not read {name}; got {value}")
        require(self.share < 1, f"share must be in (0, 1); got {self.share}")
        check_tuning(self.epochs, self.rate, self.teach)

    def apply(self, work: Work) -> Work:
        """Shrink, and train further."""
        if self.how == "rare":
            own = self._rare(work)
        elif self.how == "lowrank":
            own = self._low_rank(work.recommender)
        else:
            own = self._shared(work)
        return work.train_on(own, self.epochs, self.rate, self.teach)

    def _rare(self, work: Work) -> Recommender:
        own = work.recommender
        reads = reads_by_table(own, work.dataset)
        bounds = {n: float(self.times) for n in reads if len(reads[n]) >= self.least_rows}
        require(bool(bounds), f"no table has {self.least_rows} rows")
        return share_table_rows(own, reads, RowConfig(thresholds=bounds, by="frequency"))

    def _low_rank(self, own: Recommender) -> Recommender:
        size = own.spec.net_config().dim
        require(self.dim < size, f"dim must be below the embedding's {size}; got {self.dim}")
        check_float(own)
        tables = dict(own.spec.forms.tables)
        for name, rows in own.tables.num_rows.items():
            before = tables.get(name, TableForm())
            fits = before.dim <= self.dim
            require(fits, f"table {name!r} has a basis of {before.dim} already; got dim {self.dim}")
            if not before.dim and rows * (size - self.dim) > self.dim * size:
                tables[name] = replace(before, dim=self.dim)
        return formed(own, replace(own.spec.forms, tables=tables))

    def _shared(self, work: Work) -> Recommender:
        own = work.recommender
        reads, forms = reads_by_table(own, work.dataset), own.spec.forms
        tables, tensors = dict(forms.tables), {}
        sharing: Literal["hash", "quotient"] = "hash" if self.how == "hash" else "quotient"
        for name, counts in reads.items():
            before = tables.get(name, TableForm())
            has_map = own.tables.maps[name].rows is not None
            if len(counts) < self.least_rows or before.sharing != "own" or has_map:
                continue
            after = replace(before, sharing=sharing, rows=max(8, int(self.share * len(counts))))
            shares = plan_shares(name, after, own.layout.tables[name])
            assert shares is not None, "ids share rows"
            tables[name] = after
            tensors[f"tables.{name}.weight"] = fit_shared(own.tables.table(name), counts, shares)
        require(bool(tensors), f"no table has {self.least_rows} rows of its ids' own")
        return formed(own, replace(forms, tables=tables), tensors)
