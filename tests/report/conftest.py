"""A small recommender's bundle, and attachments of every kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scalerec.bundle import Bundle, Contents, Step, write_bundle

MakeBundle = Callable[..., Bundle]

SCHEMA = {
    "features": [
        {"name": "user_id", "kind": "categorical"},
        {"name": "age", "kind": "numeric"},
        {"name": "time", "kind": "timestamp"},
        {"name": "history", "kind": "sequence"},
    ],
    "tasks": [{"name": "liked"}, {"name": "watched"}],
}
LAYOUT = {
    "ids": [
        {"name": "user_id", "role": "user", "table": "user_id"},
        {"name": "time.hour", "role": "context", "table": "time.hour"},
    ],
    "numbers": [{"name": "age", "role": "user"}],
    "bags": [
        {
            "name": "history",
            "role": "user",
            "table": "item_id",
            "max_length": 50,
            "history": True,
        }
    ],
    "vectors": [{"name": "poster", "role": "item", "dim": 8}],
    "tables": {"user_id": 20_000, "time.hour": 26, "item_id": 30},
}
LINEAGE = (
    Step(
        verb="prepare",
        settings={
            "name": "films",
            "split": {"by": "time"},
            "notes": ["cite: Somebody, Films, 2015", "A plain note."],
        },
        data="d" * 64,
        seconds=200.0,
        time="2026-11-02T09:00:00+00:00",
    ),
    Step(
        verb="train",
        settings={"epochs": 10, "dense": {"lr": 0.001}, "metric": "", "hidden": [64, 32]},
        data="d" * 64,
        ledger={"epsilon": 2.0},
        time="2026-11-02T09:05:00+00:00",
    ),
)


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle, with what the caller replaces."""

    def make(**changes: Any) -> Bundle:
        parts: dict[str, Any] = {
            "schema": SCHEMA,
            "spec": {"kind": "recommender", "model": "deepfm", "settings": {"dim": 3}},
            "layout": LAYOUT,
            "lineage": LINEAGE,
            "tensors": {
                "tables.user_id.weight": torch.zeros(20, 4),
                "tables.time.hour.weight": torch.zeros(5, 4),
                "tables.user_id.rows": torch.arange(7),
                "net.tower.0.weight": torch.zeros(10, 9),
                "net.tower.0.bias": torch.zeros(10),
                "bias": torch.zeros(()),
            },
        }
        return write_bundle(tmp_path / "bundle", Contents(**{**parts, **changes}))

    return make


@pytest.fixture
def attachments() -> dict[str, dict[str, Any]]:
    """One attachment of every kind, by file name."""
    steps = [
        {"step": i, "epoch": i / 10, "train/loss": 1 / i, **({"valid/auc": 0.7} if i > 5 else {})}
        for i in range(1, 21)
    ]
    bins = [
        {
            "low": i / 4,
            "high": (i + 1) / 4,
            "mean_score": None if i == 3 else i / 4 + 0.1,
            "share_positive": None if i == 3 else i / 4,
            "count": 0 if i == 3 else 100 * i + 1,
        }
        for i in range(4)
    ]

    def trial(
        number: int, state: str, value: float | None, values: dict[str, Any], reason: str = ""
    ) -> dict[str, Any]:
        made = {"trial": number, "state": state, "value": value, "values": values}
        return {**made, "model": "deepfm", "epochs": 2.0, "seconds": 60.0, "reason": reason}

    item = {"rank": 1, "item": "7", "title": "Fargo", "score": 0.875}
    return {
        "evaluation-test.json": {
            "split": "test",
            "rows": 2000,
            "metrics": {"auc": 0.76543, "gauc": None, "ndcg@10": 0.125},
            "counts": {"undefined_groups": 3},
        },
        "baselines.json": {"rows": [{"name": "popularity", "metrics": {"ndcg@10": 0.0625}}]},
        "curves.json": {"steps": steps},
        "calibration.json": {"bins": bins, "split": "test"},
        "recommendations.json": {
            "users": [{"user": "42", "history": ["Alien", "Heat"], "items": [item]}]
        },
        "study.json": {
            "metric": "auc",
            "higher_is_better": True,
            "best": 3,
            "importance": {"dense.lr": 0.75, "model.dim": 0.25},
            "rows": [
                trial(1, "complete", 0.6, {}),
                trial(2, "pruned", 0.55, {"dense.lr": 0.00012345}),
                trial(3, "complete", 0.7, {"dense.lr": 0.002, "model.hidden": [64, 32]}),
                trial(4, "failed", None, {"dense.lr": 1.0}, "step 3: the loss is nan"),
            ],
        },
    }
