"""Warm rows in tables that grew for real: ids were retired, so that rows and ids part."""

from pathlib import Path

import pytest
import torch
from tests.data.worlds import RICH, prepared, raw, rich_tables
from tests.meta.warm_up.shop import draw_generator
from tests.train.toys import narrow

from scalerec.bundle import open_recommender, write_recommender
from scalerec.bundle.growing import base_of, grow_bundle
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.meta.warm_up.adopting import adopt, warm_grown
from scalerec.meta.warm_up.entities import EntityKind, entities_of
from scalerec.meta.warm_up.warming import warm_rows, with_warm_up
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.warming import WarmUp

SPLIT = {"split": {"valid": 0.1, "test": 0.2}}


def add_warmer(own: Recommender, dataset: Dataset, kind: EntityKind) -> Recommender:
    """The model with a drawn warmer."""
    generator = torch.Generator().manual_seed(3)
    found = entities_of(own, dataset.schema, kind)
    num = len(found.features) * own.spec.net_config().dim
    warmer = draw_generator(num, own.tables.width, generator)
    warmer.pace.fill(0.05, 1.0)
    return with_warm_up(own, WarmUp(key=found.key, features=found.features), warmer)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenRecommender, Dataset]:
    """A bundle that warms up, and data that continues it with new ids and without old ones."""
    folder = tmp_path_factory.mktemp("chain")
    events, users, items = rich_tables(60, 0)
    one = prepared(folder / "1", raw(RICH, events, users, items), **SPLIT)
    own = build_recommender(one.layout, narrow(), 1).eval()
    own = add_warmer(add_warmer(own, one, "user"), one, "item")
    first = write_recommender(folder / "first", own, one, ())
    events, users, items = rich_tables(60, 4)
    events["t"] = [time + 10 * 86_400 for time in events["t"]]
    events["u"] = [f"u{int(user[1:]) + 4}" for user in events["u"]]
    events["i"] = [f"i{int(item[1:]) + 4}" for item in events["i"]]
    config = PrepareConfig.from_dict(SPLIT)
    base = base_of(first, GrowConfig(evict_after=0.05, tables={"i": {"evict_after": 0.0}}))
    two = prepare(raw(RICH, events, users, items), folder / "2", config, base=base)
    return open_recommender(folder / "first"), two


@pytest.mark.parametrize("kind", ["user", "item"])
def test_new_ids_and_no_others_get_rows(
    kind: EntityKind, chain: tuple[OpenRecommender, Dataset]
) -> None:
    base, two = chain
    recommender, grown = grow_bundle(base.bundle, two)
    key = entities_of(recommender, two.schema, kind).key
    before = recommender.tables.table(key).clone()
    count = warm_grown(recommender, grown, two, kind)
    fresh = grown.plans[key].fresh
    assert count == len(fresh) > 0
    changed = (recommender.tables.table(key) != before).any(1).nonzero().flatten()
    assert changed.tolist() == sorted(fresh.tolist())


@pytest.mark.parametrize("kind", ["user", "item"])
def test_a_grown_bundle_adopts(
    kind: EntityKind, chain: tuple[OpenRecommender, Dataset], tmp_path: Path
) -> None:
    base, two = chain
    write_recommender(tmp_path / "second", grow_bundle(base.bundle, two)[0], two, ())
    second = open_recommender(tmp_path / "second")
    whole = second.items if kind == "item" else second.users
    key = entities_of(second.recommender, two.schema, kind).key
    place = [field.name for field in second.layout.ids].index(key)
    new = (whole.ids[place] == 1).nonzero().flatten()
    if not len(new):
        pytest.skip("the toy lists none without an id")
    adopt(tmp_path / "delta", second, kind)
    after = open_recommender(tmp_path / "delta")
    listed = after.items if kind == "item" else after.users
    ids = listed.ids[place][new]
    tables = after.recommender.tables
    rows = tables.read(tables.addresses(second.layout.ids[place].table, ids)[0])
    expected = warm_rows(second.recommender, key, whole.take(new))
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)
    batch = two.split("train").read(0, 30)
    torch.testing.assert_close(after.recommender(batch), second.recommender(batch))
