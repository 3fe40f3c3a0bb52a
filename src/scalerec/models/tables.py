"""Embedding tables: ids in, rows out, in one lookup for all features.

All tables of a model are one matrix ``[R, W]``. Table t owns the rows from `start[t]` on; its row 0
is padding and stays zero, its row 1 is out-of-vocabulary and is trained. A row holds the embedding
and, in its last column, the first-order weight, so one lookup brings both.

From an id to its row leads a `RowMap`, the identity until a table grows, evicts, prunes or shares
rows.

Two faces. *Fused*: `Tables.forward` looks rows up and the engine moves them in the backward pass.
*Functional*: `read` copies touched rows into a plain tensor for pure optimisers, `vmap` and
second-order gradients, and `write` puts them back.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.data.narrowing import Narrowing, Widening
from scalerec.errors import ConfigError
from scalerec.models.compiled import COMPILED_OPTIMISERS, CompiledEngine
from scalerec.models.engines import DenseEngine, FusedEngine, RowOptimiser, TableEngine
from scalerec.models.fbgemm import FbgemmEngine
from scalerec.models.kernels.draw import draw_normal
from scalerec.models.kernels.threads import run_shares
from scalerec.models.memory import use_large_pages
from scalerec.models.rowmap import RowMap, pack_map, stored_map
from scalerec.models.sharing import Shares
from scalerec.models.table_checks import check_rows, check_weight

__all__ = ["ENGINES", "RowMap", "Tables", "draw_rows", "draw_seed", "make_engine"]

ENGINES = ("auto", "dense", "numba", "torch", "fbgemm")
# Far from each other, so that the draws of two tables are not those of two rows.
TABLE_STEP = 0xD1342543DE82EF95


def draw_seed(generator: torch.Generator) -> int:
    """A seed for the rows of all tables."""
    return int(torch.randint(2**62, (), generator=generator))


def draw_rows(
    rows_rw: Tensor, seed: int, table: int, std: float, *, first: int = 0, step: int = 1
) -> None:
    """Fill rows of a table with their initial values: embeddings by chance, first-order weight 0.

    A row's values follow from the seed, the table and the row, so whoever keeps some rows of a
    table draws those alone.

    Args:
        rows_rw: To be filled, ``[R, W]`` float32 on the CPU.
        seed: Of all tables.
        table: Number of the table in the layout.
        std: Standard deviation.
        first: Number of the first row in its table.
        step: Distance between the rows' numbers.
    """
    own = np.uint64((seed + (table + 1) * TABLE_STEP) % 2**64)
    run_shares(draw_normal, rows_rw.numpy(), first, step, own, std)
    rows_rw[:, -1] = 0.0


def make_engine(
    matrix: Tensor, engine: str, optimiser: RowOptimiser, name: str, *, half: bool = False
) -> tuple[str, TableEngine]:
    """Put a matrix into an engine; see `Tables.use`."""
    if engine not in ENGINES:
        raise ConfigError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "auto":
        on_cpu = matrix.device.type == "cpu"
        engine = "numba" if on_cpu and name in COMPILED_OPTIMISERS else "torch"
    if half and engine != "numba":
        raise ConfigError(f"rows of float16 need engine 'numba'; got {engine!r}")
    if engine == "fbgemm":
        return engine, FbgemmEngine(matrix, optimiser, name)
    own = matrix.contiguous()
    if engine == "dense":
        return engine, DenseEngine(own)
    if engine == "numba":
        return engine, CompiledEngine(own.half() if half else own, optimiser, name)
    return engine, FusedEngine(own, optimiser)


class Tables(nn.Module):
    """All embedding tables of a model.

    Args:
        layout: Names the tables, their sizes, and which field reads which.
        width: W, the columns of a row.
        generator: Draws the initial rows; without one they are zero, to be loaded.
        init_std: Standard deviation of the initial embeddings; first-order weights start at zero.
    """

    def __init__(
        self, layout: Layout, width: int, generator: torch.Generator | None, init_std: float = 0.01
    ) -> None:
        super().__init__()
        self.layout = layout
        self.maps = {name: RowMap(num_ids) for name, num_ids in layout.tables.items()}
        self.narrow: Narrowing | Widening = Narrowing(layout, ())
        self.shares: dict[str, Shares] = {}
        self.num_ids = dict(layout.tables)
        self._dims: dict[str, int] = {}
        self.width = width
        self.engine = self._start(generator, init_std)
        self._lay_out(layout.tables)
        self.keep_padding_zero()

    def _start(self, generator: torch.Generator | None, init_std: float) -> TableEngine:
        """The engine that holds the rows at first."""
        kept = [self._kept(number) for number in range(len(self.layout.tables))]
        matrix = torch.empty(sum(size for _, _, size in kept), self.width)
        use_large_pages(matrix)
        self.seed = None if generator is None else draw_seed(generator)
        if self.seed is None:
            matrix.zero_()
        else:
            parts = matrix.split([size for _, _, size in kept])
            for number, (part, (first, step, _)) in enumerate(zip(parts, kept, strict=True)):
                draw_rows(part, self.seed, number, init_std, first=first, step=step)
        return DenseEngine(matrix)

    def _kept(self, table: int) -> tuple[int, int, int]:
        """Which rows of a table are held here: the first, the distance to the next, how many."""
        return 0, 1, list(self.layout.tables.values())[table]

    def _lay_out(self, num_rows: Mapping[str, int]) -> None:
        """Note where each table's rows lie in the matrix."""
        self.num_rows = dict(num_rows)
        starts = [0]
        for size in self.num_rows.values():
            starts.append(starts[-1] + size)
        self.start = dict(zip(self.num_rows, starts, strict=False))
        whole, device = torch.int64, self._where()
        padding = torch.tensor(starts[:-1], dtype=whole, device=device)
        self.register_buffer("padding", padding, persistent=False)
        own = [self.start[field.table] for field in self.layout.ids]
        by_field = torch.tensor(own, dtype=whole, device=device).view(-1, 1)
        self.register_buffer("field_start", by_field, persistent=False)

    def _where(self) -> torch.device:
        return self.matrix.device

    @property
    def matrix(self) -> Tensor:
        """All rows, live, ``[R, W]``."""
        return self.engine.matrix

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.get_buffer("padding").device

    @property
    def num_weights(self) -> int:
        """Numbers in all tables, wherever their rows are kept."""
        return sum(size * self._width(name) for name, size in self.num_rows.items())

    def _width(self, name: str) -> int:
        """Columns that a table stores: those of its embedding, and the first-order weight."""
        return self._dims[name] + 1 if name in self._dims else self.width

    def shape(
        self, shares: Mapping[str, Shares], dims: Mapping[str, int], num_ids: Mapping[str, int]
    ) -> None:
        """Let ids share rows, and tables store fewer columns than the matrix has.

        Args:
            shares: Table to which rows its ids read; its size in the layout is that of its rows.
            dims: Table to the columns that its embedding takes, from the first on.
            num_ids: Table to its number of ids.
        """
        self.shares, self._dims, self.num_ids = dict(shares), dict(dims), dict(num_ids)
        for name, row_map in self.maps.items():
            row_map.num_ids = num_ids[name]

    def rows_of(self, batch: Batch) -> Tensor:
        """The matrix's rows that a batch reads, ``[F * B + V]``: ids by field, then each bag.

        Of a batch with fields that are left out, those are passed over. Where ids share rows, the
        second rows that they read come after these, field by field.
        """
        batch = self.narrow(batch)
        if self.shares or any(row_map.rows is not None for row_map in self.maps.values()):
            return _mapped(self, batch)
        parts = [(batch.ids + self.get_buffer("field_start")).flatten()]
        for field, bag in zip(self.layout.bags, batch.bags, strict=True):
            parts.append(bag.values + self.start[field.table])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def addresses(self, table: str, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The matrix's rows that ids of a table read.

        Args:
            table: Its name.
            ids: ``[K]`` int64.

        Returns:
            The first row of each, and the second where ids share rows, ``[K]`` int64 both.
        """
        rows, start = self.maps[table](ids), self.start[table]
        if table not in self.shares:
            return rows + start, None
        shares = self.shares[table]
        return shares.first(rows) + start, shares.second(rows) + start

    def forward(self, batch: Batch) -> Tensor:
        """Look up what the batch reads, ``[F * B + V, W]`` (the fused face); see `rows_of`."""
        return self.engine.lookup(self.rows_of(batch))

    def read(self, rows: Tensor) -> Tensor:
        """Copy rows ``[K]`` of the matrix, ``[K, W]`` float32 (the functional face)."""
        return self.matrix.index_select(0, rows).float()

    def write(self, rows: Tensor, values_kw: Tensor) -> None:
        """Put rows back; padding stays zero whatever arrives."""
        self.matrix[rows] = values_kw.to(self.matrix.dtype)
        self.keep_padding_zero()

    @torch.no_grad()
    def keep_padding_zero(self) -> None:
        """Zero the padding rows, whatever an optimiser did to them; call it after each step."""
        self.matrix.index_fill_(0, self.get_buffer("padding"), 0.0)

    def take_over(
        self, matrix: Tensor, num_rows: Mapping[str, int], maps: Mapping[str, Tensor | None]
    ) -> None:
        """Put another matrix in the place of the present one; a dense engine holds it.

        Args:
            matrix: ``[R, W]``, one table after the other; it is not copied.
            num_rows: Table to its number of rows, in the order of the layout; R in all.
            maps: Table to the row of each id, ``[ids]`` int64, or none where row i is that of id i.
        """
        for name, row_map in self.maps.items():
            rows = row_map.rows = maps[name]
            row_map.num_ids = self.layout.tables[name] if rows is None else len(rows)
        self.engine = DenseEngine(matrix)
        self._lay_out(num_rows)
        self.keep_padding_zero()

    def table(self, name: str) -> Tensor:
        """The live rows of one table, ``[rows, W]``."""
        start = self.start[name]
        return self.matrix[start : start + self.num_rows[name]]

    def use(self, engine: str, optimiser: RowOptimiser, name: str, *, half: bool = False) -> str:
        """Put the rows into another engine.

        Args:
            engine: `dense`, `numba` (fused, compiled, on the CPU), `torch` (fused, on any device),
                `fbgemm` (fused, on the CPU), or `auto`: numba on the CPU, else torch.
            optimiser: What moves the rows of a fused engine; the dense one leaves it to the caller.
            name: The optimiser's name, by which a kernel is picked.
            half: Whether rows are held as float16; engine `numba` only.

        Returns:
            The name of the engine that was taken.

        Raises:
            ConfigError: If there is no such engine, or it does not have the optimiser.
            MissingExtraError: If FBGEMM is asked for and not installed.
        """
        engine, self.engine = make_engine(self.matrix, engine, optimiser, name, half=half)
        self.keep_padding_zero()
        return engine

    def to_tensors(self) -> dict[str, Tensor]:
        """Every table's rows by name, and its row map where it is not the identity, for a bundle.

        They are live where the engine allows: a step changes them.
        """
        tensors = {}
        for name in self.num_rows:
            part, held = self._stored(name)
            tensors[f"tables.{name}.{part}"] = held
            rows = self.maps[name].rows
            if rows is not None:
                tensors[f"tables.{name}.rows"] = pack_map(rows)
        return tensors

    def _stored(self, name: str) -> tuple[str, Tensor]:
        """What is stored of a table, and its rows; live where it stores all columns."""
        rows, dim = self.table(name), self._width(name) - 1
        return "weight", rows.contiguous() if dim + 1 == self.width else _narrow(rows, dim)

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy every table's rows and row map, as `to_tensors` gave them, back in.

        A table may have another number of rows than here, as one whose ids share rows has; the
        rows are then held by a dense engine.

        Raises:
            ConfigError: If a table is missing, has another width, or has no row for an id.
        """
        for name in self.num_rows:
            self._check(name, tensors)
        for name, row_map in self.maps.items():
            rows = stored_map(tensors, name)
            row_map.rows = None if rows is None else rows.clone()
            row_map.num_ids = self.num_ids[name] if rows is None else len(rows)
        self._load(tensors)
        self.keep_padding_zero()

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        weights = {
            name: _widen(tensors[f"tables.{name}.weight"], self.width) for name in self.num_rows
        }
        sizes = {name: len(weight) for name, weight in weights.items()}
        if sizes != self.num_rows:
            device = self.matrix.device
            self.engine = DenseEngine(torch.cat([w.to(device) for w in weights.values()]))
            self._lay_out(sizes)
        else:
            for name, weight in weights.items():
                self.table(name).copy_(weight)

    def _check(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        weight, rows = tensors.get(f"tables.{name}.weight"), stored_map(tensors, name)
        check_weight(name, weight, (self._width(name), self.width))
        assert weight is not None, "that was checked"
        self._check_ids(name, len(weight), rows)

    def _check_ids(self, name: str, num_rows: int, rows: Tensor | None) -> None:
        shared = self.num_ids[name] if name in self.shares else None
        check_rows(name, num_rows, self.layout.tables[name], rows, shared)


def _mapped(tables: Tables, batch: Batch) -> Tensor:
    """As `Tables.rows_of`, where some ids do not read the row of their own number."""
    layout = tables.layout
    fields = [(field.table, ids) for field, ids in zip(layout.ids, batch.ids, strict=True)]
    bags = zip(layout.bags, batch.bags, strict=True)
    fields += [(field.table, bag.values) for field, bag in bags]
    parts, seconds = [batch.ids.new_zeros(0)], []
    for table, ids in fields:
        first, second = tables.addresses(table, ids)
        parts.append(first)
        seconds += [] if second is None else [second]
    return torch.cat(parts + seconds)


def _narrow(rows_rp: Tensor, dim: int) -> Tensor:
    """The first columns and the last, the first-order weight's."""
    return torch.cat([rows_rp[:, :dim], rows_rp[:, -1:]], 1)


def _widen(rows_rs: Tensor, width: int) -> Tensor:
    """Rows with zeros before the last column."""
    if rows_rs.shape[1] == width:
        return rows_rs
    gap = rows_rs.new_zeros(len(rows_rs), width - rows_rs.shape[1])
    return torch.cat([rows_rs[:, :-1], gap, rows_rs[:, -1:]], 1)
