"""Who keeps which part of which table, and how checkpoints of other numbers of processes fit."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, Placement, TablePlan
from scalerec.distributed.checkpoints import join_parts, table_of
from scalerec.distributed.placement import place_tables
from scalerec.errors import ConfigError, TrainError
from scalerec.models.kernels.route import route

KINDS = ("row", "table", "column", "replicated")


@st.composite
def plans(draw: Any, sizes: list[int] | None = None) -> TablePlan:
    """Any plan of up to four tables of up to twelve rows of six numbers."""
    sizes = sizes or draw(st.lists(st.integers(2, 12), min_size=1, max_size=4))
    world = draw(st.integers(1, 5))
    placements = {}
    for number in range(len(sizes)):
        kind = draw(st.sampled_from(KINDS))
        process = draw(st.integers(0, world - 1)) if kind == "table" else 0
        placements[str(number)] = Placement(kind=kind, process=process)
    rows = {str(number): size for number, size in enumerate(sizes)}
    return TablePlan(num_rows=rows, placements=placements, world=world, width=6)


def cut(plan: TablePlan, table: int, whole: torch.Tensor) -> dict[int, torch.Tensor]:
    """What each process that writes a table has of it."""
    found = {}
    for rank in plan.writers(table):
        part = plan.part(table, rank)
        found[rank] = whole[part.rows, part.low : part.high].clone()
    return found


@given(plan=plans())
def test_writers_hold_every_number_once(plan: TablePlan) -> None:
    for table, size in enumerate(plan.num_rows.values()):
        times = torch.zeros(size, plan.width)
        for rank in plan.writers(table):
            part = plan.part(table, rank)
            assert len(times[part.rows]) == part.size
            times[part.rows, part.low : part.high] += 1
        assert (times == 1).all()


@given(data=st.data())
def test_parts_of_any_plan_make_those_of_any_other(data: Any) -> None:
    before = data.draw(plans())
    after = data.draw(plans(list(before.num_rows.values())))
    for table, size in enumerate(before.num_rows.values()):
        whole, state = torch.rand(size, 6), torch.rand(size, 1)
        by_row = {rank: state[before.part(table, rank).rows] for rank in before.writers(table)}
        for rank in range(after.world):
            part, place = after.part(table, rank), (rank, table)
            held = cut(before, table, whole)
            found = join_parts(held, (before, after), place, whole_rows=False)
            assert torch.equal(found, whole[part.rows, part.low : part.high])
            found = join_parts(by_row, (before, after), place, whole_rows=True)
            assert torch.equal(found, state[part.rows])


def test_tables_of_another_size_do_not_fit() -> None:
    before, after = (
        TablePlan(num_rows={"item": size}, placements={"item": Placement()}, world=1, width=6)
        for size in (3, 4)
    )
    words = r"checkpoint has tables of \{'item': 3\} rows of 6 numbers; now they have \{'item': 4\}"
    with pytest.raises(TrainError, match=words):
        join_parts({0: torch.zeros(3, 6)}, (before, after), (0, 0), whole_rows=False)


@given(plan=plans(), data=st.data())
def test_rows_are_asked_of_those_who_keep_them(plan: TablePlan, data: Any) -> None:
    """Against the plan itself, row by row."""
    sizes = np.array(list(plan.num_rows.values()), np.int64)
    starts = np.cumsum(sizes) - sizes
    rows = np.array(
        data.draw(st.lists(st.integers(0, int(sizes.sum()) - 1), max_size=30)), np.int64
    )
    places, wanted = np.empty_like(rows), np.empty_like(rows)
    counts = np.empty(plan.world + 2, np.int64)
    num = route(rows, starts, plan.homes, plan.bases(), places, wanted, counts)
    assert num == counts.sum()
    assert len({(place, row) for place, row in zip(places, rows, strict=True) if place}) == num
    ends = np.cumsum(counts)
    for row, place in zip(rows, places, strict=True):
        table = int(np.searchsorted(starts, row, side="right")) - 1
        own = int(row - starts[table])
        if own == 0:
            assert place == 0
            continue
        group = int(np.searchsorted(ends, place - 1, side="right"))
        kind = plan.kinds[table]
        ranks = range(plan.world) if group >= plan.world else [group]
        assert (group - plan.world) == {"column": 0, "replicated": 1}.get(kind, group - plan.world)
        for rank in ranks:
            part, base = plan.part(table, rank), int(plan.bases()[table, rank])
            number = int(wanted[place - 1]) - base
            assert 0 <= number < part.size
            assert part.first + number * part.step == own


def test_what_a_checkpoint_names() -> None:
    assert table_of("model.tables.user.x.weight") == "user.x"
    assert table_of("kept.tables.item.weight") == "item"
    assert table_of("rows.user.x.sum") == "user.x"
    assert [table_of(name) for name in ("model.net.weight", "engine.step")] == ["", ""]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"placements": {"users": "row"}}, r"placements: there is no table 'users'; allowed: "),
        (
            {"placements": {"item": "rows"}},
            r"'item' must be auto, row, table, table:PROCESS, column or replicated; got 'rows'",
        ),
        ({"placements": {"item": "row:1"}}, r"replicated; got 'row:1'"),
        ({"placements": {"item": "table:2"}}, r"kept by a process from 0 to 1; got 2"),
        ({"sharding": "column"}, r"has 1 columns, too few for 2 processes; keep it by row"),
    ],
)
def test_places_that_there_are_not(rated: Dataset, settings: dict[str, Any], words: str) -> None:
    config = DistributedConfig.from_dict(settings)
    width = 1 if "sharding" in settings else 5
    with pytest.raises(ConfigError, match=words):
        plan_of(rated, width, config)


def plan_of(data: Dataset, width: int, config: DistributedConfig) -> TablePlan:
    placements = place_tables(data.layout, width, config, 2)
    sizes = dict(data.layout.tables)
    return TablePlan(num_rows=sizes, placements=placements, world=2, width=width)
