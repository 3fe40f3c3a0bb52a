"""New ids in bundles: a delta for those without one, and warm rows for those that data brought."""

from pathlib import Path

import pytest
import torch
from tests.meta.warm_up.shop import warmed

from scalerec.bundle import grow_bundle, open_recommender, write_recommender
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, DataError
from scalerec.meta.tasks import TaskSet
from scalerec.meta.warm_up.adopting import adopt, warm_grown
from scalerec.meta.warm_up.warming import warm_rows
from scalerec.models.growing import GrownRows, TablePlan


@pytest.fixture
def base(cold: Dataset, tmp_path: Path, generator: torch.Generator) -> OpenRecommender:
    """A bundle that warms items up."""
    write_recommender(tmp_path / "base", warmed(cold, generator), cold, ())
    return open_recommender(tmp_path / "base")


def test_new_items_get_ids_and_rows(base: OpenRecommender, cold: Dataset, tmp_path: Path) -> None:
    new = (base.items.ids[1] == 1).nonzero().flatten()
    # A tenth of the 120 items for each of both later parts.
    assert len(new) == 24
    adopt(tmp_path / "delta", base, "item")
    after = open_recommender(tmp_path / "delta")
    assert after.layout.tables["item"] == base.layout.tables["item"] + 24
    ids = after.items.ids[1][new]
    assert ids.tolist() == list(range(base.layout.tables["item"], after.layout.tables["item"]))
    keys = [after.item_keys[number] for number in new.tolist()]
    vocabulary = after.encoders.vocabularies["item"]
    assert [vocabulary.key(number) for number in ids.tolist()] == keys  # type: ignore[union-attr]
    rows = after.recommender.tables.table("item")[ids]
    expected = warm_rows(base.recommender, "item", base.items.take(new))
    # Float32, through other sizes of matrices.
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)
    assert after.bundle.lineage[-1].verb == "warm-up"
    assert after.bundle.lineage[-1].settings == {"kind": "item", "adopted": 24, "examples": 0}


def test_known_items_score_as_before(base: OpenRecommender, cold: Dataset, tmp_path: Path) -> None:
    adopt(tmp_path / "delta", base, "item")
    after = open_recommender(tmp_path / "delta")
    batch = cold.split("train").read(0, 50)
    torch.testing.assert_close(after.recommender(batch), base.recommender(batch))
    size = sum(path.stat().st_size for path in (tmp_path / "delta").glob("weights*"))
    whole = sum(path.stat().st_size for path in (tmp_path / "base").glob("weights*"))
    assert size < whole / 3


def test_first_events_refine_the_rows(base: OpenRecommender, cold: Dataset, tmp_path: Path) -> None:
    events = cold.split("valid").read(0, 60)
    adopt(tmp_path / "delta", base, "item", support=events)
    after = open_recommender(tmp_path / "delta")
    number = int(events.items[0])
    there = (events.items == number).nonzero().flatten()
    row = after.recommender.tables.table("item")[after.items.ids[1][number]]
    item, none = base.items.take(torch.tensor([number])), torch.zeros_like(there)
    expected = warm_rows(base.recommender, "item", item, events.take(there), none)
    torch.testing.assert_close(row, expected[0], rtol=1e-4, atol=1e-6)
    assert after.bundle.lineage[-1].settings["examples"] == 60


def test_nobody_is_adopted_twice(base: OpenRecommender, tmp_path: Path) -> None:
    adopt(tmp_path / "delta", base, "item")
    with pytest.raises(DataError, match="every item has an id; there is nothing to adopt"):
        adopt(tmp_path / "again", open_recommender(tmp_path / "delta"), "item")
    with pytest.raises(DataError, match="every user has an id"):
        adopt(tmp_path / "users", base, "user")


def test_rows_of_grown_tables_are_warmed(base: OpenRecommender, cold: Dataset) -> None:
    recommender, _ = grow_bundle(base.bundle, cold)
    # As if the rows of ids 5 and 9 were those of new ids.
    fresh = torch.tensor([5, 9])
    sizes = len(recommender.tables.table("item"))
    grown = GrownRows({"item": TablePlan(None, sizes - 2, sizes, fresh)})
    before = recommender.tables.table("item").clone()
    assert warm_grown(recommender, grown, cold, "item", most_examples=3) == 2
    after = recommender.tables.table("item")
    others = torch.ones(sizes, dtype=torch.bool)
    others[fresh] = False
    assert torch.equal(after[others], before[others])
    number = int((cold.items.ids[1] == 9).nonzero())
    events = cold.split("train")
    tasks = TaskSet(events, "item")
    rows = tasks.rows_of(int((tasks.keys == number).nonzero()))[:3]
    alone = warm_rows(
        base.recommender,
        "item",
        cold.items.take(torch.tensor([number])),
        events.take(rows.numpy()),
        torch.zeros(3, dtype=torch.int64),
    )
    torch.testing.assert_close(after[9], alone[0], rtol=1e-4, atol=1e-6)


def test_words(base: OpenRecommender, cold: Dataset) -> None:
    recommender, grown = grow_bundle(base.bundle, cold)
    with pytest.raises(ConfigError, match="most_examples must be at least 0; got -1"):
        warm_grown(recommender, grown, cold, "item", most_examples=-1)
    with pytest.raises(ConfigError, match="the model warms up no new 'user'; it does: item"):
        warm_grown(recommender, grown, cold, "user")
