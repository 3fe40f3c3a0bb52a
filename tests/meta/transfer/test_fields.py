"""Fields that the source did not know: what they bring moves by every method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.toys import CATEGORIES, make_data, rating_rows

from scalerec.data.dataset import Dataset
from scalerec.meta.transfer import Source, TransferConfig, transfer
from scalerec.models.growing import grow_recommender
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.train import Start

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = ModelSpec(model="deepfm", settings={"dim": 4, "hidden": [8, 6]}, init_std=0.3)
FEATURES: tuple[dict[str, object], ...] = (
    *CATEGORIES,
    {"name": "weight", "kind": "numeric", "role": "context"},
    {"name": "price", "kind": "numeric", "role": "context"},
    {"name": "kind", "kind": "categorical", "role": "context"},
    {"name": "look", "kind": "vector", "role": "item", "dim": 3},
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    columns = rating_rows(200)
    looks = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    columns = {**columns, "look": ["|".join(map(str, look)) for look in looks.tolist()]}
    path: Path = tmp_path_factory.mktemp("fields") / "data"
    config = {"split": {"by": "random", "valid": 0.0, "test": 0.2}}
    return make_data(path, columns, FEATURES, config=config, user="user", item="item")


def source_of(target: Dataset) -> Source:
    """A drawn source that knows neither price, kind nor look."""
    layout = target.layout
    before = replace(
        layout,
        ids=tuple(field for field in layout.ids if field.name != "kind"),
        numbers=tuple(field for field in layout.numbers if field.name != "price"),
        vectors=(),
        tables={name: size for name, size in layout.tables.items() if name != "kind"},
    )
    tensors = build_recommender(before, SPEC, 1).to_tensors()
    recommender, grown = grow_recommender(SPEC, layout, tensors, {}, before=before)
    assert set(grown.added) == {"price", "kind", "look"}
    return Source(Start(recommender, "0" * 64, grown))


@pytest.mark.parametrize("method", ["all", "head", "low-rank"])
def test_what_new_fields_bring_moves(target: Dataset, method: str) -> None:
    train: dict[str, Any] = {"epochs": 2, "batch_size": 32, "precision": "fp32"}
    config = TransferConfig.from_dict({"method": method, "rank": 2, "train": train})
    source = source_of(target)
    before = {n: t.clone() for n, t in source.start.recommender.to_tensors().items()}
    after = transfer(source, target, config).recommender.to_tensors()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"tables.kind.weight", "embedder.numbers", "embedder.vectors.0"} <= moved
    numbers = [field.name for field in target.layout.numbers]
    rows = (after["embedder.numbers"] != before["embedder.numbers"]).any(1)
    known = rows[numbers.index("weight")]
    assert bool(rows[numbers.index("price")])
    assert bool(known) == (method == "all")
    if method != "all":
        assert "tables.user.weight" not in moved
    assert ("net.tower.0.weight" in moved) == (method != "head")
