"""Training across hosts as the link between them gets slower: what local SGD and codecs win.

Hosts are network namespaces of this machine (`examples/hosts_links.py`): every host has one link to
a switch, whose rate is limited each way by tc's token bucket, and whose delay, where there is one,
is made in user space. Every host runs one process of one thread; all share this machine's cores.

Each way of training is timed on each link, as samples a second, the bytes that training counts set
beside those of the interfaces. What it learns does not depend on the link: the AUC after the same
number of samples is measured once for each way, without a limit. DeepFM on Frappe, with tables
spread by rows; SCALEREC_DATA names the folder that holds frappe/.

A whole run takes most of an hour. With `--work DIR` every measurement is kept there at once, and a
later run goes on where an earlier one ended; `--only quality` measures what other work on the
machine does not change, `--only rates` the rest.

Usage: python benchmarks/slow_links.py [--hosts 1,2,4] [--seeds 3] [--work DIR] [--only quality]
       python benchmarks/slow_links.py --quick
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Claim, summarise, write_result

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))

from hosts_links import Hosts, Link, address, enter_sandbox  # noqa: E402

WORKER = Path(__file__).parent / "peers" / "scalerec_links.py"
PICTURE = ROOT / "docs" / "slow_links.svg"
MARK = "ANSWER"
PORT = 29500
BATCH = 1024
EPOCHS = 5
LINKS = {
    "no limit": Link(),
    "1 Gbit/s": Link(rate=1e9),
    "100 Mbit/s": Link(rate=1e8),
    "20 Mbit/s": Link(rate=2e7),
    "no limit, 5 ms": Link(delay_ms=5),
    "1 Gbit/s, 5 ms": Link(rate=1e9, delay_ms=5),
    "100 Mbit/s, 5 ms": Link(rate=1e8, delay_ms=5),
    "20 Mbit/s, 5 ms": Link(rate=2e7, delay_ms=5),
}
SLOWEST = "20 Mbit/s"
PLAIN = "fp32"
# How the processes work together; what is not said is as DistributedConfig has it.
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "bf16": {"codec": "bf16", "lookups": "bf16"},
    "top 1%": {"codec": "topk:0.01"},
    "PowerSGD 2": {"codec": "powersgd:2"},
    "int8 rows": {"lookups": "int8"},
    "PowerSGD 2, int8 rows": {"codec": "powersgd:2", "lookups": "int8"},
    "local 16": {"aggregate": "local", "local_steps": 16},
    "local 64": {"aggregate": "local", "local_steps": 64},
    "local 16, bf16, int8 rows": {
        "aggregate": "local",
        "local_steps": 16,
        "codec": "bf16",
        "lookups": "int8",
    },
    "local 64, bf16, int8 rows": {
        "aggregate": "local",
        "local_steps": 64,
        "codec": "bf16",
        "lookups": "int8",
    },
    "local 64, PowerSGD 2, int8 rows": {
        "aggregate": "local",
        "local_steps": 64,
        "codec": "powersgd:2",
        "lookups": "int8",
    },
}
DENSE = ("gradients", "displacements")  # what Traffic calls the dense part
QUICK_WAYS = (PLAIN, "PowerSGD 2, int8 rows", "local 16")
QUICK_LINKS = ("no limit", SLOWEST)
# Of more than two hosts.
FEWER_WAYS = (PLAIN, "PowerSGD 2, int8 rows", "local 16", "local 64, bf16, int8 rows")
FEWER_LINKS = ("no limit", "100 Mbit/s", SLOWEST, "20 Mbit/s, 5 ms")
TIMEOUT_S = 300.0
MOST_LOST = 0.001  # of AUC


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured.

    Args:
        seconds: Of a measurement of the rate, about.
        least: Rounds of it, at least.
        epochs: Of training, for the AUC.
        seeds: Of it.
    """

    seconds: float
    least: int
    epochs: int
    seeds: tuple[int, ...]


