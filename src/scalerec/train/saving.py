"""When a checkpoint is due: every so many steps, and every so many seconds."""

import time
from collections.abc import Callable

import torch

from scalerec.train.config import TrainConfig
from scalerec.train.runtime import Runtime

__all__ = ["SaveTimes"]

# So often, between two checkpoints by time, processes compare their clocks.
LOOKS = 8


class SaveTimes:
    """Tells after each step whether a checkpoint is due; several processes decide alike.

    Clocks differ, and a checkpoint is written together or not at all. So several processes go by
    the mean of theirs, at steps that they agree on.

    Args:
        config: Says how often.
        runtime: The processes.
        clock: Gives seconds.
    """

    def __init__(
        self, config: TrainConfig, runtime: Runtime, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.steps, self.seconds = config.checkpoint_steps, config.checkpoint_seconds
        self._runtime, self._clock = runtime, clock
        self._saved, self._from = clock(), 0
        self._look = 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after so many steps; all processes must ask alike."""
        # The clocks are compared all the same, so that all wait for the same step.
        by_time = bool(self.seconds) and step >= self._look and self._passed(step) > self.seconds
        if by_time or (self.steps and step % self.steps == 0):
            self._saved, self._from = self._clock(), step
            return True
        return False

    def _passed(self, step: int) -> float:
        """Seconds since the last checkpoint; says when several processes are to look again."""
        passed = self._clock() - self._saved
        if self._runtime.world > 1:
            own = torch.tensor([passed], dtype=torch.float64, device=self._runtime.device)
            passed = float(torch.cat(self._runtime.gather(own, "clocks")).mean())
            each = passed / max(1, step - self._from)
            self._look = step + max(1, int(self.seconds / LOOKS / max(each, 1e-6)))
        return passed
