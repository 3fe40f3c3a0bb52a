"""Synchronous training on several processes, each step that of one with the whole batch.

Each process takes its part of the batch, and its loss is its share of the whole batch's: sums of
weights are added up before, gradients of the dense part after. Rows of tables move where they are
kept, by what all processes send.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout
from scalerec.data.loading import Loader
from scalerec.distributed.checkpoints import read_parts, remove_parts, write_parts
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.group import Group
from scalerec.distributed.shards import make_loader
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
        """The module itself, on the device: its initial weights follow from the seed on all."""
        return module.to(self.device)

    def make_loader(self, dataset: Dataset, config: TrainConfig) -> Loader:
        """This process's part of all batches, or of a shard; see `scalerec.distributed.shards`."""
        return make_loader(dataset, config, self.config, self.rank, self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in the tensor's place."""
        return self.group.sum(value, "weights of a batch")

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank."""
        return self.group.gather(value, purpose)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up all gradients in one message."""
        if self.world == 1 or not parameters:
            return
        parts = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in parameters
        ]
        whole = self.group.sum(torch.cat(parts), "gradients")
        for parameter, part in zip(parameters, whole.split([len(p) for p in parts]), strict=True):
            parameter.grad = part.view_as(parameter)

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write it together; see `scalerec.distributed.checkpoints`."""
        write_parts(folder, checkpoint, self.group, self._tables)

    def read_checkpoint(self, folder: Path) -> Checkpoint | None:
        """This process's part of the folder's checkpoint."""
        return read_parts(folder, self.group, self._tables)

    def remove_checkpoint(self, folder: Path) -> None:
        """Remove the checkpoint of a run that is done."""
        remove_parts(folder, self.group)
