"""Fields that are added to a recommender leave its scores alone, whatever is in them.

A new net joins by its row of `ZOO`. One whose scores move is named in `MOVES`, with the reason.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.contracts.test_zoo import PAIRS, config_of
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor

from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.narrowing import Narrowing
from scalerec.data.schema import Role, Task
from scalerec.errors import ConfigError
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.growing import GrownRows, grow_recommender
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

MOVES = {
    "autoint": "its attention shares itself out among all fields, and one that says nothing takes "
    "a share too"
}
# Scores of some units; a sum that has more terms is added up in another order.
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
ROWS = 12


def fields(role: Role) -> dict[str, Layout]:
    """What is added, kind by kind, to the fields of a layout that has none of it."""
    none = Layout(ids=(), tables={}, tasks=())
    return {
        "id": none.replace(ids=(IdField(name="n", role=role, table="n"),), tables={"n": 7}),
        "number": none.replace(numbers=(NumberField(name="n", role=role),)),
        "bag": none.replace(
            bags=(BagField(name="n", role=role, table="n", max_length=4),), tables={"n": 7}
        ),
        "vector": none.replace(vectors=(VectorField(name="n", role=role, dim=5),)),
    }


def joined(one: Layout, two: Layout) -> Layout:
    return one.replace(
        ids=one.ids + two.ids,
        numbers=one.numbers + two.numbers,
        bags=one.bags + two.bags,
        vectors=one.vectors + two.vectors,
        tables={**one.tables, **two.tables},
    )


def learned(layout: Layout, spec: ModelSpec) -> Recommender:
    """A recommender with weights as large as training makes them."""
    recommender = build_recommender(layout, spec, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in recommender.to_tensors().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)
        for name, tensor in recommender.named_buffers():
            if name.endswith("var"):
                tensor.abs_()
    recommender.tables.keep_padding_zero()
    return recommender.eval()


def spec_of(name: str, forms: Forms | None = None) -> ModelSpec:
    spec = ModelSpec(model=name, settings=config_of(name).to_dict(), init_std=0.3)
    return spec if forms is None else replace(spec, forms=forms)


def tensors_of(recommender: Recommender) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in recommender.to_tensors().items()}


def grown(old: Recommender, layout: Layout) -> tuple[Recommender, GrownRows]:
    return grow_recommender(old.spec, layout, tensors_of(old), {}, before=old.layout)


def both(
    old: Recommender, new: Recommender, rows: GrownRows, num_rows: int = ROWS
) -> tuple[Tensor, Tensor]:
    """Scores of rows by the old recommender, and by the new one with something in each field."""
    batch = draw_batch(new.layout, num_rows, torch.Generator().manual_seed(5))
    plain = Narrowing(new.layout, rows.added)(batch)
    with torch.no_grad():
        return old(plain), new(batch)


@pytest.mark.parametrize("kind", ["id", "number", "bag", "vector"])
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_a_new_field_changes_no_score(name: str, layout: str, role: Role, kind: str) -> None:
    before = LAYOUTS[layout]
    old = learned(before, spec_of(name))
    new, rows = grown(old, joined(before, fields(role)[kind]))
    assert rows.added == ("n",)
    assert rows.lost == ()
    assert rows.exact == (name not in MOVES)
    first, second = both(old, new, rows)
    assert torch.allclose(second, first, **CLOSE) == rows.exact


def test_a_part_that_finds_no_place_is_named() -> None:
    """A gate that was a constant for want of a user's field now sees one."""
    before = LAYOUTS["ids"].without(["user"])
    old = learned(before, spec_of("finalmlp"))
    new, rows = grown(old, joined(before, fields(Role.USER)["id"]))
    assert not rows.exact
    assert rows.lost == ("net.one.gate.context",)
    same = "net.one.gate.net.2.bias"
    assert torch.equal(new.to_tensors()[same][: 2 * 4], old.to_tensors()[same])


@pytest.mark.parametrize("name", ZOO)
def test_all_that_is_new_learns_from_the_first_step(name: str) -> None:
    layout = dict(reversed(PAIRS))[name]
    before = LAYOUTS[layout]
    wanted = before
    for number, (kind, own) in enumerate(fields(Role.ITEM).items()):
        text = own.to_dict()
        named = Layout.from_dict(_renamed(text, "n", f"n{number}"), kind)
        wanted = joined(wanted, named)
    old = learned(before, spec_of(name))
    new, rows = grown(old, wanted)
    batch = draw_batch(wanted, 200, torch.Generator().manual_seed(6))
    matrix = new.tables.matrix.detach().requires_grad_()
    logits = new.score(matrix[new.tables.rows_of(batch)], batch)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))
    (logits * weights).sum().backward()
    assert matrix.grad is not None
    for table in ("n0", "n2"):
        start = new.tables.start[table]
        own_rows = matrix.grad[start + 1 : start + new.tables.num_rows[table]]
        assert own_rows.abs().sum(1).gt(0).all()
        assert not new.tables.table(table).any()
    numbers, vectors = new.embedder.numbers, new.embedder.vectors
    assert numbers.grad is not None
    assert numbers.grad[-1].any()
    assert not numbers[-1].any()
    assert vectors[-1].grad is not None
    assert vectors[-1].grad.any()
    assert rows.num_fresh == 14


