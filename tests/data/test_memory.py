"""Preparation and reading in bounded memory, on a file with a million rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The peak of memory is of a whole process, so each measurement has its own.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from scalerec.data.loading import Loader
from scalerec.data.prepare import prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import ParquetSource
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
folder, rows, width = Path(sys.argv[1]), int(sys.argv[2]), 30
draw = np.random.default_rng(0)
names = [f"c{i}" for i in range(width)]
fields = [(n, pa.int64()) for n in "uty"] + [(n, pa.float64()) for n in names]
with pq.ParquetWriter(folder / "in.parquet", pa.schema(fields)) as writer:
    for first in range(0, rows, 50_000):
        table = {"u": draw.integers(1000, size=50_000), "t": np.arange(first, first + 50_000),
                 "y": draw.integers(2, size=50_000), **{n: draw.random(50_000) for n in names}}
        writer.write_table(pa.table(table, pa.schema(fields)))
schema = Schema.from_dict({"user": "u", "timestamp": "t", "tasks": [{"name": "y"}], "features": [
    {"name": "u", "kind": "categorical", "role": "user"},
    *({"name": n, "kind": "numeric"} for n in names)]})
source = ParquetSource(folder / "in.parquet")
before = peak()
data = prepare(RawData(name="big", schema=schema, splits={"all": source}), folder / "out")
after = peak()
for batch in Loader(data.split("train"), 4096, 0, 65_536).epoch(0):
    pass
print(json.dumps([before, after, peak(), data.num_rows("train")]))
"""


def measure(folder: Path, rows: int) -> list[float]:
    folder.mkdir()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(rows)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )
    found: list[float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_memory_does_not_follow_the_width_of_the_file(tmp_path: Path) -> None:
    small, large = (measure(tmp_path / str(rows), rows) for rows in (600_000, 1_400_000))
    assert large[3] == 1_120_000
    # 800,000 more rows of 33 columns are 200 MB. Allowed are a few numbers a row, 40 bytes, twice
    # while they are joined, and what the allocator keeps, which differs by as much from one run of
    # several threads to the next. In MB.
    assert large[1] - large[0] < small[1] - small[0] + 100
    # Mapped pages of the stored 124 bytes a row count as memory, though they need not stay.
    assert large[2] - large[1] < small[2] - small[1] + 100
