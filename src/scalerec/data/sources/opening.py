"""From a path to a source: the file's suffix says what it is."""

import gzip
from collections.abc import Sequence
from pathlib import Path

from scalerec.data.sources.base import Source
from scalerec.data.sources.columnar import ArrowSource, ParquetSource
from scalerec.data.sources.csv import CsvSource
from scalerec.data.sources.mapped import ConcatSource
from scalerec.errors import DataError

__all__ = ["open_source"]

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ""}
ALLOWED = ".csv, .tsv, .txt (each also with .gz), .parquet, .arrow, .feather"
WILDCARDS = frozenset("*?[")


def open_source(
    path: str | Path,
    delimiter: str | None = None,
    *,
    column_names: Sequence[str] | None = None,
    encoding: str = "utf8",
    quote: str = '"',
) -> Source:
    """Open a table by its path.

    Args:
        path: A file; or a folder or a pattern such as ``part-*.parquet``, whose files are read in
            the order of their names.
        delimiter: The character between values of a text file. By default a comma for `.csv`, a tab
            for `.tsv`; for `.txt` a tab if its first line holds one, else a comma.
        column_names: The columns of text files without a header.
        encoding: The encoding of text files.
        quote: The quote character of text files; empty for none.

    Raises:
        DataError: If there is no such file, or its suffix is not known.
    """
    path = Path(path)
    files = _files_of(path)
    sources = [_open_file(file, delimiter, column_names, encoding, quote) for file in files]
    if len(sources) == 1 and files[0] == path:
        return sources[0]
    return ConcatSource(sources, f"{path} ({len(files)} files)")


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.is_file() and _visible(file)]
        if not found:
            raise DataError(f"{path}: the folder holds no files; allowed: {ALLOWED}")
        return found
    if WILDCARDS & set(path.name):
        found = [file for file in sorted(path.parent.glob(path.name)) if file.is_file()]
        if not found:
            raise DataError(f"{path}: no file has such a name")
        return found
    raise DataError(f"{path}: no such file")


def _visible(file: Path) -> bool:
    # Spark and others leave `_SUCCESS` and `.crc` files beside the parts.
    return not file.name.startswith(("_", "."))


def _open_file(
    path: Path, delimiter: str | None, names: Sequence[str] | None, encoding: str, quote: str
) -> Source:
    suffix = _suffix_of(path)
    if suffix == ".parquet":
        return ParquetSource(path)
    if suffix in (".arrow", ".feather"):
        return ArrowSource(path)
    if suffix not in DELIMITERS:
        raise DataError(f"{path}: got a file of kind {suffix or 'unknown'!r}; allowed: {ALLOWED}")
    between = delimiter or DELIMITERS[suffix] or _first_delimiter(path)
    return CsvSource(path, between, column_names=names, encoding=encoding, quote=quote)


def _suffix_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] != [".gz"]:
        return suffixes[-1] if suffixes else ""
    inner = suffixes[-2] if len(suffixes) > 1 else ".txt"
    return inner if inner in DELIMITERS else ".txt" if inner[1:].isdigit() else f"{inner}.gz"


def _first_delimiter(path: Path) -> str:
    try:
        with (gzip.open if path.suffix == ".gz" else Path.open)(path, "rb") as file:
            first = file.readline(1 << 20)
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return "\t" if b"\t" in first else ","
