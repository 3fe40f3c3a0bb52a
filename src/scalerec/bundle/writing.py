"""Write a bundle: whole or not at all."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from scalerec.bundle.bundle import Bundle
from scalerec.bundle.canonical import json_ready
from scalerec.bundle.contents import Contents
from scalerec.bundle.files import file_digest, write_file
from scalerec.bundle.folder import new_folder
from scalerec.bundle.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    TensorEntry,
    content_digest,
    render_manifest,
)
from scalerec.bundle.pieces import Pieces, write_pieces
from scalerec.bundle.reading import read_bundle
from scalerec.bundle.tables import write_table
from scalerec.bundle.weights import (
    SHARD_BYTES,
    check_tensor,
    hash_shard,
    plan_shards,
    read_header,
    write_shard,
)
from scalerec.config import require

__all__ = ["check_parts", "fill", "manifest_of", "write_bundle"]


def write_bundle(
    path: str | os.PathLike[str],
    contents: Contents,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Bundle:
    """Write a whole bundle under a temporary name, wait for the disk, and rename it.

    Args:
        path: The directory to make; missing parents are made too.
        contents: What it is to hold.
        overwrite: Replace a bundle at `path`, attachments too; nothing but a bundle is replaced.
        shard_bytes: The largest size of a weights file in bytes, unless one tensor is larger. It
            has no influence on the digest.

    Returns:
        The bundle, opened.

    Raises:
        BundleError: If `path` exists, a tensor cannot be stored, or the operating system refuses;
            then nothing is left.
        ConfigError: If schema, spec, layout or `shard_bytes` is not as it must be.
    """
    place = Path(path).resolve()
    tables = {
        "encoders.arrow": contents.encoders,
        "catalogue.arrow": contents.catalogue,
        "users.arrow": contents.users,
    }
    manifest = manifest_of(contents)
    check_parts(contents.tensors, tables, shard_bytes)
    both = contents.tensors.keys() & contents.pieces.keys()
    require(not both, f"tensors must come whole or in pieces, not both; got {sorted(both)}")
    with new_folder(place, marker=MANIFEST, overwrite=overwrite) as draft:
        fill(draft, manifest, {**contents.tensors, **contents.pieces}, tables, shard_bytes)
    return read_bundle(place, verify=False)


def manifest_of(contents: Contents) -> Manifest:
    """Give the manifest of contents whose tensors and tables are not written yet.

    Raises:
        ConfigError: If schema, spec, layout or adaptable names are not as they must be.
    """
    spec = json_ready(contents.spec, "spec")
    require(isinstance(spec.get("kind"), str), f"spec.kind must be text; got {spec.get('kind')!r}")
    for name in contents.adaptable:
        require(isinstance(name, str), f"adaptable must be names; got {name!r}")
    return Manifest(
        schema=json_ready(contents.schema, "schema"),
        spec=spec,
        layout=json_ready(contents.layout, "layout"),
        adaptable=tuple(sorted(set(contents.adaptable))),
        lineage=tuple(contents.lineage),
        tensors={},
        files={},
    )


def check_parts(
    tensors: Mapping[str, Tensor], tables: Mapping[str, pa.Table | None], shard_bytes: int
) -> None:
    """Refuse what cannot be stored before anything is written.

    Raises:
        BundleError: If a tensor cannot be stored.
        ConfigError: If a table is not an Arrow table, or `shard_bytes` is not positive.
    """
    require(shard_bytes > 0, f"shard_bytes must be positive; got {shard_bytes}")
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    for name, table in tables.items():
        good = table is None or isinstance(table, pa.Table)
        require(good, f"{name} must be an Arrow table; got {type(table).__name__}")


def fill(
    draft: Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor | Pieces],
    tables: Mapping[str, pa.Table | None],
    shard_bytes: int,
) -> None:
    """Write every file into a directory, the manifest as the last.

    The digests are those of the written files, read back, not of the tensors in memory.

    Args:
        draft: An empty directory.
        manifest: The manifest, without tensors and files.
        tensors: Name to tensor; one that comes in pieces is never whole in memory.
        tables: File name to table, or to none.
        shard_bytes: The largest size of a weights file in bytes.
    """
    entries: dict[str, TensorEntry] = {}
    files: dict[str, FileEntry] = {}
    num_bytes = {name: tensor.nbytes for name, tensor in tensors.items()}
    for file, names in plan_shards(num_bytes, shard_bytes).items():
        path = draft / file
        whole = {name: tensor for name in names if isinstance(tensor := tensors[name], Tensor)}
        if len(whole) == len(names):
            write_shard(path, whole)
        else:
            write_pieces(path, {name: tensors[name] for name in names})
        sha256, digests = hash_shard(path)
        files[file] = FileEntry(size=path.stat().st_size, sha256=sha256)
        for name, stored in read_header(path).items():
            entries[name] = TensorEntry(
                file=file, dtype=stored.dtype, shape=stored.shape, sha256=digests[name]
            )
    for file, table in tables.items():
        if table is not None:
            path = draft / file
            write_table(path, table)
            files[file] = FileEntry(size=path.stat().st_size, sha256=file_digest(path))
    full = dataclasses.replace(manifest, tensors=dict(sorted(entries.items())), files=files)
    full = dataclasses.replace(full, digest=content_digest(full))
    write_file(draft / MANIFEST, render_manifest(full))
