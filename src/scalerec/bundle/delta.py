"""Write a delta: a base's digest, and the tensors and rows that changed."""

import dataclasses
import os
from pathlib import Path

import torch
from torch import Tensor

from scalerec.bundle.bundle import Bundle
from scalerec.bundle.contents import Changes, Contents
from scalerec.bundle.folder import new_folder
from scalerec.bundle.manifest import MANIFEST, BaseEntry, RowsEntry
from scalerec.bundle.reading import read_bundle
from scalerec.bundle.weights import SHARD_BYTES
from scalerec.bundle.writing import check_parts, fill, manifest_of
from scalerec.errors import BundleError

__all__ = ["write_delta"]


def write_delta(
    path: str | os.PathLike[str],
    base: Bundle,
    changes: Changes,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Bundle:
    """Write what changed since `base`, so that adapting one user does not copy a table.

    The delta has a digest of its own, which covers the base's; it is not the digest of the whole
    that the two make together. ``write_bundle(path, delta.contents())`` writes that whole.

    Args:
        path: The directory to make.
        base: What the changes stand on, a delta too; it must stay readable, here or elsewhere.
        changes: The verb's step, and what is new.
        overwrite: Replace a bundle at `path`; never the base.
        shard_bytes: The largest size of a weights file in bytes, unless one tensor is larger.

    Returns:
        The delta, opened: it reads like any bundle.

    Raises:
        BundleError: If the step does not name the base, a change does not fit it, `path` exists, or
            the operating system refuses.
        ConfigError: If a new schema, spec or layout is not as it must be.
    """
    place = Path(path).resolve()
    if place == base.path.resolve():
        raise BundleError(f"{place}: is the base; a delta needs a place of its own")
    if base.digest not in changes.step.parents:
        raise BundleError(f"the step of a delta must name its base {base.digest} among its parents")
    stored, rows = _stored(base, changes)
    tables = {
        "encoders.arrow": changes.encoders,
        "catalogue.arrow": changes.catalogue,
        "users.arrow": changes.users,
    }
    check_parts(stored, tables, shard_bytes)
    manifest = dataclasses.replace(
        manifest_of(_described(base, changes)),
        base=BaseEntry(digest=base.digest, path=os.path.relpath(base.path.resolve(), place)),
        rows=rows,
    )
    with new_folder(place, marker=MANIFEST, overwrite=overwrite) as draft:
        fill(draft, manifest, stored, tables, shard_bytes)
    return read_bundle(place, verify=False, base=base)


def _described(base: Bundle, changes: Changes) -> Contents:
    """Give the contents whose plain parts the delta's manifest states in full."""
    return Contents(
        schema=base.schema if changes.schema is None else changes.schema,
        spec=base.spec if changes.spec is None else changes.spec,
        layout=base.layout if changes.layout is None else changes.layout,
        adaptable=base.adaptable if changes.adaptable is None else changes.adaptable,
        lineage=(*base.lineage, changes.step),
        tensors={},
    )


def _stored(base: Bundle, changes: Changes) -> tuple[dict[str, Tensor], dict[str, RowsEntry]]:
    """Name the tensors that a delta stores: changed ones whole, and two for each change of rows."""
    stored = dict(changes.tensors)
    rows: dict[str, RowsEntry] = {}
    known = base.tensor_infos()
    for name, change in sorted(changes.rows.items()):
        if name not in known:
            raise BundleError(f"rows of {name!r} cannot change: the base has no such tensor")
        if name in changes.tensors:
            raise BundleError(f"{name!r} is given twice: as a whole tensor and as rows")
        before = known[name]
        shape = change.shape_after(name, getattr(torch, before.dtype), before.shape)
        keys = (_free(f"{name}:rows", stored), _free(f"{name}:values", stored))
        ordered = change.ordered()
        stored |= {keys[0]: ordered.rows, keys[1]: ordered.values}
        rows[name] = RowsEntry(rows=keys[0], values=keys[1], shape=shape)
    return stored, rows


def _free(name: str, taken: dict[str, Tensor]) -> str:
    while name in taken:
        name += "'"
    return name
