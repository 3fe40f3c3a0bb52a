"""Tables that grow: new ids get rows, retired ids give theirs back, other rows stay as they are.

A retired id reads the out-of-vocabulary row from then on, and its own row goes to a new id, so a
table has about as many rows as ids that are live. Rows that are left over are appended.

A new row starts as a copy of the out-of-vocabulary row, which is what the id read until now: the
grown model gives every row of data the score that it had before, and learns from there. A drawn
row would first have to unlearn its noise; that can be asked for too.

The layout may have new fields besides, whose tables start at zero (`scalerec.models.widening`).

Shapes: R rows of all tables, W columns.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.data.vocabulary import FIRST_ID, OOV
from scalerec.errors import ConfigError
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.models.rowmap import stored_map
from scalerec.models.tables import Tables
from scalerec.models.widening import Widened, widen

__all__ = ["FreshRow", "GrownRows", "TablePlan", "grow_recommender", "plan_table"]

FreshRow = Literal["unknown", "drawn"]


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How one table grows.

    Args:
        rows: The row of each id, ``[ids]`` int64; none where row i is that of id i.
        num_before: Number of rows before.
        num_rows: Number of rows after; those before keep their numbers.
        fresh: Rows that belong to new ids, ``[n]`` int64: freed ones first, then appended ones.
    """

    rows: Tensor | None
    num_before: int
    num_rows: int
    fresh: Tensor


@dataclass(frozen=True, slots=True)
class GrownRows:
    """How all tables grew: what follows the rows, such as an optimiser's state, can grow alike.

    Args:
        plans: By table, in the order of the layout.
        added: Names of the fields that are new.
        exact: Whether the new fields leave every score as it was, found by trying.
        lost: Tensors outside the tables that the new fields left no place for; what stands there
            was drawn.
    """

    plans: dict[str, TablePlan]
    added: tuple[str, ...] = ()
    exact: bool = True
    lost: tuple[str, ...] = ()

    @property
    def num_before(self) -> int:
        """R, before."""
        return sum(plan.num_before for plan in self.plans.values())

    @property
    def num_fresh(self) -> int:
        """How many new ids have got rows."""
        return sum(len(plan.fresh) for plan in self.plans.values())

    def spread(self, before_rk: Tensor) -> Tensor:
        """Bring one value or more a row to the grown tables; zero for fresh rows.

        Args:
            before_rk: ``[R, ...]``.

        Raises:
            ConfigError: If it has another number of rows than the tables had.
        """
        if len(before_rk) != self.num_before:
            raise ConfigError(f"state must have {self.num_before} rows; got {len(before_rk)}")
        size = sum(plan.num_rows for plan in self.plans.values())
        after = before_rk.new_zeros(size, *before_rk.shape[1:])
        old = new = 0
        for plan in self.plans.values():
            after[new : new + plan.num_before] = before_rk[old : old + plan.num_before]
            after[new + plan.fresh] = 0
            old, new = old + plan.num_before, new + plan.num_rows
        return after


def plan_table(live: Tensor, num_rows: int, rows: Tensor | None) -> TablePlan:
    """Plan which id reads which row.

    Args:
        live: Which ids are not retired, ``[ids]`` bool, new ones last.
        num_rows: Number of rows now.
        rows: The row of each id known so far, ``[known]``; none where row i is that of id i.

    Raises:
        ConfigError: If there are fewer ids than known ones.

    Example:
        >>> live = torch.tensor([True, True, False, True, True, True])    # id 2 is retired
        >>> plan = plan_table(live, num_rows=4, rows=None)                # ids 4 and 5 are new
        >>> plan.rows, plan.num_rows
        (tensor([0, 1, 1, 3, 2, 4]), 5)
    """
    known = torch.arange(num_rows) if rows is None else rows.long()
    require(len(live) >= len(known), f"ids never vanish: {len(known)} known, {len(live)} now")
    after = torch.full((len(live),), OOV)
    stays = live[: len(known)]
    after[: len(known)][stays] = known[stays]
    used = torch.zeros(num_rows, dtype=torch.bool)
    used[:FIRST_ID] = True
    used[after[: len(known)]] = True
    new = live[len(known) :].nonzero().flatten() + len(known)
    freed = (~used).nonzero().flatten()[: len(new)]
    appended = torch.arange(num_rows, num_rows + len(new) - len(freed))
    fresh = torch.cat([freed, appended])
    after[new] = fresh
    size = num_rows + len(appended)
    same = size == len(after) and bool((after == torch.arange(size)).all())
    return TablePlan(None if same else after, num_rows, size, fresh)


