"""The step `prune`: weights, units, fields, rows or columns, and training further after it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scalerec.compress.coverage import left_alone
from scalerec.compress.fields import FieldConfig, permutation_importance
from scalerec.compress.neurons import NeuronConfig
from scalerec.compress.pruning import PruneConfig
from scalerec.compress.recommenders import (
    reads_by_table,
    share_table_rows,
    without_columns,
    without_least_fields,
    without_units,
)
from scalerec.compress.rows import ColumnConfig, RowConfig
from scalerec.compress.tuning import prune_and_tune, with_sparse_layers
from scalerec.compress.work import Work, check_tuning
from scalerec.config import Config, require
from scalerec.models.recommender import Recommender

__all__ = ["Prune"]

What = Literal["units", "weights", "fields", "rows", "columns"]
# Rows whose activations tell what a unit gives.
LOOKED_AT = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class Prune(Config):
    """Leave out what matters least.

    Args:
        ratio: Share that goes, in (0, 1).
        what: `units` of hidden layers, and the net is smaller; single `weights`, which are stored
            as a mask and the rest; `fields`; `rows` of tables, whose ids share one; `columns` of
            tables, each its own number; with scope `own`, tables of so few rows that a basis would
            make them larger stay.
        scope: Whether units, weights or columns are compared within their own layer or table
            (`own`), or all with all (`global`).
        rescale: Of weights: keep the sum of magnitudes of each tensor.
        gradual: Of weights: share of the training further during which more and more go; 0 for all
            at once.
        epochs: Passes of training further; 0 for none.
        rate: Times the learning rates of the first training.
        teach: Share of the teacher's scores in that training, in [0, 1].
    """

    ratio: float
    what: What = "units"
    scope: Literal["own", "global"] = "own"
    rescale: bool = False
    gradual: float = 0.0
    epochs: int = 1
    rate: float = 0.3
    teach: float = 0.5

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, f"ratio must be in (0, 1); got {self.ratio}")
        require(0 <= self.gradual <= 1, f"gradual must be in [0, 1]; got {self.gradual}")
        check_tuning(self.epochs, self.rate, self.teach)
        for name in ("rescale", "gradual"):
            read = self.what == "weights" or not getattr(self, name)
            require(read, f"{name} belongs to what=weights; got what={self.what}")
        fits = self.epochs > 0 or not self.gradual
        require(fits, "weights go little by little while training goes on; set epochs above 0")

    def apply(self, work: Work) -> Work:
        """Prune, and train further."""
        if self.what == "weights":
            pruned = self._weights(work)
            done = work.with_model(pruned)
        else:
            pruned = WAYS[self.what](self, work)
            done = work.train_on(pruned, self.epochs, self.rate, self.teach)
        reaches = self.what in ("units", "weights")
        return done.noting(left_alone(work.recommender, pruned)) if reaches else done

    def _weights(self, work: Work) -> Recommender:
        scope: Literal["tensor", "global"] = "tensor" if self.scope == "own" else "global"
        config = PruneConfig(ratio=self.ratio, scope=scope, rescale=self.rescale)
        lesson = work.lesson(self.teach) if self.epochs else None
        tuning = work.tuning(self.epochs, self.rate) if self.epochs else None
        found, _ = prune_and_tune(
            work.recommender, work.dataset, config, tuning, ramp=self.gradual, lesson=lesson
        )
        return with_sparse_layers(found)

    def _units(self, work: Work) -> Recommender:
        scope: Literal["layer", "global"] = "layer" if self.scope == "own" else "global"
        config = NeuronConfig(ratio=self.ratio, scope=scope, multiple=8)
        events = work.dataset.split("train")
        batch = events.read(0, min(LOOKED_AT, len(events)))
        return without_units(work.recommender, config, batch)

    def _fields(self, work: Work) -> Recommender:
        events = work.dataset.split("valid")
        config = FieldConfig(ratio=self.ratio)
        batch = events.read(0, min(config.rows, len(events)))
        importance = permutation_importance(work.recommender, batch)
        return without_least_fields(work.recommender, importance, config)

    def _rows(self, work: Work) -> Recommender:
        reads = reads_by_table(work.recommender, work.dataset)
        return share_table_rows(work.recommender, reads, RowConfig(ratio=self.ratio))

    def _columns(self, work: Work) -> Recommender:
        scope: Literal["table", "global"] = "table" if self.scope == "own" else "global"
        reads = reads_by_table(work.recommender, work.dataset)
        size = work.recommender.spec.net_config().dim
        kept = max(1, size - round(self.ratio * size))
        # A table of few rows would be larger with a basis beside it.
        small = {n: 0.0 for n, own in reads.items() if len(own) * (size - kept) <= kept * size}
        config = ColumnConfig(
            ratio=self.ratio, ratios=small if self.scope == "own" else {}, scope=scope
        )
        return without_columns(work.recommender, reads, config)


WAYS: dict[What, Callable[[Prune, Work], Recommender]] = {
    "units": Prune._units,
    "fields": Prune._fields,
    "rows": Prune._rows,
    "columns": Prune._columns,
}
