"""Where training runs: one process here, several in `scalerec.distributed`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.models.recommender import MakeTables
from scalerec.models.tables import Tables
from scalerec.scoring.crew import Alone
from scalerec.train.checkpoints import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from scalerec.train.config import TableConfig, TrainConfig

__all__ = ["OneProcess", "Runtime", "has_bf16", "seed_device"]


class Runtime(Protocol):
    """What the loop needs to know of the processes it runs in.

    `local_steps` is the number of steps that a process takes alone before parameters are averaged;
    0 where every step is one of all processes.
    """

    rank: int
    world: int
    device: torch.device
    local_steps: int

    def make_tables(self, config: TableConfig) -> MakeTables:
        """How the tables of this process are made."""
        ...

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as this process trains it."""
        ...

    def make_loader(self, dataset: Dataset, config: TrainConfig) -> Loader:
        """The batches that this process learns from."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes; the tensor itself may be overwritten."""
        ...

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank; their first dimensions may differ."""
        ...

    def gather_first(self, value: Tensor, purpose: str) -> list[Tensor]:
        """As `gather`, on process 0; nothing on the others."""
        ...

    def agree(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What process 0 says, as JSON has it."""
        ...

    def join(self, value: Tensor, purpose: str) -> tuple[Tensor, int]:
        """The rows that all processes have for this step, by rank, and where the own ones start.

        Gradients go back to where the rows come from.
        """
        ...

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum of all processes' gradients."""
        ...

    def begin_round(
        self, tables: Tables, parameters: Mapping[str, Tensor], batches: Sequence[Batch]
    ) -> None:
        """Prepare for local steps: the dense part is the same on all now.

        Args:
            tables: The model's.
            parameters: The dense part by name, live.
            batches: This process's, one a step.
        """
        ...

    def end_round(self, parameters: Mapping[str, Tensor], buffers: Sequence[Tensor]) -> None:
        """Average what local steps changed.

        Args:
            parameters: As in `begin_round`; moved in place.
            buffers: Numbers that no optimiser moves; averaged in place.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep of this process's part in the exchange."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        ...

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Replace the folder's checkpoint, or leave it as it was."""
        ...

    def read_checkpoint(self, folder: Path) -> Checkpoint | None:
        """The folder's checkpoint, or None if there is none."""
        ...

    def remove_checkpoint(self, folder: Path) -> None:
        """Remove the checkpoint of a run that is done."""
        ...


class OneProcess(Alone):
    """Training in this process alone.

    Args:
        device: Where tensors live: `cpu`, `cuda`, ...
    """

    local_steps = 0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def make_tables(self, config: TableConfig) -> MakeTables:  # noqa: ARG002
        """Whole tables."""
        return Tables

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself, on the device."""
        return module.to(self.device)

    def make_loader(self, dataset: Dataset, config: TrainConfig) -> Loader:
        """All training rows."""
        events = dataset.split("train")
        return Loader(events, config.batch_size, config.seed, config.block_rows)

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def join(self, value: Tensor, purpose: str) -> tuple[Tensor, int]:  # noqa: ARG002
        """The rows themselves."""
        return value, 0

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to do: all rows are here."""

    def begin_round(
        self, tables: Tables, parameters: Mapping[str, Tensor], batches: Sequence[Batch]
    ) -> None:
        """Nothing to do: every step is one of all rows."""

    def end_round(self, parameters: Mapping[str, Tensor], buffers: Sequence[Tensor]) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """As `scalerec.train.checkpoints.write_checkpoint`."""
        write_checkpoint(folder, checkpoint)

    def read_checkpoint(self, folder: Path) -> Checkpoint | None:
        """As `scalerec.train.checkpoints.read_checkpoint`."""
        return read_checkpoint(folder)

    def remove_checkpoint(self, folder: Path) -> None:
        """As `scalerec.train.checkpoints.remove_checkpoint`."""
        remove_checkpoint(folder)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products are fast there: AVX512-BF16 or AMX, or a GPU that has them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout on a device draws from.

    `torch.manual_seed` also seeds devices that are not used: a millisecond at every step, and a
    note for each that grows for as long as the device sleeps.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
