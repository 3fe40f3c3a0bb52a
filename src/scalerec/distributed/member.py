"""What a process of a run owes its launcher: how it starts, and how it tells why it failed.

An elastic launcher gives each process a file for the reason (``TORCHELASTIC_ERROR_FILE``). What is
written there is what torch's own `record` writes, with the one line of the command line in place of
a trace.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

__all__ = [
    "LAUNCHED",
    "VERB",
    "end_with_launcher",
    "tell_failure",
    "threads_of_each",
    "was_restarted",
]

# Set by our own launcher, which reads the file and tells a person itself; the number of the start.
LAUNCHED = "SCALEREC_LAUNCHED"
PR_SET_PDEATHSIG = 1
# The first word of a process of another verb than `train` begins with it.
VERB = "--verb="


def tell_failure(error: BaseException, text: str) -> None:
    """Tell why this process failed.

    Args:
        error: The cause.
        text: What a person is to read.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        message = {"message": text, "kind": type(error).__name__, "extraInfo": extra}
        Path(path).write_text(json.dumps({"message": message}), encoding="utf-8")
    if not (path and LAUNCHED in os.environ):
        rank = os.environ.get("RANK")
        place = f"process {rank}: " if rank and not text.startswith("process ") else ""
        print(f"error: {place}{text}", file=sys.stderr, flush=True)


def end_with_launcher() -> None:
    """Ask Linux to end this process when the one that started it ends, however it does."""
    if sys.platform == "linux" and LAUNCHED in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def was_restarted() -> bool:
    """Whether the launcher has started the processes again, after one of them was lost."""
    counts = (os.environ.get(name) for name in (LAUNCHED, "TORCHELASTIC_RESTART_COUNT"))
    return any(count not in (None, "", "0") for count in counts)


def threads_of_each(threads: int) -> int:
    """CPU threads of this process: an equal share of those that all on this host have.

    Args:
        threads: Of all together; 0 for as many as this process may use cores.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, (threads or cores) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
