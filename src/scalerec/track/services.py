"""Sinks for TensorBoard and Weights & Biases; each engine is imported when its sink is made."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from scalerec.config import require
from scalerec.errors import ConfigError, MissingExtraError
from scalerec.track.sinks import checked

__all__ = ["TensorBoardSink", "WandbSink"]

WandbMode = Literal["online", "offline"]


class TensorBoardSink:
    """Writes event files; ``tensorboard --logdir DIRECTORY`` shows them.

    Args:
        directory: Where they go; it is made.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
        ConfigError: If the directory cannot be made.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "track") from None
        _make(self.directory)
        self._writer: Any = SummaryWriter(str(self.directory))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write each value as a scalar; see `Sink.log`."""
        ready = checked(step, values)
        require(self._writer is not None, f"{self.directory}: the log is closed")
        for name, value in ready.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is held back and close the file; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbSink:
    """Writes a run of Weights & Biases.

    Args:
        project: The project's name there.
        directory: Where its files go; they lie in its folder ``wandb``.
        mode: `online` sends the run as it goes, `offline` keeps it until ``wandb sync``. By default
            what `$WANDB_MODE` says, else `online` where `$WANDB_API_KEY` is set, else `offline`.

    Raises:
        MissingExtraError: If wandb is not installed.
        ConfigError: If the project has no name, or the directory cannot be made.
    """

    def __init__(self, project: str, directory: str | Path, mode: WandbMode | None = None) -> None:
        self.directory = Path(directory)
        require(bool(project.strip()), f"project must have a name; got {project!r}")
        require(
            mode in (None, "online", "offline"), f"mode must be online or offline; got {mode!r}"
        )
        try:
            import wandb
        except ImportError:
            raise MissingExtraError("wandb", "track") from None
        _make(self.directory)
        # WANDB_MODE may hold modes that are not offered here; wandb judges them itself.
        chosen: Any = mode or _default_mode()
        self._run: Any = wandb.init(project=project, dir=str(self.directory), mode=chosen)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the values on; see `Sink.log`."""
        ready = checked(step, values)
        require(self._run is not None, f"{self.directory}: the log is closed")
        # Not as wandb's own step, which must never go back; a resumed run does go back.
        self._run.log({"step": step, **ready})

    def close(self) -> None:
        """Finish the run; a second call does nothing."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _default_mode() -> str:
    given = os.environ.get("WANDB_MODE")
    return given or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{directory}: the log cannot be written: {reason}") from error
