"""Recommenders in and out of bundles: model, encoders, catalogue and users together."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from scalerec.bundle.adaptation import (
    ADAPTATION,
    Adaptation,
    adaptation_of,
    model_settings,
    model_tensors,
    pack_rates,
    rates_of,
)
from scalerec.bundle.bundle import Bundle
from scalerec.bundle.contents import Contents
from scalerec.bundle.lineage import Step
from scalerec.bundle.pieces import Pieces
from scalerec.bundle.reading import read_bundle
from scalerec.bundle.writing import write_bundle
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.frames import batch_from_table, batch_to_table
from scalerec.data.growing import fault_of_growth
from scalerec.data.layout import Layout
from scalerec.data.schema import Role
from scalerec.errors import BundleError, ScalerecError
from scalerec.models.recommender import ModelSpec, Recommender

__all__ = [
    "RECOMMENDER",
    "OpenRecommender",
    "check_encoders",
    "copy_tensors",
    "open_recommender",
    "same_encoders",
    "write_recommender",
]

RECOMMENDER = "recommender"


@dataclass(frozen=True, slots=True)
class OpenRecommender:
    """A bundle that was read and is ready to score.

    Args:
        bundle: The verified bundle.
        recommender: Its model, in evaluation mode.
        encoders: Its encoders.
        items: The catalogue as a batch, ``[I]``; no rows if the schema has no item.
        item_keys: Keys of the items by number.
        titles: What a person calls them.
        item_counts: How often each was met in training, ``[I]``.
        users: The known users as a batch, ``[U]``, with histories as at the end of training.
        user_keys: Their keys by number.
        met: For every user the numbers of the items met in training.
        item_numbers: Key of an item to its number.
        user_numbers: Key of a user to the user's number.
        adaptation: How it adapts; None where nobody learned it.
        rates: Of adapting, by the adapted parameter's name.
    """

    bundle: Bundle
    recommender: Recommender
    encoders: Encoders
    items: Batch
    item_keys: list[str]
    titles: list[str]
    item_counts: NDArray[np.int64]
    users: Batch
    user_keys: list[str]
    met: pa.Array
    item_numbers: dict[str, int] = field(repr=False)
    user_numbers: dict[str, int] = field(repr=False)
    adaptation: Adaptation | None = None
    rates: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def layout(self) -> Layout:
        """The layout of its batches."""
        return self.recommender.layout


def write_recommender(
    path: str | Path,
    recommender: Recommender,
    dataset: Dataset,
    lineage: tuple[Step, ...],
    *,
    overwrite: bool = False,
    pieces: Mapping[str, Pieces] | None = None,
    adaptation: Adaptation | None = None,
    rates: Mapping[str, torch.Tensor] | None = None,
) -> Bundle:
    """Write a recommender as a bundle.

    Args:
        path: The directory to make.
        recommender: The trained model.
        dataset: Gives the encoders, the catalogue and the users.
        lineage: Every step that led here; the last is this one.
        overwrite: Whether a bundle at `path` may be replaced.
        pieces: By name, tensors that it does not hold whole, in place of what it holds of them.
        adaptation: How it adapts, if somebody learned it; then these parts alone are adaptable.
        rates: Of adapting, by the adapted parameter's name.

    Raises:
        BundleError: If `path` exists, or cannot be written.
    """
    pieces = pieces or {}
    tensors = recommender.to_tensors()
    spec: dict[str, Any] = {"kind": RECOMMENDER, **recommender.spec.to_dict()}
    adaptable: tuple[str, ...] = ("*",)
    if adaptation is not None:
        numbers, own = pack_rates(rates or {})
        spec[ADAPTATION] = replace(adaptation, rates=numbers).to_dict()
        tensors |= own
        adaptable = _adaptable(recommender, adaptation)
    contents = Contents(
        schema=dataset.schema.to_dict(),
        spec=spec,
        layout=dataset.layout.to_dict(),
        adaptable=adaptable,
        lineage=lineage,
        tensors={name: tensor for name, tensor in tensors.items() if name not in pieces},
        pieces=pieces,
        encoders=dataset.encoders.to_table(),
        catalogue=_catalogue(dataset),
        users=_users(dataset),
    )
    return write_bundle(path, contents, overwrite=overwrite)


def _adaptable(recommender: Recommender, adaptation: Adaptation) -> tuple[str, ...]:
    if not adaptation.own:
        return tuple(sorted(adaptation.parts))
    tables = {field.name: field.table for field in recommender.layout.ids}
    table = f"tables.{tables[adaptation.key]}."
    own = [name for name in recommender.to_tensors() if name.startswith(table)]
    return tuple(sorted([*adaptation.parts, *own]))


def open_recommender(path: str | Path, *, verify: bool = True) -> OpenRecommender:
    """Read a recommender's bundle.

    Args:
        path: The bundle.
        verify: Whether every file's digest is checked.

    Raises:
        BundleError: If it is not whole, was changed, or holds something else than a recommender.
    """
    bundle = read_bundle(path, verify=verify)
    kind = bundle.spec.get("kind")
    if kind != RECOMMENDER:
        raise BundleError(f"{path}: holds a {kind!r}; this needs a {RECOMMENDER!r}")
    try:
        return _open(bundle)
    except (ScalerecError, KeyError, RuntimeError, ValueError, pa.ArrowException) as error:
        raise BundleError(f"{path}: its parts do not fit together: {error}") from error


def _open(bundle: Bundle) -> OpenRecommender:
    if bundle.encoders is None:
        raise BundleError("encoders.arrow is missing")
    spec = ModelSpec.from_dict(model_settings(bundle.spec), "spec")
    layout = Layout.from_dict(bundle.layout, "layout")
    # The tables are not drawn, since they are loaded at once.
    recommender = Recommender(layout, spec, torch.Generator().manual_seed(0), draw_tables=False)
    tensors, adaptation = bundle.tensors(), adaptation_of(bundle)
    recommender.load_tensors(model_tensors(tensors))
    items, users = _tables(bundle)
    item_keys, user_keys = items["key"].to_pylist(), users["key"].to_pylist()
    return OpenRecommender(
        bundle=bundle,
        recommender=recommender.eval(),
        encoders=Encoders.from_table(bundle.encoders),
        items=batch_from_table(layout, items),
        item_keys=item_keys,
        titles=items["title"].to_pylist(),
        item_counts=items["count"].to_numpy(),
        users=batch_from_table(layout, users),
        user_keys=user_keys,
        met=_whole(users["met"]),
        item_numbers={key: number for number, key in enumerate(item_keys)},
        user_numbers={key: number for number, key in enumerate(user_keys)},
        adaptation=adaptation,
        rates={} if adaptation is None else rates_of(adaptation, tensors),
    )


def _tables(bundle: Bundle) -> tuple[pa.Table, pa.Table]:
    text, none = pa.array([], pa.string()), pa.array([], pa.int64())
    items, users = bundle.catalogue, bundle.users
    if items is None:
        items = pa.table({"key": text, "title": text, "count": none})
    if users is None:
        users = pa.table({"key": text, "met": pa.array([], pa.large_list(pa.int32()))})
    return items, users


def _catalogue(dataset: Dataset) -> pa.Table | None:
    if not dataset.num_items:
        return None
    columns = {
        "key": _whole(dataset.item_table["key"]),
        "title": _whole(dataset.item_table["title"]),
        "count": pa.array(dataset.item_counts),
    }
    return batch_to_table(dataset.layout, dataset.items, [Role.ITEM], columns)


def _users(dataset: Dataset) -> pa.Table | None:
    if not dataset.num_users:
        return None
    columns = {"key": _whole(dataset.user_table["key"]), "met": _met(dataset)}
    return batch_to_table(dataset.layout, dataset.users, [Role.USER], columns)


def _met(dataset: Dataset) -> pa.Array:
    """Items that each user met in training rows, which a list should not repeat."""
    none = np.zeros(0, np.int64)
    if not dataset.num_items:
        return pa.LargeListArray.from_arrays(
            pa.array(np.zeros(dataset.num_users + 1, np.int64)), pa.array(none.astype(np.int32))
        )
    events, (before, met) = dataset.split("train"), dataset.met_before
    users = np.concatenate([before, np.asarray(events.column("user"))])
    met = np.concatenate([met, np.asarray(events.column("item"))])
    pairs = np.unique(users * dataset.num_items + met)
    counts = np.bincount(pairs // dataset.num_items, minlength=dataset.num_users)
    offsets = np.concatenate([none, [0], np.cumsum(counts)]).astype(np.int64)
    items = (pairs % dataset.num_items).astype(np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(items))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) and whole.num_chunks else whole


def same_encoders(one: Encoders, other: Encoders) -> bool:
    """Whether both encoders give the same ids for the same values."""
    first, second = one.to_table(), other.to_table()
    return bool(first.equals(second, check_metadata=True))


def check_encoders(opened: OpenRecommender, dataset: Dataset) -> None:
    """Refuse a data set whose ids do not mean what the bundle's do.

    One from which the bundle's encoders have grown fits too: an id belongs to the same key still,
    or, if it is retired, to what is out-of-vocabulary.

    Raises:
        BundleError: If they mean something else.
    """
    if fault := fault_of_growth(opened.encoders, dataset.encoders):
        raise BundleError(
            f"{dataset.directory} was encoded differently from what {opened.bundle.path} was "
            f"trained on, so its ids mean something else: {fault}; use the data set it was trained "
            "on, or prepare it with --continue"
        )


def copy_tensors(recommender: Recommender) -> dict[str, torch.Tensor]:
    """A copy of every tensor of a recommender, to go back to."""
    return {name: tensor.clone() for name, tensor in recommender.to_tensors().items()}
