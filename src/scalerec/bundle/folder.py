"""A new directory appears whole or not at all.

It is filled under a hidden name beside its place, waited for until it is on the disk, and renamed.
A write that is killed leaves at most that hidden directory, ``.NAME.xxxxxxxx.partial``, which no
reader accepts. An overwrite that is killed between its two renames leaves the old directory as
``.NAME.xxxxxxxx.old``; the reader's message says so.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalerec.bundle.files import sync_folder
from scalerec.errors import BundleError

__all__ = ["is_partial", "left_aside", "new_folder"]

_PARTIAL = ".partial"
_OLD = ".old"


def is_partial(path: Path) -> bool:
    """Tell whether a path is that of an unfinished write."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def left_aside(path: Path) -> list[Path]:
    """Find what an overwrite that was cut short moved away from `path`."""
    if not path.parent.is_dir():
        return []
    return sorted(
        entry
        for entry in path.parent.iterdir()
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(_OLD)
    )


@contextmanager
def new_folder(path: Path, *, marker: str, overwrite: bool) -> Iterator[Path]:
    """Give an empty directory to fill; when the block ends well it takes its place at `path`.

    Args:
        path: Where the directory is to be; without links.
        marker: A file by which an existing directory shows that it may be replaced.
        overwrite: Replace what is at `path`.

    Raises:
        BundleError: If `path` exists and may not be replaced, or the operating system refuses.
    """
    _refuse_existing(path, marker, overwrite)
    draft = _sibling(path, _PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        for entry in draft.iterdir():
            _sync_file(entry)
        sync_folder(draft)
        _publish(draft, path, overwrite)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError(f"{path}: cannot be written: {reason}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_existing(path: Path, marker: str, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise BundleError(f"{path}: exists; choose another place or pass overwrite=True")
    if not (path / marker).is_file():
        raise BundleError(f"{path}: is not a bundle (no {marker}); only a bundle is overwritten")


def _publish(draft: Path, path: Path, overwrite: bool) -> None:
    if not (overwrite and path.exists()):
        draft.rename(path)
        sync_folder(path.parent)
        return
    old = _sibling(path, _OLD)
    path.rename(old)
    try:
        draft.rename(path)
    except BaseException:
        old.rename(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sibling(path: Path, ending: str) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}{ending}"


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
