"""Tables that grow: old rows stay, new ids get rows of their own, freed rows are used again."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor

from scalerec.data.layout import Layout
from scalerec.data.vocabulary import OOV
from scalerec.errors import ConfigError
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.growing import GrownRows, grow_recommender, plan_table
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender

SPEC = ModelSpec(model="deepfm", settings={"dim": 4, "hidden": [6]}, init_std=0.5)
LAYOUT = LAYOUTS["mixed"]


def marks(text: str) -> Tensor:
    """`1` is a live id, `0` a retired one."""
    return torch.tensor([letter == "1" for letter in text])


def bigger(layout: Layout, **more: int) -> Layout:
    tables = {name: size + more.get(name, 0) for name, size in layout.tables.items()}
    return layout.replace(tables=tables)


class TestPlan:
    def test_only_new_ids(self) -> None:
        plan = plan_table(marks("111111"), num_rows=4, rows=None)
        assert plan.rows is None
        assert (plan.num_before, plan.num_rows, plan.fresh.tolist()) == (4, 6, [4, 5])

    def test_maps_of_few_bytes(self) -> None:
        rows = torch.tensor([0, 1, 2, 2], dtype=torch.int16)
        plan = plan_table(marks("11111"), num_rows=3, rows=rows)
        assert plan.rows is not None
        assert plan.rows.dtype == torch.int64
        assert plan.rows.tolist() == [0, 1, 2, 2, 3]

    def test_nothing_new(self) -> None:
        plan = plan_table(marks("1111"), num_rows=4, rows=None)
        assert (plan.rows, plan.num_rows, plan.fresh.tolist()) == (None, 4, [])

    def test_a_freed_row_is_taken_before_one_is_appended(self) -> None:
        plan = plan_table(marks("11010111"), num_rows=5, rows=None)
        assert plan.rows is not None
        # Ids 2 and 4 are gone, and so is id 5 before it had a row... it is live, as are 6 and 7.
        assert plan.rows.tolist() == [0, 1, OOV, 3, OOV, 2, 4, 5]
        assert (plan.num_rows, plan.fresh.tolist()) == (6, [2, 4, 5])

    def test_a_row_that_was_freed_long_ago(self) -> None:
        rows = torch.tensor([0, 1, OOV, 3])
        plan = plan_table(marks("11011"), num_rows=4, rows=rows)
        assert plan.rows is not None
        assert plan.rows.tolist() == [0, 1, OOV, 3, 2]
        assert plan.num_rows == 4

    def test_a_shared_row_is_free_when_nobody_reads_it(self) -> None:
        shared = torch.tensor([0, 1, 2, 2, 3])
        one = plan_table(marks("110111"), num_rows=4, rows=shared)
        assert one.rows is not None
        assert one.rows.tolist() == [0, 1, OOV, 2, 3, 4]
        both = plan_table(marks("110011"), num_rows=4, rows=shared)
        assert both.rows is not None
        assert both.rows.tolist() == [0, 1, OOV, OOV, 3, 2]

    def test_ids_never_vanish(self) -> None:
        with pytest.raises(ConfigError, match="ids never vanish: 4 known, 3 now"):
            plan_table(marks("111"), num_rows=4, rows=None)


@given(
    updates=st.lists(
        st.tuples(st.lists(st.booleans(), max_size=5), st.sets(st.integers(2, 20), max_size=6)),
        max_size=8,
    )
)
def test_no_two_live_ids_share_a_row(updates: list[tuple[list[bool], set[int]]]) -> None:
    """Whatever comes and goes: a live id has a row alone, and rows are no more than once needed."""
    live, rows, num_rows, most = [True] * 4, None, 4, 4
    for new, gone in updates:
        before = rows if rows is not None else torch.arange(num_rows)
        known = len(live)
        live = [alive and i not in gone for i, alive in enumerate(live)] + new
        plan = plan_table(torch.tensor(live), num_rows, rows)
        rows, num_rows = plan.rows, plan.num_rows
        now = rows if rows is not None else torch.arange(num_rows)
        assert now[:2].tolist() == [0, 1]
        own = [int(now[i]) for i in range(2, len(live)) if live[i]]
        assert len(set(own)) == len(own)
        assert all(2 <= row < num_rows for row in own)
        assert all(int(now[i]) == OOV for i in range(len(live)) if not live[i])
        stays = [i for i in range(known) if live[i]]
        assert now[stays].tolist() == before[stays].tolist()
        most = max(most, sum(live))
        assert num_rows <= most


def tensors_of(recommender: Recommender) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in recommender.to_tensors().items()}


class TestRecommender:
    def test_the_grown_model_scores_as_before(self) -> None:
        """Old ids keep their rows, new ones and retired ones read what is out-of-vocabulary."""
        old = build_recommender(LAYOUT, SPEC, seed=1).eval()
        batch = draw_batch(LAYOUT, 30, torch.Generator().manual_seed(2))
        layout = bigger(LAYOUT, user=3, item=2)
        live = torch.ones(LAYOUT.tables["item"] + 2, dtype=torch.bool)
        live[5] = False
        grown, rows = grow_recommender(SPEC, layout, tensors_of(old), {"item": live})
        assert rows.plans["user"].rows is None
        assert rows.plans["item"].fresh.tolist() == [5, LAYOUT.tables["item"]]
        assert grown.tables.num_rows == {"user": 15, "item": 15, "day": 5, "genre": 6}
        ids = batch.ids.clone()
        ids[1][ids[1] == 5] = OOV
        bags = list(batch.bags)
        values = bags[1].values.clone()
        values[values == 5] = OOV
        bags[1] = type(bags[1])(values, bags[1].offsets)
        same = type(batch)(
            **{name: getattr(batch, name) for name in batch.__slots__}
            | {"ids": ids, "bags": tuple(bags)}
        )
        with torch.no_grad():
            expected = old(same)
            assert torch.equal(grown(batch), expected)
            # A new id in the place of an unknown one changes nothing.
            ids = same.ids.clone()
            ids[0][ids[0] == OOV] = LAYOUT.tables["user"] + 1
            fresh = type(batch)(
                **{name: getattr(same, name) for name in batch.__slots__} | {"ids": ids}
            )
            assert torch.equal(grown(fresh), expected)

    def test_drawn_rows(self) -> None:
        old = build_recommender(LAYOUT, SPEC, seed=1)
        layout = bigger(LAYOUT, user=400)
        grown, _ = grow_recommender(SPEC, layout, tensors_of(old), {}, fresh="drawn", seed=3)
        new = grown.tables.table("user")[LAYOUT.tables["user"] :]
        assert float(new[:, :-1].std()) == pytest.approx(0.5, rel=0.1)
        assert not new[:, -1].any()
        same, _ = grow_recommender(SPEC, layout, tensors_of(old), {}, fresh="drawn", seed=3)
        assert torch.equal(same.tables.matrix, grown.tables.matrix)

    def test_it_goes_to_tensors_and_back(self) -> None:
        old = build_recommender(LAYOUT, SPEC, seed=1)
        layout = bigger(LAYOUT, user=2)
        live = torch.ones(14, dtype=torch.bool)
        live[3] = False
        grown, _ = grow_recommender(SPEC, layout, tensors_of(old), {"user": live})
        again = build_recommender(layout, SPEC, seed=9)
        again.load_tensors(grown.to_tensors())
        assert torch.equal(again.tables.matrix, grown.tables.matrix)
        batch = draw_batch(layout, 20, torch.Generator().manual_seed(2))
        assert torch.equal(again.tables.rows_of(batch), grown.tables.rows_of(batch))
        # Two more updates, from a table whose rows are in another order than its ids.
        live = torch.cat([live, torch.tensor([True])])
        more, _ = grow_recommender(SPEC, bigger(layout, user=1), grown.to_tensors(), {"user": live})
        assert more.tables.num_rows["user"] == 14
        rows = more.tables.maps["user"].rows
        assert rows is not None
        assert rows.tolist() == [0, 1, 2, 1, *range(4, 12), 3, 12, 13]

    def test_refusals(self) -> None:
        tensors = dict(tensors_of(build_recommender(LAYOUT, SPEC, seed=1)))
        with pytest.raises(ConfigError, match="fresh must be unknown or drawn; got 'zero'"):
            grow_recommender(SPEC, LAYOUT, tensors, {}, fresh="zero")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="table 'user': 12 ids; got 3 marks"):
            grow_recommender(SPEC, LAYOUT, tensors, {"user": marks("111")})
        wide = {**tensors, "tables.user.weight": torch.zeros(12, 9)}
        with pytest.raises(ConfigError, match=r"'user' must be rows of width 5; got \[12, 9\]"):
            grow_recommender(SPEC, LAYOUT, wide, {})
        del tensors["tables.user.weight"]
        with pytest.raises(ConfigError, match="table 'user' has no rows"):
            grow_recommender(SPEC, LAYOUT, tensors, {})


def test_state_follows_the_rows() -> None:
    """Two tables: one whose id 2 is retired and that gets two ids, one that gets one."""
    first = plan_table(marks("110111"), num_rows=4, rows=None)
    second = plan_table(marks("1111"), num_rows=3, rows=None)
    grown = GrownRows({"a": first, "b": second})
    state = torch.arange(1.0, 8.0).view(7, 1)
    spread = grown.spread(state).flatten().tolist()
    assert spread == [1, 2, 0, 4, 0, 5, 6, 7, 0]
    with pytest.raises(ConfigError, match="state must have 7 rows; got 6"):
        grown.spread(state[:6])


class TestForms:
    """Tables of other forms grow as well, and what was known keeps its score."""

    FORMS = Forms(
        tables={
            "user": TableForm(rows=6, sharing="hash"),
            "item": TableForm(rows=10, sharing="quotient"),
            "day": TableForm(bits=8, dim=3),
        },
        layers={"net.tower.0": LayerForm(bits=8)},
    )

    def old(self, bits: int) -> Recommender:
        tables = {name: form.replace(bits=bits) for name, form in self.FORMS.tables.items()}
        floats = {name: form.replace(bits=32) for name, form in tables.items()}
        made = build_recommender(LAYOUT, SPEC.replace(forms=Forms(tables=floats)), 1)
        settled = made.spec.forms.tables
        return formed(
            made,
            self.FORMS.replace(tables={n: f.replace(bits=bits) for n, f in settled.items()}),
        )

    @pytest.mark.parametrize("bits", [32, 8])
    def test_new_ids_score_as_unknown_ones(self, bits: int, generator: torch.Generator) -> None:
        old = self.old(bits)
        layout = bigger(LAYOUT, user=4, item=30, day=2, genre=1)
        live = {"item": torch.ones(44, dtype=torch.bool), "day": marks("1110111")}
        live["item"][5] = False
        batch = draw_batch(LAYOUT, 40, generator)
        known = LAYOUT.tables
        grown, rows = grow_recommender(
            old.spec, layout, old.to_tensors(), live, fresh="unknown", known=known
        )
        assert grown.spec == old.spec
        assert rows.plans["user"].num_rows == 6
        assert rows.plans["day"].num_rows == 6
        kept = (batch.ids[1] != 5) & (batch.ids[2] != 3)
        seen = batch.bags[1]
        kept &= ~torch.zeros(40).index_add(0, seen.rows, (seen.values == 5).float()).bool()
        places = kept.nonzero().flatten()
        before = batch.take(places)
        assert 5 < len(places) < 40
        torch.testing.assert_close(grown(before), old(before), rtol=1e-5, atol=1e-5)
        later = batch.take(places)
        later.ids[:] = torch.tensor([[13], [40], [6]])
        before.ids[:] = OOV
        torch.testing.assert_close(grown(later), old(before), rtol=1e-5, atol=1e-5)
        gone = batch.take(places)
        gone.ids[:] = torch.tensor([[OOV], [5], [3]])
        torch.testing.assert_close(grown(gone), old(before), rtol=1e-5, atol=1e-5)

    def test_drawn_ids_share_at_once(self) -> None:
        old = self.old(32)
        layout = bigger(LAYOUT, user=4)
        grown, _ = grow_recommender(
            old.spec, layout, old.to_tensors(), {}, fresh="drawn", known=LAYOUT.tables
        )
        assert "tables.user.rows" not in grown.to_tensors()
        with pytest.raises(ConfigError, match=r"table 'day': fresh rows of another form start as"):
            grow_recommender(old.spec, bigger(LAYOUT, day=1), old.to_tensors(), {}, fresh="drawn")
