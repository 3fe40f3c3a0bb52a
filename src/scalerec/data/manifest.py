"""The manifest of a data set, its small Arrow files, and the digest over all of it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from scalerec.data.columns import check_digest
from scalerec.errors import DataError

__all__ = ["FORMAT", "MANIFEST", "read_arrow", "read_manifest", "write_arrow", "write_manifest"]

FORMAT = 1
MANIFEST = "manifest.json"
PARTS: dict[str, type] = {
    "name": str,
    "notes": list,
    "config": dict,
    "rows": dict,
    "skipped": int,
    "skipped_rows": list,
    "collisions": dict,
    "files": dict,
    "stores": dict,
    "digest": str,
}


def write_manifest(out: Path, parts: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of a data set.

    Args:
        out: The data set's directory, with everything else in it.
        parts: All of `PARTS` but the digest.
    """
    manifest = {"format": FORMAT, **parts, "digest": _digest(parts)}
    text = json.dumps(manifest, indent=1, sort_keys=True)
    (out / MANIFEST).write_text(text, "utf-8")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a data set.

    Raises:
        DataError: If there is none, it is not whole, or it is of a later format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(f"{directory}: no data set here (no {MANIFEST}); make one with: prepare")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable: {error}; prepare the data set again") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(found, int) or found < 1:
        raise DataError(f"{path}: not the manifest of a data set; its format is {found!r}")
    if found > FORMAT:
        raise DataError(
            f"{path}: format {found}; this version reads up to {FORMAT}; "
            "upgrade scalerec or prepare the data set again"
        )
    wrong = [name for name, kind in PARTS.items() if not isinstance(manifest.get(name), kind)]
    if wrong or manifest["digest"] != _digest(manifest):
        parts = f" ({', '.join(wrong)})" if wrong else ""
        raise DataError(f"{path}: not whole or changed{parts}; prepare the data set again")
    return manifest  # type: ignore[no-any-return]


def write_arrow(path: Path, table: pa.Table) -> str:
    """Write an Arrow file, and give its SHA-256."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with path.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()


def read_arrow(path: Path, sha256: str) -> pa.Table:
    """Read an Arrow file that must be as it was written.

    Raises:
        DataError: If it is missing or was changed.
    """
    check_digest(path, sha256)
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).read_all()


def _digest(parts: Mapping[str, Any]) -> str:
    """SHA-256 over the digests of all files: equal data give an equal digest."""
    covered = [parts["rows"], parts["files"], parts["stores"]]
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
