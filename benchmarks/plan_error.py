"""How far `scalerec plan` is off: its predictions beside what was measured here.

DeepFM, dim 16, 26 categorical fields, 13 numbers, a tower of 3 x 400, row-wise Adagrad, one thread
a process. Predicted and measured are the time of a step and the bytes that a process sends in it:

1. 1, 2 and 4 processes of this machine, the global batch always 4096, in fp32 and bf16.
2. 2 hosts of one process each, made of network namespaces, with links of 1 Gbit to 20 Mbit; there
   also with shorter rows and gradients, and with local steps.

The machine's constants are measured first, in the same minutes; the model has no constant that is
fitted to these runs.

Usage: python benchmarks/plan_error.py [--work DIR] [--machine FILE] [--keep FILE] [--quick]
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import Claim, summarise, write_result

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
NET: dict[str, Any] = {"dim": 16, "hidden": [400, 400, 400]}
BATCH, ROWS_PER_FIELD, TRAIN = 4096, 100_000, 409_600
TIMEOUT_S = 600
SLOW = {"1gbit": 1e9, "100mbit": 1e8, "20mbit": 2e7}
SHORT = {"lookups": "int8", "codec": "bf16"}
LOCAL = {"aggregate": "local", "local_steps": 16}
# The bars: half of all step times within 15%, all bytes within 2%.
STEP_BAR, BYTES_BAR = 0.15, 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One way to run, and what came out.

    Args:
        name: What it is.
        predicted_s: Of a step.
        measured_s: The median of the steps.
        core_s: A core's time of a step of one process, measured.
        predicted_core_s: The same, predicted.
        predicted_bytes: That a process sends in a step.
        measured_bytes: The same, by the group's own count.
    """

    name: str
    predicted_s: float
    measured_s: float
    core_s: float
    predicted_core_s: float
    predicted_bytes: float
    measured_bytes: float

    @property
    def step_error(self) -> float:
        """Of the step's time, relative to what was measured."""
        return self.predicted_s / self.measured_s - 1

    @property
    def bytes_error(self) -> float:
        """Of the bytes; 0 for one process."""
        return self.predicted_bytes / self.measured_bytes - 1 if self.measured_bytes else 0.0


def make_data(work: Path) -> Path:
    """The data set of generated rows, made once."""
    from peers.criteo_like import CriteoLike, generate
    from table_size import plain

    folder = work / "data"
    generate(
        folder,
        CriteoLike(rows_per_field=ROWS_PER_FIELD, train=TRAIN, held_out=4096, exponent=1.05),
    )
    return plain(folder)


def job_of(
    data: Path, precision: str, distributed: dict[str, Any] | None, steps: int
) -> dict[str, Any]:
    """What a child is told."""
    return {
        "data": str(data),
        "config": {
            "batch_size": BATCH,
            "precision": precision,
            "patience": -1,
            "tables": {"optimiser": "rowwise_adagrad", "lr": 0.05},
        },
        "distributed": {"sharding": "row", **(distributed or {})},
        "steps": steps,
    }


def child(job: dict[str, Any]) -> None:
    """Be one process: take steps, and print what they took."""
    import torch

    from scalerec.data.dataset import Dataset
    from scalerec.distributed import DistributedConfig, Processes, join_group
    from scalerec.models.recommender import ModelSpec, build_recommender
    from scalerec.train import Learner, TrainConfig

    torch.set_num_threads(1)
    dataset, config = Dataset(job["data"]), TrainConfig.from_dict(job["config"])
    settings = DistributedConfig.from_dict(job["distributed"])
    spec = ModelSpec(model="deepfm", settings=NET)
    with join_group(timeout_s=TIMEOUT_S) as group:
        runtime = Processes(group, settings)
        made = runtime.make_tables(config.tables)
        recommender = build_recommender(dataset.layout, spec, config.seed, made)
        learner = Learner(recommender, dataset, config, runtime)
        units = _units(learner, runtime.make_loader(dataset, config), settings)
        for _ in range(2 if settings.aggregate == "local" else 6):
            next(units)
        before = dict(group.traffic.sent)
        walls, cores, number = [], [], 0
        while number < job["steps"]:
            wall, core = time.perf_counter(), time.process_time()
            taken = next(units)
            walls.append((time.perf_counter() - wall) / taken)
            cores.append((time.process_time() - core) / taken)
            number += taken
        sent = {k: (v - before.get(k, 0)) / number for k, v in group.traffic.sent.items()}
        found = {"walls": walls, "cores": cores, "sent": sent}
        print(json.dumps(found), flush=True)
        group.wait()