@torch.no_grad()
def grow_recommender(
    spec: ModelSpec,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    live: Mapping[str, Tensor],
    *,
    fresh: FreshRow = "unknown",
    seed: int = 0,
    known: Mapping[str, int] | None = None,
    before: Layout | None = None,
) -> tuple[Recommender, GrownRows]:
    """Build a recommender for a layout that grew, from the tensors of the one before.

    Tables are copied once, into their new place.

    Args:
        spec: The model.
        layout: With the new numbers of ids.
        tensors: What `Recommender.to_tensors` gave before; may be mapped from files.
        live: By table, which ids are not retired, ``[ids]`` bool; all are where it is missing.
        fresh: What a new row starts from: `unknown`, a copy of the out-of-vocabulary row, or
            `drawn`, as the first rows were.
        seed: Of drawn rows.
        known: By table, how many ids it had before; needed of tables whose ids share rows.
        before: The layout of what the tensors are of; where it is not given, no field is new.

    Raises:
        ConfigError: If the tensors do not fit the model or the layout.
    """
    require(fresh in ("unknown", "drawn"), f"fresh must be unknown or drawn; got {fresh!r}")
    generator = torch.Generator().manual_seed(seed)
    recommender = Recommender(layout, spec, generator, draw_tables=False)
    tables = recommender.tables
    added = () if before is None else layout.beyond(before)
    wide = Widened({**tensors}, exact=True, lost=())
    new = set()
    if added and before is not None:
        wide, new = widen(recommender, before, tensors), {*layout.tables} - {*before.tables}
    recommender.load_dense(wide.tensors)
    for name, own in live.items():
        num_ids = layout.tables.get(name, len(own))
        require(len(own) == num_ids, f"table {name!r}: {num_ids} ids; got {len(own)} marks")
    if spec.forms.tables:
        rows = grow_formed(tables, tensors, live, fresh, known or {}, new)
        return recommender.eval(), replace(rows, added=added, exact=wide.exact, lost=wide.lost)
    plans, weights = {}, {}
    for name, num_ids in tables.layout.tables.items():
        if name in new:
            plans[name] = _plan_new(num_ids)
            continue
        weights[name] = _weight(tensors, name, tables.width)
        own = live.get(name, torch.ones(num_ids, dtype=torch.bool))
        plans[name] = plan_table(own, len(weights[name]), stored_map(tensors, name))
    std = spec.init_std if fresh == "drawn" else None
    matrix = _fill(plans, weights, tables.width, std, generator)
    num_rows = {name: plan.num_rows for name, plan in plans.items()}
    tables.take_over(matrix, num_rows, {n: p.rows for n, p in plans.items()})
    return recommender.eval(), GrownRows(plans, added, wide.exact, wide.lost)


def _fill(
    plans: Mapping[str, TablePlan],
    weights: Mapping[str, Tensor],
    width: int,
    std: float | None,
    generator: torch.Generator,
) -> Tensor:
    """All tables' rows, ``[R, W]``; those of a table without weights are zero.

    Fresh rows are drawn with a deviation or, without one, copies of the out-of-vocabulary row.
    """
    dtype = next(iter(weights.values())).dtype if weights else torch.float32
    matrix = torch.zeros(sum(plan.num_rows for plan in plans.values()), width, dtype=dtype)
    start = 0
    for name, plan in plans.items():
        part = matrix[start : start + plan.num_rows]
        start += plan.num_rows
        if name not in weights:
            continue
        part[: plan.num_before] = weights[name]
        if std is None:
            part[plan.fresh] = weights[name][OOV]
        else:
            drawn = torch.randn((len(plan.fresh), width), generator=generator) * std
            drawn[:, -1] = 0.0
            part[plan.fresh] = drawn.to(dtype)
    return matrix


