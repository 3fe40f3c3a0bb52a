"""A log of lines, one JSON table each, that survives a kill."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

from scalerec.config import require
from scalerec.errors import ConfigError, DataError
from scalerec.track.sinks import Row, plain_row

__all__ = ["JsonlSink", "read_jsonl"]

_CHUNK = 1 << 16


class JsonlSink:
    """Appends one line a call, and hands each to the operating system at once.

    A line is ``{"step": 10, "train/loss": 0.5}``; a number that is not finite is null. After a kill
    at most the last line is half, and `resume` drops it.

    Args:
        path: The file; its folder is made.
        resume: Go on with the file that is there. Without it a file with content is
            refused, for two runs in one log cannot be told apart.

    Raises:
        ConfigError: If the file has content and `resume` is not given, or it cannot be opened.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            size = self._file.tell()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"{self.path}: the log cannot be written: {reason}") from error
        if size and not resume:
            self._file.close()
            raise ConfigError(
                f"{self.path}: holds the log of an earlier run; resume it or remove it"
            )
        if size:
            self._file.truncate(_end_of_last_line(self.path, size))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line; see `Sink.log`."""
        line = json.dumps(plain_row(step, values), allow_nan=False)
        require(not self._file.closed, f"{self.path}: the log is closed")
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def _end_of_last_line(path: Path, size: int) -> int:
    """Give the position after the last line end; the file is read from its end."""
    with path.open("rb") as file:
        stop = size
        while stop > 0:
            start = max(0, stop - _CHUNK)
            file.seek(start)
            found = file.read(stop - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            stop = start
    return 0


def read_jsonl(path: str | Path) -> list[Row]:
    """Read a log back, as it was written; a half line at the end is left out.

    Args:
        path: The file.

    Raises:
        DataError: If the file cannot be read, or a whole line is not a table with a step.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    rows: list[Row] = []
    for number, line in enumerate(io.BytesIO(text), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            good = isinstance(row, dict) and isinstance(row.get("step"), int)
        except ValueError:
            good = False
        if not good:
            shown = line[:40].decode("utf-8", "replace").strip()
            raise DataError(f"{path}: line {number} must be a table with a step; got {shown!r}")
        rows.append(row)
    return rows
