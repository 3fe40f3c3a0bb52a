"""Start several processes of this machine on one job, watch them, and start again what was killed.

It is torchrun's agent (`torch.distributed.launcher`), used from Python so that a person reads the
one line that tells the cause, and not a trace of each process. Several hosts are started by
torchrun itself: ``torchrun --nnodes=N --nproc-per-node=M -m scalerec.distributed DATA --out X``.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

from scalerec.config import require
from scalerec.distributed.member import LAUNCHED

__all__ = ["Failure", "run_processes", "without_options"]

# How often processes that were killed are started again.
RESTARTS = 3
# How long a process may take to end when it is asked to. A stopped one never does.
PATIENCE_S = 5
# What a process fails with that has lost another: seldom the cause.
CONSEQUENCE = "GroupError"
USAGE = 2
# What the agent remembers its signals by.
HANDLED = "TORCHELASTIC_SIGNALS_TO_HANDLE"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run on several processes failed.

    Args:
        rank: The process that failed first, or -1 for the launcher itself.
        text: The cause, for a person.
        code: The exit code.
        is_kill: Whether the process was killed by a signal, so that starting again may help.
    """

    rank: int
    text: str
    code: int
    is_kill: bool = False


def run_processes(
    num_processes: int, arguments: Sequence[str], note: Callable[[str], None]
) -> Failure | None:
    """Train in several processes of this machine; give why it failed, if it did.

    A process that is killed ends all; they are started again, and go on from the last checkpoint.

    Args:
        num_processes: How many, at least 1.
        arguments: Those of `scalerec train`, or of another verb after `VERB` and its name.
        note: Tells a person what happens.

    Raises:
        ConfigError: If there are no processes.
        KeyboardInterrupt: If the launcher is interrupted or ended; all processes are then ended.
    """
    require(num_processes >= 1, f"--nproc must be at least 1; got {num_processes}")
    for attempt in range(RESTARTS + 1):
        failure = _run_once(num_processes, arguments, attempt)
        if failure is None or not failure.is_kill or attempt == RESTARTS:
            return failure
        again = f"{attempt + 1} of {RESTARTS}"
        note(f"{failure.text}; starting again from the last checkpoint ({again})")
    return None


def without_options(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words of a command line without some options and their values.

    Example:
        >>> without_options(["data", "--nproc", "2", "--launcher=spark", "--out", "x"],
        ...                 ["--nproc", "--launcher"])
        ['data', '--out', 'x']
    """
    found, skip = [], False
    for word in words:
        if not skip and word.partition("=")[0] not in names:
            found.append(word)
        skip = not skip and word in names
    return found


class Ended(Protocol):
    """What the agent tells of a process that failed."""

    exitcode: int
    message: Any
    timestamp: int


def find_cause(ended: Mapping[int, Ended]) -> Failure:
    """Of all processes that failed, the one that did by itself.

    When one fails, others lose it and fail too, and the agent ends the rest: by SIGTERM, and what
    is stopped by SIGKILL after `PATIENCE_S`.

    Args:
        ended: By rank; the message is what `tell_failure` wrote, if the process got so far.
    """
    told = {rank: own for rank, own in ended.items() if isinstance(own.message, dict)}
    first_told = min((own.timestamp for own in told.values()), default=None)
    for rank, own in told.items():
        if own.message.get("kind") != CONSEQUENCE:
            return _told(rank, own)
    for rank, own in ended.items():
        late = first_told is not None and own.timestamp >= first_told + PATIENCE_S - 1
        if own.exitcode < 0 and not (late or (told and own.exitcode == -signal.SIGTERM)):
            name = signal.Signals(-own.exitcode).name
            return Failure(rank, f"process {rank} was ended by {name}", 1, is_kill=True)
    for rank, own in sorted(told.items()):
        return _told(rank, own)
    rank, own = min(ended.items())
    return Failure(rank, f"process {rank} ended with exit code {own.exitcode}", 1)


def _told(rank: int, own: Ended) -> Failure:
    text = str(own.message["message"])
    # Of wrong usage all processes say the same.
    place = "" if own.exitcode == USAGE or text.startswith("process ") else f"process {rank}: "
    return Failure(rank, place + text, max(1, own.exitcode))


@contextmanager
def _surroundings(attempt: int) -> Iterator[None]:
    """What processes find in their environment, and what a signal to this one does."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def end(number: int, _: object) -> None:
        # The agent hands the signal on, and SIGINT would make each process print a trace.
        raise SignalException(f"got {signal.Signals(number).name}", signal.SIGTERM)

    given = {LAUNCHED: str(attempt), "TORCH_CPP_LOG_LEVEL": "ERROR", HANDLED: ""}
    before = {name: os.environ.get(name) for name in given}
    handlers = {number: signal.signal(number, end) for number in SIGNALS}
    os.environ.update(given)
    # What the agent has to say, the failure says better.
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _impatience() -> Iterator[None]:
    """Let the agent wait `PATIENCE_S` for processes to end; its half minute cannot be set."""
    from torch.distributed.elastic.multiprocessing.api import PContext

    close = PContext.close

    def close_soon(context: PContext, death_sig: Any = None, timeout: int = PATIENCE_S) -> None:
        close(context, death_sig, min(timeout, PATIENCE_S))

    with patch.object(PContext, "close", close_soon):
        yield


def _run_once(num_processes: int, arguments: Sequence[str], attempt: int) -> Failure | None:
    """Start all processes and wait for them."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    command = [sys.executable, "-m", "scalerec.distributed", *arguments]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="scalerec-") as folder,
            _surroundings(attempt),
            _impatience(),
        ):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=num_processes,
                run_id=f"scalerec-{os.getpid()}",
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                shutdown_timeout=PATIENCE_S,
                signals_to_handle="",
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return find_cause(error.failures)
    except SignalException as error:
        raise KeyboardInterrupt(str(error)) from None
    return None
