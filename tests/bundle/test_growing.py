"""Bundles that go on from bundles: read, evaluated and recommended from, whole and as a delta."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.worlds import RICH, prepared, raw, rich_tables
from tests.train.toys import narrow

from scalerec.bundle import (
    Bundle,
    Changes,
    Contents,
    RowChange,
    Step,
    open_recommender,
    write_bundle,
    write_delta,
    write_recommender,
)
from scalerec.bundle.growing import base_of, grow_bundle, recommender_for
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.errors import BundleError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.scoring import evaluate, recommend

SPLIT = {"split": {"valid": 0.1, "test": 0.2}}


def drawn(recommender: Recommender) -> Recommender:
    """Other weights, as if it had been trained."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in recommender.to_tensors().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    recommender.tables.keep_padding_zero()
    return recommender.eval()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Dataset, Bundle, Dataset]:
    """A bundle and its data; the next bundle, in whose tables ids were retired and added."""
    folder = tmp_path_factory.mktemp("chain")
    events, users, items = rich_tables(60, 0)
    one = prepared(folder / "1", raw(RICH, events, users, items), **SPLIT)
    first = write_recommender(
        folder / "first", build_recommender(one.layout, narrow(), 1).eval(), one, ()
    )
    events, users, items = rich_tables(60, 4)
    events["t"] = [time + 10 * 86_400 for time in events["t"]]
    events["u"] = [f"u{int(user[1:]) + 4}" for user in events["u"]]
    events["i"] = [f"i{int(item[1:]) + 4}" for item in events["i"]]
    config = PrepareConfig.from_dict(SPLIT)
    base = base_of(first, GrowConfig(evict_after=0.05, tables={"i": {"evict_after": 0.0}}))
    two = prepare(raw(RICH, events, users, items), folder / "2", config, base=base)
    grown, _ = grow_bundle(first, two)
    step = Step(verb="train", parents=(first.digest,))
    second = write_recommender(folder / "second", drawn(grown), two, (*first.lineage, step))
    return first, one, second, two


@torch.no_grad()
def scores(recommender: Recommender, dataset: Dataset) -> torch.Tensor:
    found: torch.Tensor = recommender(dataset.split("test").read(0, 50))
    return found


def test_the_next_bundle_is_as_it_was_written(
    chain: tuple[Bundle, Dataset, Bundle, Dataset],
) -> None:
    first, _, second, two = chain
    opened = open_recommender(second.path)
    assert opened.layout == two.layout
    tables = opened.recommender.tables
    assert any(row_map.rows is not None for row_map in tables.maps.values())
    assert tables.num_rows["u"] < opened.layout.tables["u"]
    before, after = open_recommender(first.path), opened
    assert after.user_keys[: len(before.user_keys)] == before.user_keys
    assert after.item_keys[: len(before.item_keys)] == before.item_keys
    assert "u10" in after.user_numbers
    assert evaluate(opened.recommender, two).rows == two.num_rows("test")
    for user in ("u1", "u10", "nobody"):
        assert recommend(opened, user=user, k=3, exclude_met=False)
    # What was met under the first bundle is not recommended by the second.
    (known,) = [after.met[after.user_numbers["u1"]].as_py()]
    listed = {item.item for item in recommend(opened, user="u1", k=20)}
    assert listed == set(after.item_keys) - {after.item_keys[number] for number in known}


def test_each_bundle_scores_the_other_days(
    chain: tuple[Bundle, Dataset, Bundle, Dataset], tmp_path: Path
) -> None:
    first, one, second, two = chain
    old, new = open_recommender(first.path), open_recommender(second.path)
    assert recommender_for(new, two) is new.recommender
    # Earlier data: an id still means what it meant.
    assert recommender_for(new, one) is new.recommender
    # Later data: what is new to the old bundle is unknown to it.
    later = recommender_for(old, two)
    batch = two.split("test").read(0, 50)
    sizes = [old.layout.tables[field.table] for field in old.layout.ids]
    ids = torch.stack(
        [torch.where(own < size, own, 1) for own, size in zip(batch.ids, sizes, strict=True)]
    )
    bags = tuple(
        replace(bag, values=torch.where(bag.values < old.layout.tables[field.table], bag.values, 1))
        for bag, field in zip(batch.bags, old.layout.bags, strict=True)
    )
    with torch.no_grad():
        assert torch.equal(later(batch), old.recommender(replace(batch, ids=ids, bags=bags)))
    other = prepared(tmp_path / "x", raw(RICH, *rich_tables(60, 9)), **SPLIT)
    with pytest.raises(BundleError, match=r"was encoded differently from what .* prepare it with"):
        recommender_for(new, other)


def changes_between(first: Bundle, second: Bundle) -> Changes:
    """Rows of tables that differ or are new, and everything else that is not the same."""
    before, after = first.tensors(), second.tensors()
    rows: dict[str, RowChange] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, now in after.items():
        was = before.get(name)
        if was is None or not name.endswith(".weight") or not name.startswith("tables."):
            if was is None or not torch.equal(was, now):
                tensors[name] = now
            continue
        moved = (now[: len(was)] != was).any(1).nonzero().flatten()
        changed = torch.cat([moved, torch.arange(len(was), len(now))])
        rows[name] = RowChange(rows=changed, values=now[changed])
    return Changes(
        step=second.lineage[-1],
        tensors=tensors,
        rows=rows,
        layout=second.layout,
        encoders=second.encoders,
        catalogue=second.catalogue,
        users=second.users,
    )


def test_a_delta_between_both_is_the_second(
    chain: tuple[Bundle, Dataset, Bundle, Dataset], tmp_path: Path
) -> None:
    first, _, second, two = chain
    write_delta(tmp_path / "delta", first, changes_between(first, second))
    delta = open_recommender(tmp_path / "delta")
    whole = open_recommender(second.path)
    assert torch.equal(scores(delta.recommender, two), scores(whole.recommender, two))
    lists = [recommend(opened, user="u10", k=5) for opened in (delta, whole)]
    assert lists[0] == lists[1]


def refused(tmp_path: Path, first: Bundle, changes: Changes) -> OpenRecommender:
    write_delta(tmp_path / "delta", first, changes)
    return open_recommender(tmp_path / "delta")


@pytest.mark.parametrize("forgotten", ["tables.u.rows", "tables.i.weight"])
def test_a_delta_that_forgets_a_part_of_the_growth_is_refused(
    chain: tuple[Bundle, Dataset, Bundle, Dataset], tmp_path: Path, forgotten: str
) -> None:
    first, _, second, _ = chain
    changes = changes_between(first, second)
    tensors = {name: tensor for name, tensor in changes.tensors.items() if name != forgotten}
    rows = {name: change for name, change in changes.rows.items() if name != forgotten}
    table = forgotten.split(".")[1]
    with pytest.raises(BundleError, match=f"table '{table}' must have a row for each of"):
        refused(tmp_path, first, replace(changes, tensors=tensors, rows=rows))


def test_what_is_no_recommender_is_refused(tmp_path: Path) -> None:
    contents: dict[str, Any] = {"schema": {}, "spec": {"kind": "other"}, "layout": {}}
    bundle = write_bundle(tmp_path / "other", Contents(tensors={"a": torch.ones(1)}, **contents))
    with pytest.raises(BundleError, match="holds no recommender with encoders, so nothing grows"):
        base_of(bundle)
