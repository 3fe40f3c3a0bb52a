"""Start several processes of this machine on one job, by torchrun."""

import subprocess
import sys
from collections.abc import Sequence

from scalerec.config import require

__all__ = ["launch_command", "run_processes"]

RESTARTS = 3


def launch_command(num_processes: int, arguments: Sequence[str]) -> list[str]:
    """The command that trains on this machine in several processes.

    Args:
        num_processes: How many, at least 1.
        arguments: Those of `scalerec train`.

    Raises:
        ConfigError: If there are none.
    """
    require(num_processes >= 1, f"--nproc must be at least 1; got {num_processes}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    how = ["--nproc-per-node", str(num_processes), "--max-restarts", str(RESTARTS)]
    return [*torchrun, *how, "-m", "scalerec.distributed", *arguments]


def run_processes(num_processes: int, arguments: Sequence[str]) -> int:
    """Train in several processes; give the exit code."""
    return subprocess.run(launch_command(num_processes, arguments), check=False).returncode
