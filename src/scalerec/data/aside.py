"""A folder beside a target in which it is made, and what is left of such folders by force.

The folder is locked by the process that works in it. The kernel gives the lock back when the
process ends, however it ends, so a folder that can be locked belongs to nobody.
"""

import fcntl
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["clear_left_over", "folder_aside"]

MARK = "made-by-scalerec-prepare"


@contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """Make a hidden folder `.NAME-*` beside the target, and remove it with all it holds at the end.

    SIGTERM, where nothing else is done about it, ends the process as an exception would, so that
    the folder is removed then too.

    Args:
        out: The target; its parent is made if need be.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with _ended_by_exception():
        folder, lock = _locked_folder(out)
        try:
            (folder / MARK).touch()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def clear_left_over(out: Path) -> None:
    """Remove the folders that killed processes left beside a target.

    One that was killed while it put a new target in the place of an old one may have left the old
    one in its folder only; then it is put back.

    Args:
        out: The target.
    """
    pattern = re.compile(rf"\.{re.escape(out.name)}-[a-z0-9_]{{8}}")
    beside = out.parent.iterdir() if out.parent.is_dir() else ()
    for folder in [path for path in beside if pattern.fullmatch(path.name) and path.is_dir()]:
        # A folder that bears no mark is somebody else's, unless it is empty.
        if not (folder / MARK).is_file() and any(folder.iterdir()):
            continue
        lock = _lock(folder, wait=False)
        if lock is None:
            continue
        try:
            if (folder / "old").is_dir() and not out.exists():
                (folder / "old").rename(out)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _locked_folder(out: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        lock = _lock(folder, wait=True)
        # Another process may have taken it for left over before it was locked.
        if lock is not None and folder.is_dir():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock; none if another process has it, or the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if wait:  # a file system without locks; nobody else can lock the folder either
            return descriptor
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Let SIGTERM raise SystemExit in the main thread, if it would kill the process."""
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the removal
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
