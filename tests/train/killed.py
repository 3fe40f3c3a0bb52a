"""Train in child processes that are killed again and again, as `python -m tests.train.killed JOB`.

Each child resumes; it is killed at a random moment after it has written a checkpoint of its own.
After the wanted number of kills the next child may finish. Prints the steps of the checkpoints that
the kills left, as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec
from scalerec.train import TrainConfig, train
from scalerec.train.checkpoints import FILE


def train_child(job: dict[str, Any]) -> None:
    trained = train(
        Dataset(job["data"]),
        ModelSpec.from_dict(job["spec"]),
        TrainConfig.from_dict(job["config"]),
        checkpoints=job["folder"],
        resume=True,
    )
    save_file(trained.recommender.to_tensors(), job["out"])


def fork(job: dict[str, Any]) -> int:
    """Start a child; the code of its end is 0 only if it trained to the end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train_child(job)
            code = 0
        finally:
            os._exit(code)
    return pid


def step_of(folder: Path) -> int:
    """The step of the checkpoint, read in one go: the file may be replaced at any time."""
    try:
        with (folder / FILE).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return 0
    return int(json.loads(header["__metadata__"]["scalerec"])["state"]["step"])


def kill_one(job: dict[str, Any], moments: random.Random) -> int:
    """Let a child get one step further, kill it within the next few, and tell how far it got."""
    folder = Path(job["folder"])
    before = step_of(folder)
    pid = fork(job)
    while step_of(folder) <= before:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise SystemExit("a child ended before it could be killed")
        time.sleep(0.001)
    time.sleep(moments.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return step_of(folder)


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    moments = random.Random(job["seed"])
    steps = [kill_one(job, moments) for _ in range(job["kills"])]
    _, status = os.waitpid(fork(job), 0)
    if status:
        raise SystemExit("the last child failed")
    print(json.dumps(steps))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