class Crew:
    """The processes of some hosts, which do one task after the other.

    Args:
        hosts: All hosts.
        world: How many of them take part.
        settings: What every process reads.
    """

    def __init__(self, hosts: Hosts, world: int, settings: dict[str, Any]) -> None:
        command = [sys.executable, str(WORKER), json.dumps(settings)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.processes = []
        for rank in range(world):
            place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": PORT + world}
            env = {name: str(value) for name, value in place.items()}
            env |= {"MASTER_ADDR": address(1), "OMP_NUM_THREADS": "1"}
            self.processes.append(hosts.start(rank + 1, command, env=env, **pipes))
        self._answers()

    def ask(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Let all do a task; their answers, by rank.

        Raises:
            RuntimeError: If one of them has ended.
        """
        for process in self.processes:
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
            except BrokenPipeError as error:
                raise RuntimeError("a process has ended") from error
        return self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        found = []
        for process in self.processes:
            assert process.stdout is not None
            lines = (line for line in process.stdout if line.startswith(MARK))
            line = next(lines, "")
            if not line:
                raise RuntimeError("a process has ended without an answer")
            found.append(json.loads(line.removeprefix(MARK)))
        return found

    def end(self) -> None:
        """Let all of them go."""
        for process in self.processes:
            process.kill()
            process.wait()


class Bench:
    """Asks crews, and starts a new one after a failure.

    Args:
        hosts: All hosts.
        settings: What every process reads.
        effort: How long is measured.
        kept: Where answers are kept for a later run, if they are.
    """

    def __init__(
        self, hosts: Hosts, settings: dict[str, Any], effort: Effort, kept: Path | None = None
    ) -> None:
        self.hosts, self.settings, self.effort, self.path = hosts, settings, effort, kept
        self.kept: dict[str, Any] = {}
        if kept is not None and kept.exists():
            self.kept = json.loads(kept.read_text("utf-8"))
        self.world = 0
        self.crew: Crew | None = None

    def ask(self, key: str, world: int, link: Link, task: dict[str, Any]) -> Any:
        """What so many hosts answer, now or earlier; None after a failure, which is told."""
        if key in self.kept:
            return self.kept[key]
        try:
            if self.crew is None or world != self.world:
                self.end()
                self.hosts.change(Link())
                self.world, self.crew = world, Crew(self.hosts, world, self.settings)
            self.hosts.change(link)
            self.kept[key] = self.crew.ask(task)
        except RuntimeError as error:
            print(f"{key}: {error}", file=sys.stderr)
            self.end()
            return None
        if self.path is not None:
            self.path.write_text(json.dumps(self.kept, indent=1) + "\n", "utf-8")
        return self.kept[key]

    def end(self) -> None:
        """Let the crew go."""
        if self.crew is not None:
            self.crew.end()
        self.crew = None

    def rate(self, world: int, way: str, link: str) -> dict[str, Any] | None:
        """Samples a second, and bytes a step of the process that sends most."""
        task = {"task": "rate", "least": self.effort.least, "most": 200}
        task |= {"seconds": self.effort.seconds, "distributed": distributed(way)}
        answers = self.ask(f"{hosts_of(world)}, {way}, {link}", world, LINKS[link], task)
        if answers is None:
            return None
        found = {
            "rate": BATCH / max(own["seconds"] for own in answers),
            "wire": max(own["wire"] for own in answers),
            "counted": max(sum(own["counted"].values()) for own in answers),
            "dense": max(sum(own["counted"].get(n, 0) for n in DENSE) for own in answers),
        }
        found["bits a second"] = max(8 * own["wire"] / own["seconds"] for own in answers)
        print(
            f"{hosts_of(world)}, {link}, {way}: {found['rate']:,.0f} samples/s; bytes a step: "
            f"{found['counted']:,.0f} counted, {found['wire']:,.0f} on the wire",
            flush=True,
        )
        return found

    def quality(self, world: int, way: str) -> dict[str, float] | None:
        """The AUC after all samples, over the seeds."""
        found = []
        for seed in self.effort.seeds:
            task = {"task": "quality", "seed": seed, "epochs": self.effort.epochs}
            task["distributed"] = distributed(way)
            answers = self.ask(f"{hosts_of(world)}, {way}, seed {seed}", world, Link(), task)
            if answers is None:
                return None
            found.append(float(answers[0]["auc"]))
            seconds = answers[0]["seconds"]
            print(f"{hosts_of(world)}, {way}: AUC {found[-1]:.5f} in {seconds:.0f} s", flush=True)
        return summarise(found)


def hosts_of(world: int) -> str:
    """So many hosts, in words."""
    return "1 host" if world == 1 else f"{world} hosts"


def distributed(way: str) -> dict[str, Any]:
    """A way's settings of several processes."""
    return {"sharding": "row", "timeout_s": TIMEOUT_S, **WAYS[way]}


def settings_of(dataset: Any, folder: Path, effort: Effort) -> dict[str, Any]:
    """What every process reads: the model and its recipe."""
    steps = effort.epochs * -(-dataset.num_rows("train") // BATCH)
    net = {"dim": 64, "hidden": [256, 128], "dropout": 0.3}
    return {
        "data": str(folder),
        "timeout_s": TIMEOUT_S,
        "spec": {"model": "deepfm", "settings": net, "init_std": 0.1},
        "config": {
            "batch_size": BATCH,
            "epochs": effort.epochs,
            "seed": 1,
            "patience": -1,
            "precision": "fp32",
            "dense": {"lr": 3e-3},
            "tables": {"optimiser": "rowwise_adagrad", "lr": 0.2, "l2": 1.5e-5},
            "schedule": {"name": "linear", "warmup_steps": steps // 20},
            "checkpoint_seconds": 0,
        },
    }


def measure(
    bench: Bench, worlds: Sequence[int], ways: Sequence[str], links: Sequence[str], only: str
) -> dict[str, Any]:
    """All figures; a single host has no link and one way, and more than two have fewer."""
    figures: dict[str, Any] = {}
    for world in worlds:
        own_ways, own_links = list(ways), list(links)
        if world == 1:
            own_ways, own_links = [PLAIN], ["no limit"]
        elif world > 2:
            own_ways = [way for way in ways if way in FEWER_WAYS]
            own_links = [link for link in links if link in FEWER_LINKS]
        for way in own_ways if only != "rates" else []:
            auc = bench.quality(world, way)
            if auc is not None:
                figures[f"{hosts_of(world)}, {way}: test AUC"] = auc
        for link in own_links if only != "quality" else []:
            for way in own_ways:
                found = bench.rate(world, way, link)
                if found is not None:
                    figures |= figures_of(found, world, way, link)
    bench.end()
    return figures


def figures_of(found: dict[str, Any], world: int, way: str, link: str) -> dict[str, float]:
    """What is told of one measurement of the rate."""
    head = f"{hosts_of(world)}, {way}"
    figures = {f"{head}, {link}: samples/s": found["rate"]}
    if world == 1:
        return figures
    if link == "no limit":
        figures[f"{head}: bytes a step, dense part"] = found["dense"]
        figures[f"{head}: bytes a step, all"] = found["counted"]
    if LINKS[link].rate and way == PLAIN:
        share = found["bits a second"] / LINKS[link].rate
        figures[f"{head}, {link}: share of the link's rate in use"] = share
        times = found["wire"] / found["counted"]
        figures[f"{head}, {link}: bytes on the wire, times those counted"] = times
    return figures


def claims(figures: dict[str, Any], worlds: Sequence[int]) -> Iterator[Claim]:
    """What the figures must show: each world against its own plain exchange."""
    shares = [value for name, value in figures.items() if "share of the link's rate" in name]
    if shares:
        name = "the largest share of a link's rate that was in use"
        yield Claim(name, max(shares), 1.0, at_least=False)
    wires = [value for name, value in figures.items() if "times those counted" in name]
    if wires:
        name = "bytes on the wire, times those that training counts"
        yield Claim(name, max(wires), 1.15, at_least=False)
    for world in worlds:
        plain = figures.get(f"{hosts_of(world)}, {PLAIN}: test AUC")
        if world == 1 or plain is None:
            continue
        good = [
            way
            for way in WAYS
            if (auc := figures.get(f"{hosts_of(world)}, {way}: test AUC")) is not None
            and auc["mean"] >= plain["mean"] - MOST_LOST
        ]
        for link, bar in ((SLOWEST, 10.0), ("20 Mbit/s, 5 ms", 10.0)):
            rates = {
                way: figures.get(f"{hosts_of(world)}, {way}, {link}: samples/s") for way in good
            }
            known = {way: value for way, value in rates.items() if value}
            if PLAIN not in known:
                continue
            best = max(known, key=lambda way: known[way])
            words = f"{hosts_of(world)}, {link}: {best}, times the samples/s of {PLAIN}"
            times = known[best] / known[PLAIN]
            yield Claim(f"{words}, at most .001 AUC below it", times, bar, at_least=True)


def draw(figures: dict[str, Any], world: int, links: Sequence[str], path: Path) -> None:
    """Samples a second over the link's rate, a line for each way."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "scalerec"
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for delay, ax in zip((0.0, 5.0), axes, strict=True):
        chosen = [name for name in links if LINKS[name].delay_ms == delay]
        chosen.sort(key=lambda name: -(LINKS[name].rate or 1e10))
        for way in WAYS:
            rates = [figures.get(f"{hosts_of(world)}, {way}, {link}: samples/s") for link in chosen]
            style = "--" if "local" in way else "-"
            ax.plot(range(len(chosen)), rates, style, marker="o", markersize=3, label=way)
        one = figures.get(f"1 host, {PLAIN}, no limit: samples/s")
        if one:
            ax.axhline(one, color="grey", linewidth=1, label="one host")
        ax.set_xticks(range(len(chosen)), [name.partition(",")[0] for name in chosen])
        ax.set_yscale("log")
        ax.set_title(f"delay {delay:g} ms" if delay else "no delay")
        ax.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel(f"samples/s, {hosts_of(world)}")
    axes[1].legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, metadata={"Date": None})


NOTES = (
    "hosts are network namespaces of one machine and share its cores, one thread each, so more "
    "hosts than cores are no faster; the delay is from host to host, one way",
    "DeepFM on Frappe, batch 1024 over all hosts, tables spread by rows (row-wise Adagrad); the "
    "AUC is that after five epochs, measured without a limit on the link",
    "bytes are those that a process sends in a step, on average, of the process that sends most",
)


def main() -> int:
    """Measure, and write the result and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", default="1,2,4", help="how many, several separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where measurements are kept; none otherwise")
    parser.add_argument("--only", choices=("all", "quality", "rates"), default="all")
    parser.add_argument("--quick", action="store_true", help="2 hosts, briefly; writes no result")
    options = parser.parse_args()
    enter_sandbox()
    from scalerec.data.opening import open_raw
    from scalerec.data.prepare import prepare
    from scalerec.errors import DataError

    worlds = [2] if options.quick else [int(text) for text in options.hosts.split(",")]
    effort = Effort(3.0, 3, EPOCHS, tuple(range(1, options.seeds + 1)))
    if options.quick:
        effort = Effort(1.0, 1, 1, (1,))
    ways = list(QUICK_WAYS if options.quick else WAYS)
    links = list(QUICK_LINKS if options.quick else LINKS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            raw = open_raw("frappe")
        except DataError as error:
            print(f"Frappe cannot be had: {error}", file=sys.stderr)
            return 1
        path = Path(folder) / "data"
        settings = settings_of(prepare(raw, path), path, effort)
        kept = options.work / "slow_links.json" if options.work else None
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
        bench = Bench(Hosts(max(worlds), Link()), settings, effort, kept)
        figures = measure(bench, worlds, ways, links, options.only)
    found = list(claims(figures, worlds))
    if options.quick or options.only != "all":
        for claim in found:
            print(f"{claim.name}: {claim.value:.4g}")
        return 0
    write_result("slow_links", figures, found, seeds=effort.seeds, notes=[*NOTES, *raw.notes])
    draw(figures, 2 if 2 in worlds else max(worlds), links, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
