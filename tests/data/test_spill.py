"""Columns that wait on disk come back as they were, in the type that was announced."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalerec.data import spill as module
from scalerec.data.spill import Spill

INT, FLOAT, SINGLE = np.int32, np.float64, np.float32


@pytest.mark.parametrize(
    ("blocks", "dtype", "sizes"),
    [
        ([[1, -128, 127], [128, -1, 0], [1 << 20, 0, 0]], INT, [3, 6, 12]),
        ([[-129, 0, 5], [0, 0, 0], [32768, -32769, 0]], INT, [6, 3, 12]),
        ([[0.5, np.nan, -np.inf], [0.1, 1.0, 2.0], [2.0**24 + 1, 0.0, 0.0]], FLOAT, [12, 24, 24]),
        ([[0.1, np.nan, 1e-40]], SINGLE, [12]),
    ],
)
def test_blocks_take_the_narrowest_type_that_is_exact(
    tmp_path: Path, blocks: list[list[float]], dtype: Any, sizes: list[int]
) -> None:
    spill = Spill(tmp_path / "waiting")
    spill.reserve("a", dtype)
    file, seen = tmp_path / "waiting" / "0.bin", 0
    for block, size in zip(blocks, sizes, strict=True):
        spill.append("a", np.array(block, dtype))
        spill.end_block(len(block))
        assert file.stat().st_size - seen == size
        seen += size
    (stretch,) = spill.stretches()
    found = spill.read("a", stretch)
    assert found.dtype == dtype
    assert found.tobytes() == np.array(blocks, dtype).ravel().tobytes()
    assert len(spill) == stretch.rows.stop == len(stretch) == 3 * len(blocks)
    spill.drop("a")
    assert not file.exists()


def test_stretches_hold_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRETCH_ROWS", 5)
    spill = Spill(tmp_path / "waiting")
    spill.reserve("row", np.int32)
    spill.reserve("list/values", np.int32)
    spill.reserve("pair", np.float32, (2,))
    assert not list(spill.stretches())
    sizes, first = [2, 3, 1, 7, 0, 2], 0
    for size in sizes:
        rows = np.arange(first, first + size, dtype=np.int32)
        spill.append("row", rows)
        spill.append("list/values", np.repeat(rows, 2))
        spill.append("pair", np.stack([rows, -rows], axis=1).astype(np.float32))
        spill.end_block(size)
        first += size
    found = list(spill.stretches())
    assert [list(stretch.blocks) for stretch in found] == [[0, 1], [2], [3], [4, 5]]
    assert [len(stretch) for stretch in found] == [5, 1, 7, 2]
    every = np.arange(15)
    for stretch in found:
        own = every[stretch.rows]
        assert spill.read("row", stretch).tolist() == own.tolist()
        assert spill.read("list/values", stretch).tolist() == np.repeat(own, 2).tolist()
        assert spill.read("pair", stretch)[:, 1].tolist() == (-own).tolist()
