"""Searches that are killed, as `python -m tests.tune.killed JOBS`; JOBS is a JSON list.

The first is run as it is, the others by child processes. With `at` (a function, the number of its
call, before or after its work) the first child kills itself there; with `kills` so many are killed
from outside, each when its journal has grown. A last child may finish. Prints, for every job, the
bundle's digest and the number of trials, as JSON.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scalerec.data.dataset import Dataset
from scalerec.tune import TuneConfig, make_plan, read_space, tune


def deadly(function: Callable[..., Any], call: int, when: str) -> Callable[..., Any]:
    """The function, with an end to everything at one of its calls."""
    calls = [0]

    def called(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        last = calls[0] == call
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return called


def arm(place: str, call: int, when: str) -> None:
    """Replace a function, named as ``module:name`` or ``module:Class.name``."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    setattr(owner, name, deadly(getattr(owner, name), call, when))


def search(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if "at" in job:
        arm(*job["at"])
    dataset, out = Dataset(job["data"]), Path(job["out"])
    plan = make_plan(dataset, job["models"], job["fixed"], read_space(job["space"]))
    found = tune(dataset, plan, out, TuneConfig.from_dict(job["config"]), resume=True)
    seen = {"bundle": found.bundle.digest, "trials": len(found.trials)}
    out.with_name("seen.json").write_text(json.dumps(seen), "utf-8")


def fork(job: dict[str, Any]) -> int:
    """Start a child; the code of its end is 0 only if it searched to the end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            search(job)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def kill_one(job: dict[str, Any]) -> None:
    """Let a child get some way on, and kill it."""
    journal = Path(job["out"]).with_name("best.study") / "journal.log"
    before = journal.stat().st_size if journal.exists() else 0
    pid = fork(job)
    while not journal.exists() or journal.stat().st_size < before + 2_000:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise SystemExit("a child ended before it could be killed")
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Kill, then finish."""
    if "at" in job:
        _, status = os.waitpid(fork(job), 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"{job['at']}: the child was not killed")
        del job["at"]
    for _ in range(job.get("kills", 0)):
        kill_one(job)
    _, status = os.waitpid(fork(job), 0)
    if status:
        raise SystemExit("the last child failed")
    return seen_of(job)


def seen_of(job: dict[str, Any]) -> dict[str, Any]:
    """What a finished search told."""
    return dict(json.loads(Path(job["out"]).with_name("seen.json").read_text("utf-8")))


if __name__ == "__main__":
    first, *rest = json.loads(sys.argv[1])
    # In this very process, so that the children find everything loaded.
    search(first)
    print(json.dumps([seen_of(first), *map(run, rest)]))
