"""The files of a bundle: which names are allowed, safe opening, and hashing in a stream."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from scalerec.errors import BundleError

__all__ = [
    "TABLES",
    "check_file",
    "check_name",
    "file_digest",
    "inside",
    "is_weights",
    "sync_folder",
    "write_file",
]

TABLES = ("encoders.arrow", "catalogue.arrow", "users.arrow")
_WEIGHTS = re.compile(r"weights-\d{5,}-of-\d{5,}\.safetensors", re.ASCII)


def is_weights(name: str) -> bool:
    """Tell whether a name is that of a weights file: ``weights-00001-of-00002.safetensors``."""
    return _WEIGHTS.fullmatch(name) is not None


def check_name(name: str, place: str) -> None:
    """Refuse a file name that leaves the directory, or that no bundle has.

    Raises:
        BundleError: If the name is absolute, has a folder or ``..`` in it, or is unknown.
    """
    if name in TABLES or is_weights(name):
        return
    pure = (PurePosixPath(name), PureWindowsPath(name))
    if any(path.is_absolute() or path.drive or ".." in path.parts for path in pure):
        raise BundleError(f"{place}: names the file {name!r}, which leaves the directory")
    raise BundleError(
        f"{place}: names the file {name!r}; allowed: weights-NNNNN-of-NNNNN.safetensors, "
        f"{', '.join(TABLES)}"
    )


def inside(folder: Path, name: str) -> Path:
    """Give the path of a regular file in a folder, following no link out of it.

    Raises:
        BundleError: If the file is missing or not regular, or is a link that leaves the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: is a link that leaves the directory, to {path.resolve()}")
    if not path.exists():
        raise BundleError(f"{path}: is missing")
    if not path.is_file():
        raise BundleError(f"{path}: is not a regular file")
    return path


def check_file(folder: Path, name: str, size: int) -> Path:
    """Give the path of a file that has the size the manifest says.

    Raises:
        BundleError: If it has not, or `inside` refuses it.
    """
    path = inside(folder, name)
    found = path.stat().st_size
    if found != size:
        raise BundleError(
            f"{path}: has {found} bytes, the manifest says {size}: it was cut short or changed"
        )
    return path


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file; it is read in a stream, so memory does not grow with it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
