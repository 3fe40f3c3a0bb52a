"""The bundle: a directory that holds a recommender whole, verified whenever it is read.

What needs the models is loaded when it is first used, so that reading a bundle stays light.
"""

import importlib
from typing import TYPE_CHECKING, Any

from scalerec.bundle.adaptable import adaptable_names, require_adaptable
from scalerec.bundle.bundle import Bundle, TensorInfo
from scalerec.bundle.contents import Changes, Contents, RowChange
from scalerec.bundle.delta import write_delta
from scalerec.bundle.lineage import Step
from scalerec.bundle.manifest import FORMAT, FileEntry
from scalerec.bundle.reading import read_bundle
from scalerec.bundle.writing import write_bundle

if TYPE_CHECKING:
    from scalerec.bundle.growing import base_of, grow_bundle, recommender_for
    from scalerec.bundle.recommenders import (
        OpenRecommender,
        check_encoders,
        open_recommender,
        write_recommender,
    )

__all__ = [
    "FORMAT",
    "Bundle",
    "Changes",
    "Contents",
    "FileEntry",
    "OpenRecommender",
    "RowChange",
    "Step",
    "TensorInfo",
    "adaptable_names",
    "base_of",
    "check_encoders",
    "grow_bundle",
    "open_recommender",
    "read_bundle",
    "recommender_for",
    "require_adaptable",
    "write_bundle",
    "write_delta",
    "write_recommender",
]

_OF_MODELS = {
    **dict.fromkeys(("base_of", "grow_bundle", "recommender_for"), "growing"),
    **dict.fromkeys(
        ("OpenRecommender", "check_encoders", "open_recommender", "write_recommender"),
        "recommenders",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _OF_MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scalerec.bundle.{_OF_MODELS[name]}"), name)
    globals()[name] = value
    return value
