"""Measure a machine's constants, in about a minute.

Everything is timed by what a core was busy with, the least of several rounds, on one thread: other
work on the machine then disturbs little. A net's constants are fitted to whole steps of nets of
several sizes, as they run in training.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scalerec.config import Config
from scalerec.data.layout import Layout
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.group import Group
from scalerec.distributed.planning.machine import Machine, RowCosts
from scalerec.distributed.planning.messages import measure_messages
from scalerec.distributed.planning.reads import TableReads
from scalerec.distributed.planning.shape import (
    model_shape,
    plain_layout,
    random_batch,
)
from scalerec.distributed.tables import ShardedTables
from scalerec.models.embedding import embed
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.models.tables import Tables
from scalerec.optim import OptimiserConfig, RowwiseAdagrad, build_optimiser
from scalerec.train.losses import task_loss

__all__ = ["calibrate"]

FIELDS, NUMBERS, ROUNDS = 26, 13, 7
# Rows that no cache holds, and rows that all do.
COLD_ROWS, HOT_ROWS = 40_000, 40
# What messages of gloo reach of a link whose rate is limited, as slow links were measured: TCP
# leaves 0.94 of it, but a process that waits for the last part of a message sends nothing then.
LINK_SHARE = 0.67
DISK_BYTES = 256 * 2**20
# A load above this is more than what came before this measurement.
BUSY = 1.5
Tell = Callable[[str], None]


def calibrate(folder: Path | None = None, tell: Tell = print) -> Machine:
    """Measure this machine.

    Args:
        folder: On the disk that checkpoints are written to; the system's temporary one by default.
        tell: Gets a line on what is measured next.
    """
    busy = os.getloadavg()[0]
    if busy > BUSY:
        tell(f"a machine that does other work (its load is {busy:.1f}): expect times too long")
    threads = torch.get_num_threads()
    found: dict[str, Any] = {**_facts(), "link_share": LINK_SHARE}
    try:
        tell("messages between processes")
        found |= measure_messages()
        torch.set_num_threads(1)
        tell("rows looked up and moved")
        found["whole"], found["spread"] = row_costs(spread=False), row_costs(spread=True)
        tell("matrix products and nets")
        found["product_gflops"] = {p: product_gflops(p) for p in ("fp32", "bf16")}
        nets = {
            precision: net_costs(precision, rate, found["whole"])
            for precision, rate in found["product_gflops"].items()
        }
        for name in ("net_gflops", "activation_ns"):
            found[name] = {precision: nets[precision][name] for precision in nets}
        found["step_ms"] = min(own["step_ms"] for own in nets.values())
        found["waiting"] = nets["fp32"]["waiting"]
        found["parameter_ns"] = parameter_ns()
        found["serial_share"] = serial_share() if (os.cpu_count() or 1) > 1 else 0.3
        tell("disk")
        found |= disk_rates(folder)
    finally:
        torch.set_num_threads(threads)
    plain = {k: v.to_dict() if isinstance(v, Config) else v for k, v in found.items()}
    return Machine.from_dict(plain)


def product_gflops(precision: str) -> float:
    """Of one core, of the three products of a layer of 400 from 400, over 2,048 rows."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w = torch.ones(2048, 400, dtype=dtype), torch.ones(400, 400, dtype=dtype)

    def work() -> None:
        y = x @ w.T
        torch.mm(y, w)
        torch.mm(y.T, x)

    return 3 * 2 * 2048 * 400 * 400 / _core_seconds(work) / 1e9


def row_costs(*, spread: bool) -> RowCosts:
    """Fit the costs of looked-up ids and of distinct rows to four kinds of batches.

    Args:
        spread: Whether rows are asked of a keeper, which is this process itself.
    """
    facts, seconds = [], []
    generator = torch.Generator().manual_seed(1)
    for width in (17, 65):
        for distinct, size in ((COLD_ROWS, 1024), (HOT_ROWS, 4096)):
            layout = _layout(COLD_ROWS)
            tables = _tables(layout, width, spread=spread)
            batch = random_batch(layout, size, generator, distinct)
            numbers = torch.ones(NUMBERS, width, requires_grad=True)
            none = torch.empty(size, 0, width)
            back = [
                torch.ones(shape) for shape in ((size, 39, width - 1), (size,), (size, width - 1))
            ]

            def work(given: Any = (tables, numbers, none, batch, back)) -> None:
                tables, numbers, none, batch, back = given
                out = embed(tables, numbers, none, batch)
                torch.autograd.backward(out, back)

            seconds.append(_core_seconds(work))
            ids = FIELDS * size
            rows = float(sum(len(own.unique()) for own in batch.ids))
            facts.append([ids, ids * width, rows, rows * width])
    found = _fit(facts, seconds) * 1e9
    names = ("id_ns", "id_number_ns", "row_ns", "row_number_ns")
    return RowCosts(**dict(zip(names, map(float, found), strict=True)))


