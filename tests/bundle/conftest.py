"""Small contents of every kind, and ways to spoil a bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from scalerec.bundle import Contents, Step
from scalerec.bundle.canonical import sealed

MakeContents = Callable[..., Contents]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def make_contents() -> MakeContents:
    """Give contents that are equal on every call, save what the caller replaces."""

    def make(**changes: Any) -> Contents:
        generator = torch.Generator().manual_seed(7)
        parts: dict[str, Any] = {
            "schema": {"features": {"user": "id", "item": "id"}},
            "spec": {"kind": "recommender", "name": "deepfm", "rate": 0.1},
            "layout": {"tables": {"user": 20, "item": 30}},
            "adaptable": ("head.*", "bias"),
            "lineage": (Step(verb="train", settings={"seed": 1}, data="d" * 64),),
            "tensors": {
                "table.item": torch.randn(30, 4, generator=generator),
                "table.user": torch.randn(20, 4, generator=generator),
                "head.weight": torch.randn(3, 8, generator=generator),
                "bias": torch.randn((), generator=generator),
            },
            "encoders": pa.table({"name": ["user", "item"], "size": [20, 30]}),
            "catalogue": pa.table({"item": [1, 2, 3], "title": ["A", "B", None]}),
            "users": None,
        }
        return Contents(**{**parts, **changes})

    return make


@pytest.fixture
def edit_manifest() -> Callable[[Path, Edit], None]:
    """Change a manifest as an attacker would, who computes the seal anew."""

    def edit(folder: Path, change: Edit) -> None:
        path = folder / "manifest.json"
        plain = json.loads(path.read_text())
        del plain["seal"]
        change(plain)
        path.write_bytes(sealed(plain))

    return edit
