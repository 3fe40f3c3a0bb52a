"""Training started by Spark: TorchDistributor starts the processes that torchrun would start.

With a local master they are processes of this machine. With another, each is a task of a barrier
stage, so all start together; the data set and the bundle lie where every worker finds them under
the same path.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from unittest.mock import patch

from scalerec.config import require
from scalerec.data.spark.session import is_local, spark_session

__all__ = ["run_on_spark"]

# How often processes that were killed are started again.
RESTARTS = 3
FAILED = 1


def run_on_spark(num_processes: int, arguments: Sequence[str], *, master: str | None = None) -> int:
    """Train in several processes that Spark starts, each as `python -m scalerec.distributed` does.

    What the first process prints comes out here; what all have to say besides goes to standard
    error.

    Args:
        num_processes: How many, at least 1.
        arguments: Those of `scalerec train`.
        master: The URL of Spark's master; see `spark_session`.

    Returns:
        The exit code: 0 if all went well.

    Raises:
        ConfigError: If there are no processes, or there is no Java.
        MissingExtraError: If Spark is not installed.
    """
    require(num_processes >= 1, f"--nproc must be at least 1; got {num_processes}")
    with spark_session(master) as session, _surroundings():
        from pyspark.ml.torch.distributor import TorchDistributor

        local = is_local(str(session.sparkContext.master))
        distributor = TorchDistributor(
            num_processes=num_processes,
            local_mode=local,
            # Spark counts only the devices that it was told of; on one machine it need not.
            use_gpu=not local and _wants_gpu(arguments),
        )
        try:
            with redirect_stdout(sys.stderr):
                found = distributor.run(_entry(), tuple(arguments))
        except RuntimeError as error:
            # The processes have told why.
            print(f"error: Spark's launcher: {str(error).splitlines()[0][:200]}", file=sys.stderr)
            return FAILED
    assert found is not None, "a run gives what its function does"
    code, text = found
    sys.stdout.write(text)
    return int(code)


@contextmanager
def _surroundings() -> Iterator[None]:
    """What processes on this machine find in their environment."""
    given = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        # TorchDistributor passes no such option to torchrun, which also looks here.
        "PET_MAX_RESTARTS": str(RESTARTS),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    with patch.dict(os.environ, given):
        yield


def _wants_gpu(arguments: Sequence[str]) -> bool:
    words = [word for argument in arguments for word in argument.split("=", 1)]
    return any(name == "--device" and at.startswith("cuda") for name, at in pairwise(words))


def _entry() -> Callable[[tuple[str, ...]], tuple[int, str]]:
    """What each process does.

    It is made here, so that it travels whole: a process that only waits for another need not load
    what this module does.
    """

    def train(arguments: tuple[str, ...]) -> tuple[int, str]:
        """Be one of the processes; give the exit code and what the first one prints.

        A failure is given too, not raised: TorchDistributor would start all of them again, and
        what it runs torchrun in forgets the exit code.
        """
        import ctypes
        import os
        import signal
        import subprocess
        import sys

        def end_together() -> None:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

        done = subprocess.run(
            [sys.executable, "-m", "scalerec.distributed", *arguments],
            stdout=subprocess.PIPE,
            check=False,
            preexec_fn=end_together,
        )
        if done.returncode < 0:  # killed, so that starting again may help
            os.kill(os.getpid(), -done.returncode)
        if done.returncode == 0 and os.environ.get("LOCAL_RANK", "0") != "0":
            # All processes of a machine write what they give into one file; the first one's counts.
            raise SystemExit(0)
        return done.returncode, done.stdout.decode()

    return train
