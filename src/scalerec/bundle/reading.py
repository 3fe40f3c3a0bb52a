"""Open a bundle, or refuse it with the file that is wrong and the reason."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from scalerec.bundle.bundle import Bundle
from scalerec.bundle.files import check_file, file_digest, inside, is_weights
from scalerec.bundle.folder import is_partial, left_aside
from scalerec.bundle.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from scalerec.bundle.weights import check_shard, hash_shard, read_header
from scalerec.errors import BundleError

__all__ = ["read_bundle"]

# Hashing releases the interpreter's lock; more threads than this wait for the disk.
_MAX_THREADS = 4


def read_bundle(
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    base: "str | os.PathLike[str] | Bundle | None" = None,
) -> Bundle:
    """Open a bundle; tensors and tables are read when they are asked for.

    Names, sizes, dtypes and shapes are always checked against the manifest, and the manifest
    against its own digests. Nothing that is read is ever executed.

    Args:
        path: The bundle's directory.
        verify: Hash every file and every tensor, in a stream. Without it a changed byte of a weight
            is not found; fit for a bundle that this process has just written or verified.
        base: The bundle that a delta stands on, or where it is; by default where it was when the
            delta was written, seen from the delta's directory.

    Raises:
        BundleError: If the bundle is incomplete, changed, unsafe, of a later format, or its base is
            another one.
    """
    folder = Path(path).absolute()
    try:
        manifest = _read_manifest(folder)
        _check_files(folder, manifest, verify)
        found = _find_base(folder, manifest, verify, base)
        bundle = Bundle(folder, manifest, found)
        _check_rows(bundle)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return bundle


def _read_manifest(folder: Path) -> Manifest:
    if is_partial(folder):
        raise BundleError(f"{folder}: is an unfinished write, not a bundle; it can be removed")
    if not folder.exists():
        aside = left_aside(folder)
        hint = f"; an overwrite that was cut short left the old one at {aside[0]}" if aside else ""
        raise BundleError(f"{folder}: does not exist{hint}")
    if not folder.is_dir():
        raise BundleError(f"{folder}: is a file; a bundle is a directory")
    if not os.path.lexists(folder / MANIFEST):
        raise BundleError(f"{folder}: has no {MANIFEST}, so it is not a bundle")
    path = inside(folder, MANIFEST)
    return parse_manifest(path.read_bytes(), str(path))


def _check_files(folder: Path, manifest: Manifest, verify: bool) -> None:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("weights-") and path.name not in manifest.files:
            raise BundleError(f"{path}: is not in the manifest; a bundle has no other weights")
    for name, entry in manifest.files.items():
        check_file(folder, name, entry.size)
    checks: list[Callable[[], None]] = []
    for name, entry in manifest.files.items():
        if is_weights(name):
            checks.append(partial(_check_weights, folder / name, entry, manifest, verify))
        elif verify:
            checks.append(partial(_check_table, folder / name, entry))
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in pool.map(lambda check: check(), checks):
            pass


def _check_table(path: Path, entry: FileEntry) -> None:
    _compare(path, file_digest(path), entry)


def _check_weights(path: Path, entry: FileEntry, manifest: Manifest, verify: bool) -> None:
    entries = manifest.entries_of(path.name)
    if not verify:
        check_shard(path, read_header(path), entries)
        return
    found, digests = hash_shard(path)
    _compare(path, found, entry)
    check_shard(path, read_header(path), entries)
    for name, tensor in entries.items():
        if digests[name] != tensor.sha256:
            raise BundleError(
                f"{path}: tensor {name!r} has SHA-256 {digests[name]}, the index says "
                f"{tensor.sha256}"
            )


def _compare(path: Path, found: str, entry: FileEntry) -> None:
    if found != entry.sha256:
        raise BundleError(
            f"{path}: was changed: its SHA-256 is {found}, the manifest says {entry.sha256}"
        )


def _find_base(
    folder: Path, manifest: Manifest, verify: bool, given: "str | os.PathLike[str] | Bundle | None"
) -> Bundle | None:
    if manifest.base is None:
        if given is not None:
            raise BundleError(f"{folder}: is a whole bundle; only a delta takes base=")
        return None
    wanted = manifest.base.digest
    if isinstance(given, Bundle):
        _compare_base(folder, wanted, given.path, given.digest)
        return given
    place = folder.resolve() / manifest.base.path if given is None else Path(given).absolute()
    # The digest is compared before the base is opened, so a delta that names itself ends here.
    if not (place / MANIFEST).is_file():
        raise BundleError(
            f"{folder}: is a delta of the bundle {wanted}, and {place} holds none; say where it is "
            "with base="
        )
    _compare_base(folder, wanted, place, _read_manifest(place).digest)
    return read_bundle(place, verify=verify)


def _compare_base(folder: Path, wanted: str, place: Path, found: str) -> None:
    if found != wanted:
        raise BundleError(
            f"{folder}: is a delta of the bundle {wanted}; the one at {place} is {found}"
        )


def _check_rows(bundle: Bundle) -> None:
    """Refuse a delta whose rows cannot belong to its base; their numbers are checked when read."""
    if bundle.base is None:
        return
    known, stored = bundle.base.tensor_infos(), bundle.manifest.tensors
    for name, entry in bundle.manifest.rows.items():
        before, values, rows = known.get(name), stored[entry.values], stored[entry.rows]
        if before is None:
            raise BundleError(f"{bundle.path}: changes rows of {name!r}, which its base lacks")
        after = (len(rows.shape), rows.dtype, values.dtype, entry.shape[1:])
        grows = entry.shape[:1] >= before.shape[:1]
        if after != (1, "int64", before.dtype, before.shape[1:]) or not grows:
            raise BundleError(f"{bundle.path}: rows of {name!r} do not fit the base's tensor")
