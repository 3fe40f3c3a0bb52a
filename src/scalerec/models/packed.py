"""Rows of tables in few bits, for scoring alone: how they are packed, and tables of them.

A row lies in memory as it is stored, its codes beside their scale, so that a look-up touches one
place. By bits, with d columns of the embedding:

- 16: ``d + 1`` float16, the first-order weight last.
- 8: float16 scale, float16 first-order weight, d codes from -127 to 127.
- 4: float16 scale, offset and first-order weight, ``d / 2`` bytes of two codes from 0 to 15 each,
  the earlier column in the lower half.

A number is its code times the scale, plus the offset. The padding row is all zero bytes, which is
exactly zero. The first-order weight has its own float16: it is of another size than the embedding.

Shapes: R rows, D columns of the embedding, W = D + 1, K looked-up rows, P columns of the widest.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.errors import ConfigError
from scalerec.models.engines import RowOptimiser, TableEngine
from scalerec.models.forms import TableForm
from scalerec.models.kernels.threads import run_shares
from scalerec.models.kernels.unpack import unpack
from scalerec.models.rowmap import stored_map
from scalerec.models.tables import Tables

__all__ = ["PackedTables", "pack_rows", "packed_bytes", "quantise_rows", "unpack_rows"]

# Below so many looked-up rows another thread is not worth its start.
ROWS_A_SHARE = 8192
# Shares of the widest range that are tried for codes of 4 bits.
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
HALVES = {8: 2, 4: 3}


def packed_bytes(bits: int, dim: int) -> int:
    """Bytes of a row with `dim` columns of the embedding and the first-order weight."""
    if bits in (32, 16):
        return (dim + 1) * bits // 8
    return 2 * HALVES[bits] + (dim if bits == 8 else -(-dim // 2))


def quantise_rows(rows_rd: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes of rows, each with scales of its own.

    With 4 bits, several ranges narrower than a row's own are tried, and the one with the smallest
    squared error is taken: Post-Training 4-bit Quantization on Embedding Tables (Guan et al.,
    2019), https://arxiv.org/abs/1911.02079, section 3.

    Args:
        rows_rd: ``[R, D]`` float32.
        bits: 8 or 4.

    Returns:
        With 8 bits codes ``[R, D]`` int8 and scales ``[R, 1]`` float16. With 4 bits codes
        ``[R, D]`` uint8 up to 15, and scales and offsets ``[R, 2]`` float16. A number is its code
        times the scale, plus the offset; rows of zeros stay so exactly.

    Raises:
        ConfigError: If a number is not finite or too large, or there are other bits.
    """
    require(bits in HALVES, f"bits of codes must be 8 or 4; got {bits}")
    limit = torch.finfo(torch.float16).max
    largest = rows_rd.abs().amax() if rows_rd.numel() else torch.zeros(())
    require(bool(largest <= limit), f"numbers to quantise must be at most {limit:.0f}")
    if bits == 8:
        scales = (rows_rd.abs().amax(1, keepdim=True) / 127.0).half()
        steps = rows_rd / _divisor(scales)
        return torch.round(steps).clamp(-127, 127).to(torch.int8), scales
    low, high = rows_rd.amin(1, keepdim=True), rows_rd.amax(1, keepdim=True)
    middle, best = (low + high) / 2, torch.full_like(low, torch.inf)
    codes, ends = torch.zeros_like(rows_rd), torch.zeros(len(rows_rd), 2, dtype=torch.float16)
    for clip in CLIPS:
        half = (high - low) / 2 * clip
        scales, offsets = (2 * half / 15.0).half(), (middle - half).half()
        own = torch.round((rows_rd - offsets) / _divisor(scales)).clamp(0, 15)
        error = (own * scales + offsets - rows_rd).square().sum(1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better, own, codes)
        ends = torch.where(better, torch.cat([scales, offsets], 1), ends)
    return codes.to(torch.uint8), ends


def _divisor(scales_r1: Tensor) -> Tensor:
    """The scales as float32, one where they are zero."""
    whole = scales_r1.float()
    return torch.where(whole > 0, whole, 1.0)