def _units(learner: Any, loader: Any, settings: Any) -> Iterator[int]:
    """Take a step each time, or a round of local steps; tell how many steps it was."""
    batches = _stream(loader)
    while settings.aggregate == "sync":
        learner.step(next(batches), 1.0)
        yield 1
    while True:
        own = [next(batches) for _ in range(settings.local_steps)]
        learner.begin_round(own)
        for batch in own:
            learner.step(batch, 1.0)
        learner.end_round()
        yield len(own)


def _stream(loader: Any) -> Iterator[Any]:
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


def environment(rank: int, world: int, where: str, port: int) -> dict[str, str]:
    """What a launcher says to one process."""
    own = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": where, "MASTER_PORT": port}
    paths = [str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: str(value) for name, value in own.items()},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def command(job: dict[str, Any]) -> list[str]:
    """One process."""
    return [sys.executable, str(HERE / "plan_error.py"), "--child", json.dumps(job)]


def collect(running: Sequence[subprocess.Popen[str]]) -> dict[str, Any]:
    """What the processes of a run printed, together."""
    try:
        outs = [process.communicate(timeout=TIMEOUT_S)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        raise RuntimeError("a process failed; its text is above")
    seen = [json.loads(out.splitlines()[-1]) for out in outs]
    return {
        "step_s": statistics.median(seen[0]["walls"]),
        "core_s": statistics.mean(statistics.median(own["cores"]) for own in seen),
        "sent": {
            name: statistics.mean(own["sent"].get(name, 0.0) for own in seen)
            for name in seen[0]["sent"]
        },
    }


def measure_here(job: dict[str, Any], world: int) -> dict[str, Any]:
    """So many processes of this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    running = [
        subprocess.Popen(
            command(job),
            env={**os.environ, **environment(rank, world, "127.0.0.1", port)},
            text=True,
            stdout=subprocess.PIPE,
        )
        for rank in range(world)
    ]
    return collect(running)


def measure_hosts(jobs: list[tuple[str, dict[str, Any]]], num_hosts: int = 2) -> list[Any]:
    """Hosts of one process each, a link's rate and a job at a time, in namespaces of their own."""
    words = [sys.executable, str(HERE / "plan_error.py"), "--hosts", str(num_hosts)]
    env = {**os.environ, **environment(0, 1, "", 0)}
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name)
    found = subprocess.run(
        [*words, json.dumps(jobs)], env=env, text=True, stdout=subprocess.PIPE, check=False
    )
    if found.returncode:
        raise RuntimeError(f"hosts ended with exit code {found.returncode}")
    return list(json.loads(found.stdout.splitlines()[-1]))


