"""Files that are kept beside a bundle: evaluations, curves, reports.

They do not belong to the bundle's digest; instead each names it. `attachments/index.json` lists
them with their sizes and digests; a JSON attachment names the bundle in its own text too, so that
it can be understood when it is copied away. A file that the index does not list is no attachment.
"""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalerec.bundle.canonical import check_seal, json_ready, load_table, render, sealed
from scalerec.bundle.files import inside, sync_folder, write_file
from scalerec.bundle.manifest import FileEntry
from scalerec.config import Config, require
from scalerec.errors import BundleError, ConfigError

__all__ = ["attach", "list_attachments", "read_attachment"]

FOLDER = "attachments"
INDEX = "index.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Index(Config):
    bundle: str
    files: dict[str, FileEntry] = field(default_factory=dict)


def attach(
    bundle: Path, digest: str, name: str, value: Mapping[str, Any] | bytes, overwrite: bool
) -> Path:
    """Write an attachment, then list it.

    Args:
        bundle: The bundle's directory.
        digest: The bundle's digest.
        name: Letters, digits, dots, underscores, hyphens; ``.json`` at the end of a table's name.
        value: A JSON table, or bytes.
        overwrite: Replace an attachment of that name.

    Raises:
        BundleError: If the name is taken, or the operating system refuses.
        ConfigError: If the name is not allowed, or the value is not JSON.
    """
    content = _content(digest, name, value)
    folder = bundle / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise BundleError(f"{folder}: is a link; attachments are kept in the bundle itself")
        with _locked(folder):
            files = dict(_read_index(bundle, digest).files)
            if name in files:
                if not overwrite:
                    raise BundleError(f"{folder / name}: exists; pass overwrite=True")
                # Not listed while it is replaced: a kill in between leaves no wrong digest.
                del files[name]
                _write_index(folder, digest, files)
            _replace(folder / name, content)
            sha256 = hashlib.sha256(content).hexdigest()
            files[name] = FileEntry(size=len(content), sha256=sha256)
            _write_index(folder, digest, files)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError(f"{folder / name}: cannot be written: {reason}") from error
    return folder / name


def list_attachments(bundle: Path, digest: str) -> dict[str, FileEntry]:
    """Give the attachments of a bundle: name to size and SHA-256, sorted by name.

    Raises:
        BundleError: If the index was cut short or belongs to another bundle.
    """
    return dict(sorted(_read_index(bundle, digest).files.items()))


def read_attachment(bundle: Path, digest: str, name: str) -> bytes:
    """Give the bytes of an attachment, verified.

    Raises:
        BundleError: If there is none of that name, or it was changed.
    """
    files = list_attachments(bundle, digest)
    if name not in files:
        found = ", ".join(files) or "none"
        raise BundleError(f"{bundle}: has no attachment {name!r}; it has: {found}")
    _check_name(name)
    content = inside(bundle, f"{FOLDER}/{name}").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != files[name].sha256:
        raise BundleError(
            f"{bundle / FOLDER / name}: was changed: its SHA-256 is {found}, the index says "
            f"{files[name].sha256}"
        )
    return content


def _content(digest: str, name: str, value: Mapping[str, Any] | bytes) -> bytes:
    _check_name(name)
    if isinstance(value, bytes):
        return value
    require(name.endswith(".json"), f"the name of a JSON attachment ends in .json; got {name!r}")
    named = value.get("bundle", digest)
    require(named == digest, f"{name} names the bundle {named}; it is attached to {digest}")
    return render({"bundle": digest, **json_ready(value, name)})


def _check_name(name: str) -> None:
    good = _NAME.fullmatch(name) is not None and name != INDEX
    allowed = f"letters, digits, '.', '_' and '-', at most 128, not {INDEX}"
    require(good, f"the name of an attachment must be {allowed}; got {name!r}")


def _read_index(bundle: Path, digest: str) -> _Index:
    path = bundle / FOLDER / INDEX
    if not os.path.lexists(path):
        return _Index(bundle=digest)
    text = inside(bundle, f"{FOLDER}/{INDEX}").read_bytes()
    try:
        index = _Index.from_dict(check_seal(load_table(text, str(path)), text, str(path)))
    except ConfigError as error:
        raise BundleError(f"{path}: malformed: {error}") from error
    if index.bundle != digest:
        raise BundleError(f"{path}: belongs to the bundle {index.bundle}, not to {digest}")
    return index


def _write_index(folder: Path, digest: str, files: Mapping[str, FileEntry]) -> None:
    index = _Index(bundle=digest, files=dict(sorted(files.items())))
    _replace(folder / INDEX, sealed(index.to_dict()))


def _replace(path: Path, content: bytes) -> None:
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        write_file(draft, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change the index; the lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