def _plan_new(num_ids: int) -> TablePlan:
    """The plan of a table that was not there."""
    return TablePlan(None, 0, num_ids, torch.arange(num_ids))


def grow_formed(
    tables: Tables,
    tensors: Mapping[str, Tensor],
    live: Mapping[str, Tensor],
    fresh: FreshRow,
    known: Mapping[str, int],
    new: Collection[str] = (),
) -> GrownRows:
    """Grow tables of which some have another form.

    Of a table whose ids share rows, the number of rows stays. There a new id reads the
    out-of-vocabulary row if `fresh` is `unknown`, else what it shares.

    Args:
        tables: Built for the new numbers of ids; they are filled.
        tensors: Those of the tables before.
        live: By table, which ids are not retired.
        fresh: What a new row starts from.
        known: By table, how many ids it had before.
        new: Tables that were not there, whose rows start at zero.

    Raises:
        ConfigError: If rows of a table of another form were to be drawn, or tensors do not fit.
    """
    plans, grown = {}, {}
    for name in tables.layout.tables:
        if name in new:
            plans[name] = _plan_new(tables.num_ids[name])
            grown[f"tables.{name}.weight"] = torch.zeros(tables.num_ids[name], tables.width)
            continue
        part = next((p for p in ("weight", "codes") if f"tables.{name}.{p}" in tensors), "weight")
        before = tensors.get(f"tables.{name}.{part}")
        require(before is not None, f"table {name!r} has no rows: tables.{name}.weight is missing")
        assert before is not None
        own = live.get(name, torch.ones(tables.num_ids[name], dtype=torch.bool))
        rows = stored_map(tensors, name)
        rows = None if rows is None else rows.long()
        if name in tables.shares:
            num_known = known.get(name, len(own)) if rows is None else len(rows)
            plan = _plan_shared(own, len(before), rows, num_known if fresh == "unknown" else None)
        else:
            plan = plan_table(own, len(before), rows)
            drawn = fresh == "drawn" and len(plan.fresh) > 0
            require(not drawn, f"table {name!r}: fresh rows of another form start as 'unknown'")
        after = before.new_zeros(plan.num_rows, *before.shape[1:])
        after[: plan.num_before] = before
        after[plan.fresh] = before[OOV]
        grown[f"tables.{name}.{part}"], plans[name] = after, plan
        if plan.rows is not None:
            grown[f"tables.{name}.rows"] = plan.rows
    tables.load_tensors(grown)
    return GrownRows(plans)


def _plan_shared(
    live: Tensor, num_rows: int, rows: Tensor | None, num_known: int | None
) -> TablePlan:
    """As `plan_table`, where a row is only a number by which ids share those that are stored."""
    after = torch.arange(len(live))
    if rows is not None:
        after[: len(rows)] = rows
    if num_known is not None:
        after[num_known:] = OOV
    after[~live] = OOV
    same = bool((after == torch.arange(len(after))).all())
    return TablePlan(None if same else after, num_rows, num_rows, torch.zeros(0, dtype=torch.int64))


def _weight(tensors: Mapping[str, Tensor], name: str, width: int) -> Tensor:
    weight = tensors.get(f"tables.{name}.weight")
    if weight is None:
        raise ConfigError(f"table {name!r} has no rows: tables.{name}.weight is missing")
    if weight.ndim != 2 or weight.shape[1] != width or len(weight) < FIRST_ID:
        raise ConfigError(f"table {name!r} must be rows of width {width}; got {list(weight.shape)}")
    return weight
