"""Training of recommenders whose tables a schema keeps otherwise, or that have other forms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.toys import CATEGORIES, LIKED, narrow, rating_rows

from scalerec.bundle import Step, open_recommender, write_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Embedding, Schema
from scalerec.data.sources import TableSource
from scalerec.errors import ConfigError, SchemaError
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import Start, TrainConfig, Trained, train

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEMA: dict[str, Any] = {
    "features": list(CATEGORIES),
    "tasks": [LIKED],
    "user": "user",
    "item": "item",
    "timestamp": "time",
    "embeddings": {
        "user": {"sharing": "quotient", "rows": 11, "dim": 4},
        "item": {"sharing": "hash", "rows": 9, "dim": 64},
    },
}
FAST: dict[str, Any] = {
    "epochs": 6, "batch_size": 32, "dense": {"lr": 1e-2}, "tables": {"lr": 2e-2},
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    import pyarrow as pa

    schema = Schema.from_dict(SCHEMA)
    raw = RawData(
        name="toy", schema=schema, splits={"all": TableSource(pa.table(rating_rows(900)), "events")}
    )
    config = PrepareConfig.from_dict({"split": {"by": "time", "valid": 0.2, "test": 0.2}})
    return prepare(raw, tmp_path_factory.mktemp("shared") / "data", config)


def run(dataset: Dataset, forms: Forms | None = None, **settings: Any) -> Trained:
    spec = replace(narrow(), forms=forms or Forms())
    return train(dataset, spec, TrainConfig.from_dict({**FAST, **settings}))


@pytest.mark.parametrize("engine", ["dense", "auto", "torch"])
def test_a_schemas_choice_is_trained(shared: Dataset, engine: str, tmp_path: Path) -> None:
    optimiser = "adam" if engine == "dense" else "adagrad"
    tables = {"lr": 5e-2, "engine": engine, "optimiser": optimiser}
    found = run(shared, tables=tables).recommender
    assert found.spec.forms.tables == {
        "user": TableForm(rows=11, sharing="quotient", dim=4, divisor=7),
        # The net's own eight columns are fewer than the schema allows.
        "item": TableForm(rows=9, sharing="hash"),
    }
    quality = evaluate(found, shared, EvaluateConfig(split="test", ranking="no")).metrics
    area = quality["auc"]
    assert area is not None
    # Two signs decide all, so a few rows tell them apart.
    assert area > 0.8
    write_recommender(tmp_path / "b", found, shared, (Step(verb="train", settings={}),))
    opened = open_recommender(tmp_path / "b").recommender
    batch = shared.split("test").read(0, 20)
    assert torch.equal(opened(batch), found.eval()(batch))


def test_what_is_given_goes_before_the_schema(shared: Dataset) -> None:
    forms = Forms(tables={"user": TableForm(), "item": TableForm(dim=3)})
    found = run(shared, forms, epochs=1).recommender
    assert found.spec.forms == forms
    left = run(shared, Forms(fields=("user",)), epochs=1).recommender
    assert list(left.spec.forms.tables) == ["item"]


def test_the_rest_is_trained_where_tables_are_packed_or_refused(shared: Dataset) -> None:
    plain = run(shared, Forms(tables={"user": TableForm(), "item": TableForm()}), epochs=1)
    packed = formed(
        plain.recommender, Forms(tables={"user": TableForm(bits=8), "item": TableForm()})
    )
    with pytest.raises(ConfigError, match=r"looked up only and cannot be trained: 'user'; train"):
        train(shared, packed.spec, TrainConfig.from_dict(FAST), start=_start(packed))
    whole = formed(plain.recommender, Forms(layers={"net.tower.0": LayerForm(bits=8)}))
    before = {name: t.clone() for name, t in whole.to_tensors().items()}
    config = TrainConfig.from_dict({**FAST, "epochs": 1, "patience": -1})
    found = train(shared, whole.spec, config, start=_start(whole))
    after = found.recommender.to_tensors()
    assert torch.equal(after["net.tower.0.codes"], before["net.tower.0.codes"])
    # What lies below the layer of whole numbers is trained through it.
    assert not torch.equal(after["tables.user.weight"], before["tables.user.weight"])


def _start(recommender: Any) -> Start:
    from scalerec.models.growing import GrownRows

    return Start(recommender, "", GrownRows({}))


def test_a_schema_writes_embeddings_only_where_there_are_some() -> None:
    schema = Schema.from_dict(SCHEMA)
    assert schema.embeddings["item"] == Embedding(sharing="hash", rows=9, dim=64)
    assert Schema.from_dict(schema.to_dict()) == schema
    plain = schema.replace(embeddings={})
    assert "embeddings" not in plain.to_dict()
    assert "embeddings" not in plain.to_toml()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"film": {"dim": 3}}, r"embeddings must name vocabularies: item, user; got 'film'"),
        ({"user": {"rows": 3}}, r"needs both rows and sharing; got rows=3 and sharing='own'"),
        ({"user": {"sharing": "hash"}}, r"needs both rows and sharing; got rows=0 and sharing='h"),
        ({"user": {"dim": -1}}, r"dim of an embedding must be at least 0; got -1"),
        ({"user": {"sharing": "mean"}}, r"sharing must be one of own, hash, quotient; got 'mean'"),
    ],
)
def test_choices_are_checked(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema.from_dict({**SCHEMA, "embeddings": choice})
