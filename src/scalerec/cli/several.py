"""A verb in several processes: start them, be one of them, show what they said."""

import dataclasses
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalerec.cli.options import Call
from scalerec.cli.output import note
from scalerec.cli.training import Way
from scalerec.errors import ConfigError

__all__ = ["as_member", "joined", "launch", "meet", "start_processes", "traffic_table"]

if TYPE_CHECKING:
    from scalerec.distributed import Processes
    from scalerec.train.runtime import OneProcess

OWN_OPTIONS = ("--nproc", "--launcher")
Wanted = tuple[str | None, dict[str, Any], dict[str, Any]]


def launch(
    call: Call,
    num_processes: int,
    launcher: str,
    wanted: Wanted,
    several: Mapping[str, Any],
    parent: Path | None,
) -> None:
    """Train in several processes, and end as they do.

    Args:
        call: How the program was called.
        num_processes: How many.
        launcher: What starts them: `torchrun` or `spark`.
        wanted: The model, its settings and those of training, as far as they were given.
        several: Settings of several processes.
        parent: The bundle to go on from.

    Raises:
        ConfigError: If the settings are wrong, which is told once and not by every process.
        Exit: With the exit code, if a process failed.
    """
    from scalerec.distributed import DistributedConfig
    from scalerec.distributed.launching import without_options
    from scalerec.train.lineage import read_run

    _refuse_member(call)
    DistributedConfig.from_dict(several, "distributed")
    model, net, values = wanted
    if parent is None:
        read_run(model or "deepfm", net, values)
    if launcher == "spark":
        words = without_options(call.words[call.words.index("train") + 1 :], OWN_OPTIONS)
        words += ["--debug"] if call.debug else []
        # Loaded by name: PySpark is an extra.
        spark = importlib.import_module("scalerec.distributed.spark_launching")
        if code := spark.run_on_spark(num_processes, words):
            raise typer.Exit(code)
        return
    start_processes(call, "train", num_processes)


def start_processes(call: Call, verb: str, num_processes: int) -> None:
    """Start processes of this machine that do a verb together, and end as they do.

    Args:
        call: How the program was called.
        verb: Its name.
        num_processes: How many.

    Raises:
        ConfigError: If this is such a process.
        Exit: With the exit code, if a process failed.
    """
    from scalerec.distributed.launching import run_processes, without_options
    from scalerec.distributed.member import VERB

    _refuse_member(call)
    words = without_options(call.words[call.words.index(verb) + 1 :], OWN_OPTIONS)
    words += ["--debug"] if call.debug else []
    if verb != "train":
        words.insert(0, VERB + verb)
    try:
        failure = run_processes(num_processes, words, note)
    except KeyboardInterrupt:
        typer.echo("error: interrupted", err=True)
        # At once: torch's agent, when it was interrupted, aborts the process as it ends.
        os._exit(1)
    if failure:
        typer.echo(f"error: {failure.text}", err=True)
        raise typer.Exit(failure.code)


def _refuse_member(call: Call) -> None:
    if call.is_member:
        raise ConfigError(
            "--nproc and --launcher start processes, and a launcher has started these; say their "
            "number to it, as --nproc-per-node"
        )


@contextmanager
def joined(call: Call, threads: int) -> Iterator["OneProcess | Processes"]:
    """This process alone, or among those that a launcher has started, on the CPU.

    Args:
        call: How the program was called.
        threads: CPU threads of all on this host; 0 for all cores.
    """
    from scalerec.train.runtime import OneProcess

    if not call.is_member:
        yield OneProcess()
        return
    from scalerec.distributed import Processes, join_group

    _share_host(threads)
    with join_group() as group:
        yield Processes(group)


def meet(
    runtime: "OneProcess | Processes",
    aside: Path,
    data: str,
    settings: Mapping[str, Any],
    parent: str | None,
    *,
    resume: bool,
) -> bool:
    """Agree with the other processes, if there are any; whether to go on from a checkpoint.

    Processes that their launcher has started again go on. Others do not take what an earlier run
    left for their own.

    Args:
        runtime: The processes.
        aside: The folder of checkpoints.
        data: Digest of the data set.
        settings: That all must share.
        parent: Digest of the bundle that is begun with, if there is one.
        resume: Whether a person wants to go on.

    Raises:
        GroupError: If a process differs.
    """
    from scalerec.distributed import Processes
    from scalerec.distributed.handshake import shake_hands
    from scalerec.distributed.member import was_restarted
    from scalerec.train.checkpoints import remove_checkpoint

    if not isinstance(runtime, Processes):
        return resume
    resume = resume or was_restarted()
    if not resume and not runtime.rank:
        remove_checkpoint(aside)
    shake_hands(runtime.group, data, settings, parent)
    return resume


def as_member(way: Way, several: Mapping[str, Any], threads: int) -> Way:
    """How a run is carried out by one of several processes that a launcher has started.

    Args:
        way: How one process alone would.
        several: Settings of several processes.
        threads: CPU threads of all on this host; 0 for all cores.

    Raises:
        ConfigError: If a setting is wrong, or the run cannot be divided yet.
    """
    from scalerec.distributed import DistributedConfig
    from scalerec.distributed.member import was_restarted

    if way.keep_state:
        raise ConfigError("--keep-state needs one process; leave out --nproc, or the launcher")
    _share_host(threads)
    config = DistributedConfig.from_dict(several, "distributed")
    return dataclasses.replace(way, several=config, resume=way.resume or was_restarted())


def _share_host(threads: int) -> None:
    """Take this process's share of the threads of all; let the first say what is to be said."""
    import warnings

    import torch

    from scalerec.distributed.member import threads_of_each

    torch.set_num_threads(threads_of_each(threads))
    if os.environ.get("RANK", "0") != "0":
        warnings.simplefilter("ignore")


def traffic_table(traffic: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """What processes sent and received, by purpose, as columns and rows of a table.

    Args:
        traffic: By process, as `Traffic.to_dict` gives it.

    Example:
        >>> one, other = ({"sent": {"ids": n}, "received": {"ids": 8}} for n in (4, 12))
        >>> traffic_table([one, other])[1]
        [['ids', 8, 12, 8, 8]]
    """
    columns = ["bytes by purpose", "sent by each", "by one at most", "received by each", "at most"]
    rows: list[list[object]] = []
    for purpose in dict.fromkeys(name for own in traffic for name in own["sent"]):
        row: list[object] = [purpose]
        for way in ("sent", "received"):
            found = [int(own[way].get(purpose, 0)) for own in traffic]
            row += [round(sum(found) / len(found)), max(found)]
        rows.append(row)
    return columns, rows