def inside_hosts(num_hosts: int, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    """Make the hosts, and run each job at its rate."""
    sys.path.insert(0, str(EXAMPLES))
    from hosts_links import Hosts, Link, enter_sandbox, parse_rate

    enter_sandbox()
    hosts = Hosts(num_hosts, Link())
    found = []
    for number, (rate, job) in enumerate(jobs):
        hosts.change(Link(rate=parse_rate(rate)))
        pipe = subprocess.PIPE
        running = [
            hosts.start(
                host,
                command(job),
                env=environment(host - 1, num_hosts, "host1", 29_500 + number),
                stdout=pipe,
            )
            for host in hosts.numbers
        ]
        found.append(collect(running))
    print(json.dumps(found))


def predicted(data: Path, machine: Any, job: dict[str, Any], **cluster: Any) -> Any:
    """The plan of a child's job, and its prediction."""
    from scalerec.data.dataset import Dataset
    from scalerec.distributed import DistributedConfig
    from scalerec.distributed.planning import Cluster, Job, measured_reads, model_shape, predict
    from scalerec.models.recommender import ModelSpec
    from scalerec.train import TrainConfig

    dataset = Dataset(data)
    return predict(
        Job(
            cluster=Cluster(threads=1, **cluster),
            machine=machine,
            shape=model_shape(dataset.layout, ModelSpec(model="deepfm", settings=NET)),
            reads=measured_reads(dataset),
            train=TrainConfig.from_dict(job["config"]),
            distributed=DistributedConfig.from_dict(job["distributed"]),
        )
    )


def case_of(name: str, plan: Any, found: dict[str, Any]) -> Case:
    """A prediction beside a measurement."""
    case = Case(
        name=name,
        predicted_s=plan.step_s,
        measured_s=found["step_s"],
        core_s=found["core_s"],
        predicted_core_s=sum(plan.work.values()),
        predicted_bytes=plan.sent.total,
        # The sums of weights and the counts are some tens of bytes.
        measured_bytes=sum(found["sent"].values()),
    )
    print(
        f"{name}: step {case.predicted_s * 1e3:,.1f} ms predicted, {case.measured_s * 1e3:,.1f} "
        f"measured, {case.step_error:+.0%}; core {case.predicted_core_s * 1e3:,.1f} predicted, "
        f"{case.core_s * 1e3:,.1f} measured; bytes {case.predicted_bytes:,.0f} predicted, "
        f"{case.measured_bytes:,.0f} measured, {case.bytes_error:+.2%}",
        flush=True,
    )
    return case


def local_cases(data: Path, machine: Any, worlds: Sequence[int], steps: int) -> list[Case]:
    """Processes of this machine."""
    cases = []
    for precision in ("fp32", "bf16"):
        for world in worlds:
            job = job_of(data, precision, None, steps)
            cores = os.cpu_count() or 1
            plan = predicted(data, machine, job, processes=world, cores=cores)
            name = f"{world} processes, {precision}"
            cases.append(case_of(name, plan, measure_here(job, world)))
    return cases


def link_cases(data: Path, machine: Any, rates: Sequence[str], steps: int) -> list[Case]:
    """Two hosts, by the rate of their link; at the slowest also with less to say."""
    ways = [(rate, "", {}) for rate in rates]
    slow = rates[-1]
    ways += [(slow, ", int8 rows and bf16 gradients", SHORT), (slow, ", 16 local steps", LOCAL)]
    jobs = [(rate, job_of(data, "fp32", way, steps)) for rate, _, way in ways]
    cases = []
    for (rate, words, _), (_, job), found in zip(ways, jobs, measure_hosts(jobs), strict=True):
        plan = predicted(
            data, machine, job, nodes=2, cores=1, link=SLOW[rate] / 8, latency_s=100e-6
        )
        cases.append(case_of(f"2 hosts, {rate}{words}", plan, found))
    return cases


def figures_and_claims(cases: Sequence[Case]) -> tuple[dict[str, Any], list[Claim]]:
    """What a result holds of some cases."""
    figures: dict[str, Any] = {}
    for case in cases:
        figures[f"{case.name}: step predicted, ms"] = case.predicted_s * 1e3
        figures[f"{case.name}: step measured, ms"] = case.measured_s * 1e3
        if case.measured_bytes:
            figures[f"{case.name}: bytes predicted"] = case.predicted_bytes
            figures[f"{case.name}: bytes measured"] = case.measured_bytes
    steps = [abs(case.step_error) for case in cases]
    sent = [abs(case.bytes_error) for case in cases if case.measured_bytes]
    figures["error of a step's time"] = summarise(steps)
    cores = [abs(case.predicted_core_s / case.core_s - 1) for case in cases]
    figures["error of a core's time of a step"] = summarise(cores)
    figures["error of the bytes sent"] = summarise(sent)
    return figures, [
        Claim("plan: error of a step's time, the median", statistics.median(steps), STEP_BAR,
              at_least=False),
        Claim("plan: error of the bytes sent, the largest", max(sent), BYTES_BAR, at_least=False),
    ]  # fmt: skip


NOTES = (
    "the machine's constants are measured before the runs, by `scalerec plan --calibrate`",
    "hosts are network namespaces of this machine; links are limited by tc tbf",
)


def main() -> int:
    """Measure, predict, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-plan-error"
    parser.add_argument("--work", type=Path, default=default)
    parser.add_argument("--machine", type=Path, help="measured constants, not to be measured anew")
    parser.add_argument("--keep", type=Path, help="where the constants go that are measured")
    parser.add_argument("--quick", action="store_true", help="few steps; writes no result")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--hosts", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return 0
    if options.hosts:
        inside_hosts(int(options.hosts[0]), json.loads(options.hosts[1]))
        return 0
    from scalerec.distributed.planning import read_machine, write_machine
    from scalerec.distributed.planning.calibrate import calibrate

    options.work.mkdir(parents=True, exist_ok=True)
    data = make_data(options.work)
    machine = read_machine(options.machine) if options.machine else calibrate(options.work)
    if options.keep:
        write_machine(options.keep, machine)
    steps = 4 if options.quick else 40
    cases = local_cases(data, machine, (1, 2, 4), steps)
    cases += link_cases(data, machine, list(SLOW), 4 if options.quick else 16)
    (options.work / "cases.json").write_text(json.dumps([asdict(case) for case in cases], indent=1))
    figures, claims = figures_and_claims(cases)
    if options.quick:
        for claim in claims:
            print(claim.name, round(claim.value, 4))
        return 0
    write_result("plan_error", figures, claims, notes=NOTES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