def pack_rows(rows_rw: Tensor, bits: int) -> Tensor:
    """Rows as bytes.

    Args:
        rows_rw: Embedding and, last, first-order weight, ``[R, D + 1]`` float32.
        bits: 32, 16, 8 or 4.

    Returns:
        ``[R, packed_bytes(bits, D)]`` uint8.

    Raises:
        ConfigError: As `quantise_rows`.
    """
    rows = rows_rw.detach().float().cpu().contiguous()
    if bits in (32, 16):
        return (rows if bits == 32 else rows.half()).view(torch.uint8)
    codes, scales = quantise_rows(rows[:, :-1], bits)
    if bits == 8:
        packed = codes.view(torch.uint8)
    else:
        even = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
        packed = even[:, 0::2] | even[:, 1::2] << 4
    halves = torch.cat([scales, rows[:, -1:].half()], 1)
    return torch.cat([halves.view(torch.uint8), packed], 1)


def unpack_rows(packed: Tensor, bits: int, dim: int) -> Tensor:
    """Undo `pack_rows` but for what was rounded, in plain operations: ``[R, dim + 1]`` float32."""
    if bits == 32:
        return _as(packed, torch.float32)
    if bits == 16:
        return _as(packed, torch.float16).float()
    size = 2 * HALVES[bits]
    halves = _as(packed[:, :size], torch.float16).float()
    codes, linear = packed[:, size:].contiguous(), halves[:, -1:]
    if bits == 8:
        return torch.cat([codes.view(torch.int8) * halves[:, :1], linear], 1)
    both = torch.stack([codes & 15, codes >> 4], -1).flatten(1)[:, :dim]
    return torch.cat([both * halves[:, :1] + halves[:, 1:2], linear], 1)


