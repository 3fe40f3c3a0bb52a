"""The step `quantize`: tables and layers of few bits."""

from dataclasses import dataclass
from typing import Literal

from scalerec.compress.coverage import left_alone
from scalerec.compress.quantising import Grid, few_bits, formable_linears, input_ranges, quantised
from scalerec.compress.tuning import fine_tune
from scalerec.compress.work import Work, check_tuning
from scalerec.config import Config, require
from scalerec.models.forming import formed

__all__ = ["Quantise"]

Kind = Literal["float32", "float16", "int8", "int4"]
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantise(Config):
    """Store tables and layers with few bits; products of layers of 8 bits are of whole numbers.

    Args:
        to: What both become; at `int4` layers become `int8`.
        tables: Another kind for tables.
        layers: Another kind for linear layers; there is no `int4` of them.
        calibrated: Whether the scale of a layer's inputs is fixed by training rows, and not found
            for each row when it is scored.
        aware: Passes over the training rows with rounded weights before; 0 for none.
        rate: Times the learning rates of the first training, in those passes.
        teach: Share of the teacher's scores in them, in [0, 1].
    """

    to: Kind = "int8"
    tables: Kind | None = None
    layers: Kind | None = None
    calibrated: bool = False
    aware: int = 0
    rate: float = 0.1
    teach: float = 0.5

    def __post_init__(self) -> None:
        require(self.layers != "int4", "layers must be one of float32, float16, int8; got int4")
        check_tuning(self.aware, self.rate, self.teach, name="aware")

    def apply(self, work: Work) -> Work:
        """Train on with rounded weights if that was asked for, and quantise."""
        tables = BITS[self.tables or self.to]
        layers = max(BITS[self.layers or self.to], 8)
        own = work.recommender
        forms = few_bits(own, tables, layers, self._kept(work))
        if self.aware:
            own = formed(own, own.spec.forms)
            grid = Grid(own, forms)
            config = work.tuning(self.aware, self.rate).replace(patience=-1)
            lesson = work.lesson(self.teach)
            own = fine_tune(own, work.dataset, config, after_step=grid, lesson=lesson)
            grid.restore()
        ranges = input_ranges(own, work.dataset) if self.calibrated else None
        done = work.with_model(quantised(own, forms, ranges))
        told = left_alone(work.recommender, done.recommender) if layers < 32 else ""
        return done.noting(told)

    def _kept(self, work: Work) -> frozenset[str]:
        """What the bundle calls adaptable in particular."""
        own = work.recommender
        tables = {n for n in own.tables.num_rows if work.stays_float(f"tables.{n}.weight")}
        return frozenset(
            tables | {n for n in formable_linears(own) if work.stays_float(f"{n}.weight")}
        )
