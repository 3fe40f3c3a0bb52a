"""Histories stored once, as each user's log, beside the flat form with one list a row.

The flat form is what a table with a list column holds: the ids of every row's history as int32, and
where each row's begin as int64. Both are read by the same loader, from memory-mapped files, in
turns, each in a process of its own that sees one epoch of training batches. The resident bytes are
those of the histories' files as the kernel counts them for the process at the end of the epoch, and
beside them what the whole process grew by. Rates are by the seconds of the processor, on one
thread, so that other work on the machine does not count.

Usage: python benchmarks/history_memory.py [--users 200000] [--events 10000000] [--repeats 3]
       [--quick] [--folder FOLDER]   (keeps the data there)
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from common import Claim, summarise, write_result
from scalerec.data.columns import Columns, ColumnWriter
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare

MAX_LENGTH = 50
BATCH = 4096
CHUNK = 100_000
FORMS = ("log", "flat")
SCHEMA = f"""
user = "user"
item = "item"
timestamp = "time"
features = [
  {{ name = "user", kind = "categorical", role = "user" }},
  {{ name = "item", kind = "categorical", role = "item" }},
  {{ name = "past", kind = "sequence", role = "user", history = "all", max_length = {MAX_LENGTH} }},
]
tasks = [{{ name = "liked", kind = "binary" }}]
"""


def make_events(folder: Path, num_users: int, num_events: int, seed: int) -> Path:
    """Users of unequal activity, items by Zipf's law, times within 30 days."""
    numbers = np.random.default_rng(seed)
    activity = numbers.lognormal(0.0, 1.0, num_users)
    weights = 1.0 / np.arange(1, 20_001)
    table = pa.table(
        {
            "user": numbers.choice(num_users, num_events, p=activity / activity.sum()),
            "item": numbers.choice(len(weights), num_events, p=weights / weights.sum()),
            "time": numbers.integers(1_700_000_000, 1_702_592_000, num_events),
            "liked": numbers.integers(0, 2, num_events),
        }
    )
    path = folder / "events.parquet"
    pq.write_table(table, path)
    return path


def write_flat(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Write the history of every training row as a list of its own."""
    writer, events = ColumnWriter(folder), dataset.split("train")
    for start in range(0, len(events), CHUNK):
        bag = events.read(start, start + CHUNK).bags[0]
        lengths = np.diff(bag.offsets.numpy())
        writer.append_lists("past", bag.values.numpy().astype(np.int32), lengths)
    return writer.close()


def files_of(dataset: Dataset, folder: Path, form: str) -> list[Path]:
    """The files that hold the histories in a form."""
    if form == "flat":
        return sorted((folder / "flat").iterdir())
    stores = dataset.manifest["stores"]
    past = dataset.directory / "train" / stores["train"]["past/all"]["file"]
    return [*sorted((dataset.directory / "log-all").iterdir()), past]


def resident(paths: Iterable[Path]) -> int:
    """Bytes of files that are mapped into this process and in memory."""
    wanted, total, own = {str(path.resolve()) for path in paths}, 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0]:
            own = len(head) == 6 and head[5] in wanted
        elif own and head[0] == "Rss:":
            total += int(head[1]) * 1024
    return total


def rss() -> int:
    """Bytes of this process in memory, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * 4096


def measure(folder: Path, form: str) -> dict[str, float]:
    """Load one epoch of training batches, and tell the rate and what is in memory at its end."""
    torch.set_num_threads(1)
    dataset = Dataset(folder / "data")
    if form == "flat":
        specs = json.loads((folder / "flat.json").read_text("utf-8"))
        flat = Columns(folder / "flat", specs)

        def history(_field: object, own: Any) -> Any:
            from scalerec.data.batches import Bag

            values, offsets = flat.lists("past", own.rows)
            return Bag(torch.from_numpy(values.astype(np.int64)), torch.from_numpy(offsets))

        dataset.assembler._history = history  # type: ignore[method-assign]
    dataset.split("train").read(0, 1)  # what is loaded or compiled once is not counted
    loader, before, rows, check = Loader(dataset.split("train"), BATCH, 1), rss(), 0, 0
    largest, start = before, time.process_time()
    for batch in loader.epoch(0):
        rows += len(batch)
        check += int(batch.bags[0].values.sum())
        largest = max(largest, rss())
    seconds = time.process_time() - start
    held = resident(files_of(dataset, folder, form))
    found = {"rows a second": rows / seconds, "resident bytes": float(held)}
    return {**found, "growth of the process": float(largest - before), "check": float(check)}


def run(folder: Path, form: str) -> dict[str, float]:
    """Measure in a fresh process."""
    words = [sys.executable, __file__, "--measure", form, "--folder", str(folder)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    print(form, {name: round(value) for name, value in found.items()}, flush=True)
    return found


def compare(folder: Path, repeats: int) -> dict[str, Any]:
    """Both forms' figures, measured in turns."""
    dataset = Dataset(folder / "data")
    if not (folder / "flat.json").exists():
        specs = write_flat(dataset, folder / "flat")
        (folder / "flat.json").write_text(json.dumps(specs), "utf-8")
    sizes = {form: files_of(dataset, folder, form) for form in FORMS}
    figures: dict[str, Any] = {"training rows": dataset.num_rows("train")}
    for form in FORMS:
        figures[f"{form}, bytes on disk"] = sum(path.stat().st_size for path in sizes[form])
    figures["padded, bytes"] = figures["training rows"] * MAX_LENGTH * 4
    runs: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form in FORMS:
            runs[form].append(run(folder, form))
    checks = {found["check"] for form in FORMS for found in runs[form]}
    assert len(checks) == 1, "the two forms do not hold the same histories"
    for form in FORMS:
        for name in ("resident bytes", "growth of the process", "rows a second"):
            figures[f"{form}, {name}"] = summarise([found[name] for found in runs[form]])
    return figures


def claims(figures: dict[str, Any]) -> list[Claim]:
    """What the figures must show."""
    disk = figures["flat, bytes on disk"] / figures["log, bytes on disk"]
    held = [figures[f"{form}, resident bytes"]["median"] for form in FORMS]
    rate = [figures[f"{form}, rows a second"]["median"] for form in FORMS]
    return [
        Claim("flat form against logs, times the bytes on disk", disk, 10.0, at_least=True),
        Claim("flat form against logs, times the bytes in memory", held[1] / held[0], 10.0, True),
        Claim("rate of loading from logs against the flat form", rate[0] / rate[1], 0.8, True),
    ]


def main() -> int:
    """Make the data, measure both forms, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a hundredth of it; writes no result")
    parser.add_argument("--measure", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure)))
        return 0
    part = 100 if options.quick else 1
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if not (folder / "data").exists():
            events = make_events(folder, options.users // part, options.events // part, seed=1)
            (folder / "schema.toml").write_text(SCHEMA, "utf-8")
            prepare(open_raw(str(events), schema=folder / "schema.toml"), folder / "data")
        figures = compare(folder, 1 if options.quick else options.repeats)
    held = claims(figures)
    if options.quick:
        print(figures)
        return 0
    note = (
        f"{options.users:,} simulated users, {options.events:,} events, histories of at most "
        f"{MAX_LENGTH}, batches of {BATCH:,}, one thread"
    )
    write_result("history_memory", figures, held, seeds=[1], notes=[note])
    return 0


if __name__ == "__main__":
    sys.exit(main())