def net_costs(precision: str, product_rate: float, whole: RowCosts) -> dict[str, float]:
    """Fit a net's products and activations, and a step's own time, to steps of several sizes.

    Args:
        precision: Of the net.
        product_rate: GFLOP/s of bare products, which a net cannot beat: what is above is fitted.
        whole: Rows' costs, which are taken off.
    """
    layout = _layout(HOT_ROWS)
    facts, above, whole_s = [], [], []
    steps: list[float] = []
    for hidden in ((400, 400, 400), (64, 64, 64)):
        spec = ModelSpec(model="deepfm", settings={"dim": 16, "hidden": list(hidden)})
        shape = model_shape(layout, spec)
        for size in (128, 1024, 4096):
            work, rows = _step(layout, spec, size, precision)
            held: list[float] = []
            taken = _core_seconds(work, held)
            products = size * shape.flops / product_rate * 1e-9
            above.append(taken - products - whole.seconds(FIELDS * size, rows, shape.width))
            facts.append([size * shape.flops, size * shape.activations, 1.0])
            whole_s.append(taken)
            if size == 1024:
                steps += list(np.array(held) / np.median(held))
    slower, activations, own = _fit(facts, above, whole_s)
    # The middle of the steps' deviations: other work on the machine is not the net's.
    waiting = 1.4826 * float(np.median(np.abs(np.array(steps) - 1.0)))
    return {
        "net_gflops": 1 / (1 / product_rate + float(slower) * 1e9),
        "activation_ns": float(activations) * 1e9,
        "step_ms": float(own) * 1e3,
        "waiting": waiting,
    }


def parameter_ns() -> float:
    """Of each number of the dense part, by Adam."""
    parameters = [torch.nn.Parameter(torch.zeros(400, 400)) for _ in range(4)]
    optimiser = build_optimiser(OptimiserConfig(), parameters)
    for parameter in parameters:
        parameter.grad = torch.ones(400, 400)
    return _core_seconds(optimiser.step) / (4 * 160_000) * 1e9


def serial_share() -> float:
    """Part of a step that a second thread does not shorten, by Amdahl's law."""
    layout = _layout(HOT_ROWS)
    spec = ModelSpec(model="deepfm", settings={"dim": 16, "hidden": [400, 400, 400]})
    taken = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        work, _ = _step(layout, spec, 2048, "fp32")
        work()
        walls = []
        for _ in range(2 * ROUNDS):
            start = time.perf_counter()
            work()
            walls.append(time.perf_counter() - start)
        taken.append(min(walls))
    torch.set_num_threads(1)
    return float(np.clip(2 * taken[1] / taken[0] - 1, 0.0, 1.0))


def disk_rates(folder: Path | None) -> dict[str, float]:
    """Bytes a second, written until they are on the disk, and read from it."""
    block = np.random.default_rng(1).bytes(DISK_BYTES // 16)
    with tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(16):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start = time.perf_counter()
        while file.read(len(block)):
            pass
        taken = time.perf_counter() - start
    return {"disk_write": DISK_BYTES / written, "disk_read": DISK_BYTES / taken}


def _facts() -> dict[str, Any]:
    """The processor, its cores and memory, and the day."""
    names = [
        line.partition(":")[2].strip()
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    return {
        "name": names[0] if names else platform.processor() or platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def _layout(rows: int) -> Layout:
    return plain_layout({f"c{i}": TableReads(rows=rows) for i in range(FIELDS)}, NUMBERS)


def _tables(layout: Layout, width: int, *, spread: bool) -> Tables:
    generator = torch.Generator().manual_seed(1)
    if spread:
        alone = Group(0, 1, torch.device("cpu"))
        tables: Tables = ShardedTables(layout, width, generator, 0.01, alone, DistributedConfig())
    else:
        tables = Tables(layout, width, generator, 0.01)
    tables.use("auto", RowwiseAdagrad(), "rowwise_adagrad")
    tables.engine.lr = 1e-6
    return tables


def _step(
    layout: Layout, spec: ModelSpec, size: int, precision: str
) -> tuple[Callable[[], None], float]:
    """A step of training without an optimiser of the dense part, and the rows that it reads."""
    recommender = build_recommender(layout, spec, 1)
    recommender.tables.use("auto", RowwiseAdagrad(), "rowwise_adagrad")
    batch = random_batch(layout, size, torch.Generator().manual_seed(2))
    dense = list(recommender.dense_parameters().values())

    def work() -> None:
        for parameter in dense:
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = task_loss(layout, recommender(batch).float(), batch)
        float(loss.detach())
        loss.backward()

    return work, float(sum(len(own.unique()) for own in batch.ids))


def _core_seconds(work: Callable[[], object], held: list[float] | None = None) -> float:
    """A core's time for one call, the least of several, each of at least 20 ms."""
    work()
    start = time.process_time()
    work()
    number = max(1, int(0.02 / max(1e-6, time.process_time() - start)))
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(number):
            work()
        found.append((time.process_time() - start) / number)
    if held is not None:
        held += found
    return min(found)


def _fit(
    facts: list[list[float]], seconds: list[float], scales: list[float] | None = None
) -> NDArray[np.float64]:
    """Costs, none below 0, that explain the times best, by the error relative to the scales.

    Args:
        facts: Of each time, what each cost counts for.
        seconds: The times.
        scales: What an error is held against; the times themselves unless given.
    """
    weights = np.array(seconds if scales is None else scales)
    matrix, wanted = np.array(facts) / weights[:, None], np.array(seconds) / weights
    kept = np.ones(matrix.shape[1], bool)
    while kept.any():
        found = np.zeros(len(kept))
        sizes = np.linalg.norm(matrix[:, kept], axis=0)
        found[kept] = np.linalg.lstsq(matrix[:, kept] / sizes, wanted)[0] / sizes
        if (found >= 0).all():
            return found
        # The most negative one, by what it takes off the times, is none at all.
        kept[int(np.argmin(found * np.linalg.norm(matrix, axis=0)))] = False
    return np.zeros(len(kept))
