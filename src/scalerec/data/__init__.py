"""Data: from raw tables to batches.

`open_raw` finds tables and their `Schema`, `prepare` makes a `Dataset` of them, and its `Events`
give a model every `Batch`. Names are loaded when they are first used, so a reader of schemas does
not pay for tensors. The functions `prepare` and `simulate` are in the modules of their names.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalerec.data.batches import Bag, Batch, Vectors
    from scalerec.data.dataset import Dataset, Events
    from scalerec.data.encoding import Encoders
    from scalerec.data.features import (
        Categorical,
        Feature,
        Numeric,
        Role,
        Sequence,
        Text,
        Timestamp,
        Vector,
    )
    from scalerec.data.frames import batch_from_table, batch_to_table, empty_batch
    from scalerec.data.growing import GrowConfig
    from scalerec.data.joining import join_domains
    from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
    from scalerec.data.loading import Loader, read_in_order
    from scalerec.data.opening import open_raw
    from scalerec.data.pairing import pair
    from scalerec.data.prepare import PrepareConfig
    from scalerec.data.problems import Problem, Problems
    from scalerec.data.public import PUBLIC, open_public
    from scalerec.data.raw import RawData
    from scalerec.data.sampling import NegativeSampler
    from scalerec.data.schema import Schema, Table
    from scalerec.data.simulate import SimulatorConfig
    from scalerec.data.sources import Source, TableSource, open_source
    from scalerec.data.splits import SPLITS, SplitConfig
    from scalerec.data.suggesting import suggest_schema
    from scalerec.data.tasks import Task, TaskKind
    from scalerec.data.vocabulary import HashVocabulary, Vocabulary

__all__ = [
    "PUBLIC",
    "SPLITS",
    "Bag",
    "BagField",
    "Batch",
    "Categorical",
    "Dataset",
    "Encoders",
    "Events",
    "Feature",
    "GrowConfig",
    "HashVocabulary",
    "IdField",
    "Layout",
    "Loader",
    "NegativeSampler",
    "NumberField",
    "Numeric",
    "PrepareConfig",
    "Problem",
    "Problems",
    "RawData",
    "Role",
    "Schema",
    "Sequence",
    "SimulatorConfig",
    "Source",
    "SplitConfig",
    "Table",
    "TableSource",
    "Task",
    "TaskKind",
    "Text",
    "Timestamp",
    "Vector",
    "VectorField",
    "Vectors",
    "Vocabulary",
    "batch_from_table",
    "batch_to_table",
    "empty_batch",
    "join_domains",
    "open_public",
    "open_raw",
    "open_source",
    "pair",
    "read_in_order",
    "suggest_schema",
]

_HOMES = {
    "batches": ("Bag", "Batch", "Vectors"),
    "dataset": ("Dataset", "Events"),
    "encoding": ("Encoders",),
    "features": (
        "Categorical",
        "Feature",
        "Numeric",
        "Role",
        "Sequence",
        "Text",
        "Timestamp",
        "Vector",
    ),
    "frames": ("batch_from_table", "batch_to_table", "empty_batch"),
    "growing": ("GrowConfig",),
    "joining": ("join_domains",),
    "layout": ("BagField", "IdField", "Layout", "NumberField", "VectorField"),
    "loading": ("Loader", "read_in_order"),
    "opening": ("open_raw",),
    "pairing": ("pair",),
    "prepare": ("PrepareConfig",),
    "problems": ("Problem", "Problems"),
    "public": ("PUBLIC", "open_public"),
    "raw": ("RawData",),
    "sampling": ("NegativeSampler",),
    "schema": ("Schema", "Table"),
    "simulate": ("SimulatorConfig",),
    "sources": ("Source", "TableSource", "open_source"),
    "splits": ("SPLITS", "SplitConfig"),
    "suggesting": ("suggest_schema",),
    "tasks": ("Task", "TaskKind"),
    "vocabulary": ("HashVocabulary", "Vocabulary"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
