"""Training on several processes, each step that of one with the whole batch.

Each process takes its part of the batch, and its loss is its share of the whole batch's: sums of
weights are added up before, gradients of the dense part after. Rows of tables move where they are
kept, by what all processes send. With local steps each process steps alone, and what all have
changed is averaged now and then; see `scalerec.distributed.local`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout
from scalerec.data.loading import Loader
from scalerec.distributed.aggregating import Gradients
from scalerec.distributed.checkpoints import read_parts, remove_parts, write_parts
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.differentiable import join_rows_of_all
from scalerec.distributed.group import Group
from scalerec.distributed.local import LocalRounds
from scalerec.distributed.shards import make_loader
from scalerec.distributed.single import is_of_one, read_part_of_one, remove_of_one
from scalerec.distributed.statistics import share_statistics
from scalerec.distributed.tables import ShardedTables
from scalerec.distributed.torchrec import TorchRecTables
from scalerec.models.recommender import MakeTables
from scalerec.models.tables import Tables
from scalerec.train.checkpoints import Checkpoint
from scalerec.train.config import TableConfig, TrainConfig

__all__ = ["Processes"]


class Processes:
    """The runtime of one process among several.

    Args:
        group: All of them.
        config: How they divide what they keep and what they do.
    """

    def __init__(self, group: Group, config: DistributedConfig | None = None) -> None:
        self.group, self.config = group, config or DistributedConfig()
        self.rank, self.world, self.device = group.rank, group.world, group.device
        self._tables: ShardedTables | None = None
        is_local = self.config.aggregate == "local"
        self.local_steps = self.config.local_steps if is_local else 0
        self._gradients = Gradients(group, self.config.codec)
        self._rounds = LocalRounds(group, self.config)

    def make_tables(self, config: TableConfig) -> MakeTables:
        """Whole tables where they are small and trained densely, else the rows kept here."""

        def make(
            layout: Layout, width: int, generator: torch.Generator | None, init_std: float
        ) -> Tables:
            if config.is_dense(sum(layout.tables.values()) * width):
                return Tables(layout, width, generator, init_std)
            kind = TorchRecTables if self.config.engine == "torchrec" else ShardedTables
            tables = kind(layout, width, generator, init_std, self.group, self.config)
            self._tables = tables
            return tables

        return make

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself, on the device: its initial weights follow from the seed on all.

        Where every step is one of all processes, so are its batch statistics.
        """
        if self.world > 1 and not self.local_steps:
            share_statistics(module, self.group)
        return module.to(self.device)

    def make_loader(self, dataset: Dataset, config: TrainConfig) -> Loader:
        """This process's part of all batches, or of a shard; see `scalerec.distributed.shards`."""
        return make_loader(dataset, config, self.config, self.rank, self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes; the tensor may live anywhere, and be overwritten."""
        return self.group.sum(value.to(self.device), "weights of a batch").to(value.device)

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank; it may live anywhere."""
        parts = self.group.gather(value.to(self.device), purpose)
        return [part.to(value.device) for part in parts]

    def gather_first(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank, on process 0; it may live anywhere."""
        parts = self.group.gather_first(value.to(self.device), purpose)
        return [part.to(value.device) for part in parts]

    def agree(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What process 0 says."""
        return self.group.gather_facts(facts if self.rank == 0 else {})[0]

    def join(self, value: Tensor, purpose: str) -> tuple[Tensor, int]:
        """The rows of all processes; the own ones where processes step alone."""
        if self.local_steps:
            return value, 0
        return join_rows_of_all(value, self.group, purpose)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up all gradients, through the codec; each has its own where processes step alone."""
        if not self.local_steps:
            self._gradients.sum(parameters)

    def begin_round(
        self, tables: Tables, parameters: Mapping[str, Tensor], batches: Sequence[Batch]
    ) -> None:
        """Begin local steps; see `LocalRounds.begin`."""
        self._rounds.begin(tables, parameters, batches)

    def end_round(self, parameters: Mapping[str, Tensor], buffers: Sequence[Tensor]) -> None:
        """Average what they changed; see `LocalRounds.end`."""
        self._rounds.end(parameters, buffers)

    def state(self) -> dict[str, Tensor]:
        """What codecs left out, and the outer momentum."""
        return self._rounds.state() if self.local_steps else self._gradients.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._rounds.load_state(state)
        self._gradients.load_state(state)

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write it together; see `scalerec.distributed.checkpoints`."""
        # Processes that step alone have optimisers that remember other things.
        own = ("own.", "optimiser.") if self.local_steps else ("own.",)
        write_parts(folder, checkpoint, self.group, self._tables, own)
        remove_of_one(folder, self.group)

    def read_checkpoint(self, folder: Path) -> Checkpoint | None:
        """This process's part of the folder's checkpoint."""
        if is_of_one(folder):
            return read_part_of_one(folder, self._tables, self.rank)
        return read_parts(folder, self.group, self._tables)

    def remove_checkpoint(self, folder: Path) -> None:
        """Remove the checkpoint of a run that is done."""
        remove_of_one(folder, self.group)
        remove_parts(folder, self.group)