def _renamed(values: object, name: str, other: str) -> dict[str, object]:
    def walk(value: object) -> object:
        if isinstance(value, Mapping):
            return {other if key == name else key: walk(own) for key, own in value.items()}
        if isinstance(value, list | tuple):
            return [walk(own) for own in value]
        return other if value == name else value

    found = walk(values)
    assert isinstance(found, dict)
    return found


class TestSharedTables:
    """A new field that reads rows which are there already."""

    SHARED = IdField(name="n", role=Role.CONTEXT, table="item")

    @pytest.mark.parametrize("name", [name for name, layout in PAIRS if layout == "mixed"])
    def test_where_weights_read_the_field_alone_they_start_at_zero(self, name: str) -> None:
        before = LAYOUTS["mixed"]
        old = learned(before, spec_of(name))
        new, rows = grown(old, before.replace(ids=(*before.ids, self.SHARED)))
        first, second = both(old, new, rows)
        # These add up first-order weights or products of pairs, whoever reads the rows.
        sums = {"lr", "fm", "wide-deep", "deepfm"}
        assert rows.exact == (name not in {*MOVES, *sums})
        assert torch.allclose(second, first, **CLOSE) == rows.exact
        assert rows.num_fresh == 0


def test_a_second_history_gets_an_attention_of_its_own() -> None:
    before = LAYOUTS["mixed"]
    more = BagField(name="n", role=Role.USER, table="item", max_length=5, history=True)
    old = learned(before, spec_of("din"))
    new, rows = grown(old, before.replace(bags=(*before.bags, more)))
    first, second = both(old, new, rows)
    assert rows.exact
    torch.testing.assert_close(second, first, **CLOSE)


class TestForms:
    """Recommenders that were compressed, or have adapters, take new fields too."""

    def test_factors_and_sparse_layers(self) -> None:
        layers = {
            "net.tower.0": LayerForm(rank=3),
            "net.tower.2": LayerForm(sparse=True),
        }
        self.check(Forms(layers=layers, recalibrated=True))
        self.check(Forms(layers={"net.tower.0": LayerForm(sparse=True)}))

    def test_tables_of_other_forms_and_fields_left_out(self) -> None:
        tables = {"user": TableForm(rows=6, sharing="hash"), "genre": TableForm(dim=2)}
        self.check(Forms(tables=tables))
        self.check(Forms(fields=("day", "age")))

    def check(self, forms: Forms) -> None:
        before = LAYOUTS["mixed"]
        old = learned(before, spec_of("deepfm", forms))
        for own in fields(Role.ITEM).values():
            new, rows = grown(old, joined(before, own))
            assert rows.exact
            first, second = both(old, new, rows)
            torch.testing.assert_close(second, first, **CLOSE)
            again = Recommender(new.layout, new.spec, torch.Generator(), draw_tables=False)
            again.load_tensors(tensors_of(new))


class TestLayouts:
    BEFORE = LAYOUTS["mixed"]

    def test_what_is_beyond(self) -> None:
        assert self.BEFORE.beyond(self.BEFORE) == ()
        assert self.BEFORE.beyond(self.BEFORE.without(["day", "image"])) == ("day", "image")

    @pytest.mark.parametrize(
        ("after", "words"),
        [
            (BEFORE.without(["day"]), "field 'day' is missing"),
            (BEFORE.replace(ids=BEFORE.ids[::-1]), "fields must keep their order"),
            (
                BEFORE.replace(tasks=(Task(name="bought"),)),
                "tasks must stay .*liked.* got .*bought",
            ),
            (
                BEFORE.replace(vectors=(VectorField(name="image", role=Role.ITEM, dim=4),)),
                "field 'image' was VectorField.*dim=3.* and is VectorField.*dim=4",
            ),
        ],
    )
    def test_a_layout_that_does_not_go_on(self, after: Layout, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            after.beyond(self.BEFORE)

    def test_states_of_optimisers_are_zero_for_new_tables(self) -> None:
        old = learned(self.BEFORE, spec_of("fm"))
        layout = joined(self.BEFORE, fields(Role.ITEM)["id"])
        layout = layout.replace(tables={**layout.tables, "user": layout.tables["user"] + 2})
        new, rows = grown(old, layout)
        state = rows.spread(torch.arange(1.0, old.tables.matrix.shape[0] + 1))
        assert len(state) == len(new.tables.matrix)
        start = new.tables.start["n"]
        assert not state[start : start + 7].any()
        assert int((state > 0).sum()) == len(old.tables.matrix)