def _as(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers; a flat copy in between, since they may begin and end anywhere."""
    num, size = packed.shape
    return packed.flatten().clone().view(dtype).view(num, size // dtype.itemsize)


class PackedEngine(TableEngine):
    """Rows of few bits; a look-up makes them float32, and nothing moves them.

    Args:
        tables: Packed rows of each table, ``[R, bytes]`` uint8.
        kinds: Bits and columns of the embedding of each.
        width: P.
    """

    def __init__(self, tables: list[Tensor], kinds: list[tuple[int, int]], width: int) -> None:
        super().__init__()
        self.width = width
        self.kinds = [(bits, dim, packed_bytes(bits, dim)) for bits, dim in kinds]
        self.num_rows = [len(rows) for rows in tables]
        self._starts = np.concatenate([[0], np.cumsum(self.num_rows)]).astype(np.int64)
        sizes = [rows.numel() for rows in tables]
        self._places = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        flat = torch.cat([rows.flatten() for rows in tables]) if tables else _no_bytes()
        self.register_buffer("flat", flat, persistent=False)

    @property
    def matrix(self) -> Tensor:
        """There is none.

        Raises:
            ConfigError: Always; what needs a matrix would train the rows.
        """
        raise ConfigError(
            "tables of 16, 8 or 4 bits are looked up only: their rows cannot be trained or changed"
        )

    def part(self, table: int) -> Tensor:
        """The packed rows of a table, live, ``[R, bytes]`` uint8."""
        part = self.get_buffer("flat")[self._places[table] : self._places[table + 1]]
        return part.view(self.num_rows[table], -1)

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows ``[K]`` of all tables, ``[K, P]`` float32, without a gradient."""
        num = int(self._starts[-1])
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < num):
            raise IndexError(
                f"rows must be from 0 to {num - 1}; got {int(rows.min())} to {int(rows.max())}"
            )
        if rows.device.type != "cpu":
            return self._plain(rows)
        out = torch.empty(len(rows), self.width)
        kinds, flat = np.array(self.kinds, np.int64).reshape(-1, 3), self.get_buffer("flat").numpy()
        held = self._starts, self._places, kinds, flat
        run_shares(unpack, rows.numpy(), *held, out.numpy(), most=1 + len(rows) // ROWS_A_SHARE)
        return out

    def _plain(self, rows: Tensor) -> Tensor:
        """As `lookup`, in plain operations on any device."""
        out = torch.zeros(len(rows), self.width, device=rows.device)
        for table, (bits, dim, _) in enumerate(self.kinds):
            start, stop = (int(bound) for bound in self._starts[table : table + 2])
            own = ((rows >= start) & (rows < stop)).nonzero().flatten()
            found = unpack_rows(self.part(table)[rows[own] - start], bits, dim)
            out[own, :dim], out[own, -1] = found[:, :-1], found[:, -1]
        return out


class PackedTables(Tables):
    """Tables of which some have rows of few bits: looked up, and never trained.

    Args:
        layout: Names the tables and their numbers of rows.
        width: P, the columns of a looked-up row.
        forms: Table to its form.
        dims: Table to the columns of its embedding.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        forms: Mapping[str, TableForm],
        dims: Mapping[str, int],
    ) -> None:
        self.bits = {name: forms[name].bits if name in forms else 32 for name in layout.tables}
        self.kinds = [(self.bits[name], dims[name]) for name in layout.tables]
        super().__init__(layout, width, None)

    def _start(self, generator: torch.Generator | None, init_std: float) -> TableEngine:
        del generator, init_std
        return self._engine(
            [
                torch.zeros(size, packed_bytes(*kind), dtype=torch.uint8)
                for size, kind in zip(self.layout.tables.values(), self.kinds, strict=True)
            ]
        )

    def _where(self) -> torch.device:
        return self.engine.get_buffer("flat").device

    def _engine(self, tables: list[Tensor]) -> PackedEngine:
        return PackedEngine(tables, self.kinds, self.width)

    def read(self, rows: Tensor) -> Tensor:
        """Rows ``[K]`` as float32, ``[K, P]``."""
        return self.engine.lookup(rows)

    def table(self, name: str) -> Tensor:
        """The rows of one table as float32, ``[rows, P]``; a copy."""
        start = self.start[name]
        return self.read(torch.arange(start, start + self.num_rows[name], device=self.device))

    @torch.no_grad()
    def keep_padding_zero(self) -> None:
        """Zero the padding rows."""
        for number in range(len(self.layout.tables)):
            self._packed(number)[:1] = 0

    def use(self, engine: str, optimiser: RowOptimiser, name: str, *, half: bool = False) -> str:
        """Refuse another engine.

        Raises:
            ConfigError: Always.
        """
        del engine, optimiser, name, half
        names = ", ".join(repr(own) for own, bits in self.bits.items() if bits < 32)
        raise ConfigError(
            f"tables of 16, 8 or 4 bits are looked up only and cannot be trained: {names}; "
            "train before they are quantised"
        )

    def _packed(self, number: int) -> Tensor:
        assert isinstance(self.engine, PackedEngine), "no other engine holds packed rows"
        return self.engine.part(number)

    def _stored(self, name: str) -> tuple[str, Tensor]:
        number = list(self.layout.tables).index(name)
        packed, (bits, dim) = self._packed(number), self.kinds[number]
        if bits == 32:
            return "weight", unpack_rows(packed, bits, dim)
        return "codes", packed

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        found = []
        for name, (bits, _) in zip(self.layout.tables, self.kinds, strict=True):
            own = tensors.get(f"tables.{name}.{'weight' if bits == 32 else 'codes'}")
            assert own is not None, "it was checked"
            found.append(pack_rows(own, bits) if bits == 32 else own.to(self.device))
        self.engine = self._engine(found)
        self._lay_out(dict(zip(self.layout.tables, map(len, found), strict=True)))

    def _check(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        number = list(self.layout.tables).index(name)
        bits, dim = self.kinds[number]
        if bits == 32:
            super()._check(name, tensors)
            return
        codes, size = tensors.get(f"tables.{name}.codes"), packed_bytes(bits, dim)
        if codes is None:
            raise ConfigError(f"table {name!r} has no rows: tables.{name}.codes is missing")
        if codes.dtype is not torch.uint8 or codes.ndim != 2 or codes.shape[1] != size:
            raise ConfigError(
                f"table {name!r} of {bits} bits must have rows of {size} bytes, uint8; "
                f"got {str(codes.dtype).removeprefix('torch.')} {list(codes.shape)}"
            )
        self._check_ids(name, len(codes), stored_map(tensors, name))


def _no_bytes() -> Tensor:
    return torch.zeros(0, dtype=torch.uint8)
