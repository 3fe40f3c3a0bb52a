"""The search: which of many chains of steps gives the cheapest model within the gate."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from scalerec.compress.chain import Chains, Stage
from scalerec.compress.effects import Effect, metrics_of
from scalerec.compress.gate import Gate, front
from scalerec.compress.steps import read_steps
from scalerec.config import require
from scalerec.errors import CompressError, ConfigError

__all__ = ["RECIPES", "Found", "check_gate", "cost_of", "search", "stage_table"]

# From what costs nothing to train to what costs a student each.
RECIPES = (
    "quantize=int8",
    "quantize=int8:tables=int4",
    "prune=0.5,quantize=int8:tables=int4",
    # Products of small layers are as quick in float, so 16 bits suffice.
    "prune=0.8,quantize=int4:layers=float16",
    "distil=64-32,quantize=int8:tables=int4",
    "distil=64-32,quantize=int4:layers=float16",
    "distil=dim8+64-32:weight=0.8,quantize=int4:layers=float16",
    # Most ids are rare where there are many.
    "distil=dim8+64-32:weight=0.8,shrink=rare:times=10,quantize=int4:layers=float16",
    "distil=dim8+32-16:weight=0.8,quantize=int4:layers=float16",
)
"""Chains that are tried where nobody names others."""

RECALIBRATE = "recalibrate"


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Args:
        given: The model that was to be compressed.
        gate: What a model had to keep to, also where it was not said.
        stages: All models that it led to, in the order in which they were made.
        faults: Of each, what keeps it from passing the gate, in words; none of one that passes.
        best: Place of the cheapest that passes.
        front: Places of those that no other beats, the given one aside.
        left_out: Chains that do not fit the model, each with the reason.
    """

    given: Stage
    gate: Gate
    stages: list[Stage]
    faults: list[list[str]]
    best: int
    front: list[int]
    left_out: dict[str, str]

    @property
    def way(self) -> list[Stage]:
        """From the given model by each step to the best."""
        steps, known = self.stages[self.best].steps, {s.steps: s for s in self.stages}
        return [self.given, *(known[steps[: i + 1]] for i in range(len(steps)))]

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Names of columns, and a row for the given model and for each other."""
        return stage_table(self.given, self.stages, self.faults, set(self.front), self.best)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values, without the models."""
        rows = [
            {
                "steps": list(stage.steps),
                "effect": stage.effect.to_dict(),
                "seconds": round(stage.seconds, 3),
                "notes": list(stage.notes),
                "faults": list(words),
                "front": place in self.front,
                "best": place == self.best,
            }
            for place, (stage, words) in enumerate(zip(self.stages, self.faults, strict=True))
        ]
        return {
            "given": self.given.effect.to_dict(),
            "gate": self.gate.to_dict(),
            "models": rows,
            "left_out": dict(self.left_out),
        }


def cost_of(effect: Effect, given: Effect) -> float:
    """Bytes of weights times the median time of 1,000 candidates, as a share of the given model's.

    Halving one counts as much as halving the other.
    """
    time = effect.p50_ms[-1] / given.p50_ms[-1]
    return math.sqrt(effect.weight_bytes / given.weight_bytes * time)


def search(chains: Chains, gate: Gate, recipes: Sequence[str] = RECIPES) -> Found:
    """Try chains of steps.

    Every model on the way counts, not the last one of each chain alone. Where calibration moved,
    `recalibrate` is tried after a chain's last step.

    Args:
        chains: From the model that is given.
        gate: What a model must keep to; see `Gate.for_search` for what it does not say.
        recipes: The chains, as words.

    Raises:
        CompressError: If no model passes the gate; it shows the front.
        ConfigError: If no chain fits the model, or the gate does not.
    """
    given = chains.given
    gate = gate.for_search(given.effect)
    left_out: dict[str, str] = {}
    seen: dict[tuple[str, ...], Stage] = {}
    for recipe in recipes:
        try:
            stages = chains.run(read_steps(recipe))[1:]
            last = stages[-1]
            again = chains.run([*read_steps(recipe), *read_steps(RECALIBRATE)])[-1]
        except ConfigError as error:
            left_out[recipe] = str(error)
            continue
        if again.work.recommender is not last.work.recommender:
            stages.append(again)
        seen |= {stage.steps: stage for stage in stages}
    found = list(seen.values())
    require(bool(found), f"no chain of steps fits this model: {'; '.join(left_out.values())}")
    faults = [gate.faults(stage.effect, given.effect) for stage in found]
    best_of = front([stage.effect for stage in found])
    passed = [place for place, words in enumerate(faults) if not words]
    if not passed:
        columns, rows = stage_table(given, found, faults, set(best_of), None)
        raise CompressError(
            "no model passes the gate; those that no other beats:\n"
            + plain_table(columns, [row for row in rows if row[0]])
        )
    best = min(passed, key=lambda place: cost_of(found[place].effect, given.effect))
    return Found(given, gate, found, faults, best, best_of, left_out)


def check_gate(stages: Sequence[Stage], gate: Gate) -> None:
    """Refuse a model that does not pass.

    Args:
        stages: From the given model to the one in question.
        gate: What it must keep to.

    Raises:
        CompressError: If it does not; it shows what each step did.
    """
    words = gate.faults(stages[-1].effect, stages[0].effect)
    if words:
        table = plain_table(*stage_table(stages[0], stages[1:]))
        raise CompressError(f"the model does not pass the gate: {'; '.join(words)}\n{table}")


def stage_table(
    given: Stage,
    stages: Sequence[Stage],
    faults: Sequence[Sequence[str]] | None = None,
    best_of: Collection[int] = (),
    best: int | None = None,
) -> tuple[list[str], list[list[object]]]:
    """Names of columns, and a row for each model.

    Args:
        given: Heads the table; of quality the columns are what it has.
        stages: The others.
        faults: Of each; none for a table without marks and verdicts.
        best_of: Places on the front, marked with a star.
        best: Place of the one that is taken, marked with an arrow.
    """
    metrics = metrics_of(given.effect)
    titles = [metric.title for metric in metrics]
    columns = ["steps", "parameters", "bytes", *titles, "p50 ms", "p99 ms"]
    names = [metric.name for metric in metrics]
    if faults is None:
        return columns, [_row(stage, names) for stage in (given, *stages)]
    rows: list[list[object]] = [["", *_row(given, names), ""]]
    for place, (stage, words) in enumerate(zip(stages, faults, strict=True)):
        mark = "→" if place == best else "*" if place in best_of else ""
        rows.append([mark, *_row(stage, names), "; ".join(words) or "passes"])
    return ["", *columns, "gate"], rows


def _row(stage: Stage, metrics: Sequence[str]) -> list[object]:
    own = stage.effect
    quality = [_short(own.metric(name), 5) for name in metrics]
    times = [_short(own.p50_ms[-1], 3), _short(own.p99_ms[-1], 3)]
    return [stage.name, f"{own.parameters:,}", f"{own.weight_bytes:,}", *quality, *times]


def _short(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in plain text."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)
