"""Embedding tables whose rows TorchRec holds, brings and moves: `distributed.engine = torchrec`.

The tables are kept where this package's own engine would keep them, row by row, so checkpoints and
bundles are those of `ShardedTables`. Ids, rows and gradients travel by TorchRec's sharded embedding
collections, and FBGEMM looks rows up and moves them. The dense part stays with the runtime.

Shapes: K looked-up rows, M distinct ones and a padding row, W columns, T tables.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.exchange import GRADIENTS, IDS, ROWS
from scalerec.distributed.group import Group
from scalerec.distributed.tables import ShardedTables
from scalerec.distributed.torchrec_layout import Collection
from scalerec.distributed.torchrec_store import Store
from scalerec.models.engines import Fetched, RemoteEngine, RowOptimiser
from scalerec.models.fbgemm import FBGEMM_OPTIMISERS, has_kernel
from scalerec.models.kernels.route import route

__all__ = ["TorchRecTables"]

ID_BYTES, NUMBER_BYTES = 8, 4


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was looked up.

    Args:
        rows: ``[M - 1, W]``, tied to TorchRec's backward pass.
        moved: Of each collection: rows asked of other processes, and rows that they asked here.
    """

    rows: Tensor
    moved: list[tuple[int, int]]


class TorchRecEngine(RemoteEngine):
    """Rows that TorchRec keeps.

    Args:
        store: Holds them.
        group: The processes, whose traffic is counted.
    """

    def __init__(self, store: Store, group: Group) -> None:
        super().__init__()
        self.store, self.plan, self.group = store, store.plan, group
        # Rows are looked up by table, in the order of TorchRec's collections.
        order = [number for own in store.collections for number in own.numbers]
        sizes = np.array(list(self.plan.num_rows.values()), np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._homes = np.argsort(np.array(order, np.int64)).astype(np.int64)
        self._bases = np.zeros((len(order), len(order)), np.int64)
        self._matrix = torch.empty(0, self.plan.width)

    @property
    def matrix(self) -> Tensor:
        """No rows, ``[0, W]``: TorchRec keeps them by table; see `TorchRecTables.table`."""
        return self._matrix

    @property
    def state(self) -> dict[str, Tensor]:
        """What the optimiser remembers, by table: ``TABLE.NAME`` to ``[rows, k]``."""
        return {
            f"{name}.{part}": tensor
            for number, name in enumerate(self.plan.num_rows)
            for part, tensor in self.store.state(number).items()
        }

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Copy a state of what is kept here back in."""
        for number, name in enumerate(self.plan.num_rows):
            head = f"{name}."
            own = {key[len(head) :]: t for key, t in state.items() if key.startswith(head)}
            self.store.load_state(number, own)
        self.step = step

    def fetch(self, rows: Tensor) -> Fetched:
        """Look up the rows ``[K]``; all processes must at once."""
        places, wanted = torch.empty_like(rows), torch.empty_like(rows)
        counts = torch.zeros(len(self._homes) + 2, dtype=torch.int64)
        maps = self._starts, self._homes, self._bases
        arrays = (tensor.numpy() for tensor in (places, wanted, counts))
        num = int(route(rows.numpy(), *maps, *arrays))
        self.store.set_lr(self.lr)
        # FBGEMM's operators do not run in inference mode, nor on what was made in it.
        with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled()):
            found = self._lookup(wanted[:num].clone(), counts[:-2].clone())
        matrix = found.rows.new_zeros(num + 1, self.plan.width)
        matrix[1:] = found.rows.detach()
        return Fetched(places, matrix, found)

    def _lookup(self, wanted: Tensor, counts: Tensor) -> Ticket:
        sizes = counts.split([len(own.numbers) for own in self.store.collections])
        parts = wanted.split([int(size.sum()) for size in sizes])
        rows, moved = [], []
        for place, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            found, way = self.store.lookup(place, part, size)
            rows.append(found)
            moved.append(way)
        for own, (asked, lent) in zip(self.store.collections, moved, strict=True):
            self._count(IDS, asked * ID_BYTES, lent * ID_BYTES)
            self._count(ROWS, lent * own.cut * NUMBER_BYTES, asked * own.cut * NUMBER_BYTES)
        return Ticket(torch.cat(rows), moved)

    def push(self, fetched: Fetched, grad_mw: Tensor) -> None:
        """Send the gradients the way the rows came; TorchRec moves who is kept here."""
        way: Ticket = fetched.ticket
        with warnings.catch_warnings():
            # FBGEMM's kernel of copies is not registered as torch wants it; gradients are right.
            warnings.filterwarnings("ignore", "fbgemm::dense_embedding_codegen_lookup_function")
            way.rows.backward(grad_mw[1:])
        self.step += 1
        if self.store.copies is not None:
            self.store.copies.move(self.step, self.lr)
        for own, (asked, lent) in zip(self.store.collections, way.moved, strict=True):
            self._count(GRADIENTS, *self._gradient_bytes(own, asked, lent))

    def _gradient_bytes(self, own: Collection, asked: int, lent: int) -> tuple[int, int]:
        if own.kind == "replicated":
            whole = sum(own.sizes) * own.width * NUMBER_BYTES
            share = 2 * whole * (own.world - 1) // own.world
            return share, share
        return asked * own.cut * NUMBER_BYTES, lent * own.cut * NUMBER_BYTES

    def _count(self, purpose: str, sent: int, received: int) -> None:
        if self.group.world > 1:
            self.group.traffic.add(purpose, sent, received)


class TorchRecTables(ShardedTables):
    """Tables spread over the processes of a group by TorchRec.

    Until `use` names the optimiser, which TorchRec wants to know first, the rows are held as by
    `ShardedTables`; then they are copied, each process its own.

    Args:
        layout: Names the tables, their sizes, and which field reads which.
        width: W, the columns of a row.
        generator: As in `Tables`; the same on all processes.
        init_std: As in `Tables`, whose rows these are.
        group: The processes, on the CPU.
        config: Where tables are kept.

    Raises:
        ConfigError: If rows are to travel shortened, or live on another device than the CPU.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        generator: torch.Generator | None,
        init_std: float,
        group: Group,
        config: DistributedConfig,
    ) -> None:
        device, lookups = group.device.type, config.lookups
        require(
            device == "cpu",
            f"distributed.engine 'torchrec' runs on the CPU; got {device}; use 'scalerec'",
        )
        require(
            lookups == "fp32",
            f"distributed.engine 'torchrec' sends rows as fp32; got {lookups}; use 'scalerec'",
        )
        super().__init__(layout, width, generator, init_std, group, config)

    def use(self, engine: str, optimiser: RowOptimiser, name: str, *, half: bool = False) -> str:
        """Give the rows to TorchRec.

        Args:
            engine: `auto` or `fbgemm`, which is what TorchRec has.
            optimiser: Moves the rows.
            name: `rowwise_adagrad`, `adagrad` or `sgd`; without L2.
            half: Must not be.

        Raises:
            ConfigError: If TorchRec does not have it.
            MissingExtraError: If TorchRec is not installed.
        """
        require(
            engine in ("auto", "fbgemm") and not half,
            "distributed.engine 'torchrec' needs tables of engine auto or fbgemm, of fp32; got "
            f"{engine}{' of fp16' if half else ''}",
        )
        require(
            has_kernel(optimiser, name),
            "distributed.engine 'torchrec' has the optimisers "
            f"{', '.join(FBGEMM_OPTIMISERS)}, without l2; got {name} with "
            f"l2={getattr(optimiser, 'l2', 0.0)}; use 'scalerec'",
        )
        require(
            name != "rowwise_adagrad" or not self.plan.tables_of("column"),
            "distributed.engine 'torchrec' has a sum of its own for each process's columns of a "
            "row, which is not row-wise Adagrad; keep tables by row, or use adagrad",
        )
        widths = optimiser.state_widths(2)
        self.row_state = frozenset(part for part, width in widths.items() if width == 1)
        store = Store(self.plan, self.group, optimiser, name)
        for number, table in enumerate(self.num_rows):
            store.weight(number).copy_(self.table(table))
        self.engine = TorchRecEngine(store, self.group)
        return "fbgemm"

    def table(self, name: str) -> Tensor:
        """What is kept here of a table, live, ``[rows, columns]``."""
        if isinstance(self.engine, TorchRecEngine):
            return self.engine.store.weight(list(self.num_rows).index(name))
        return super().table(name)
