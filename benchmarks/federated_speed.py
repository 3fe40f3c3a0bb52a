"""Federated rounds simulated: scalerec beside pfl-research and Flower, in clients a second.

The same model, parties, start, batch and epochs for all: 64 rows a party, batch 16, one local epoch
of plain SGD, federated averaging. Models: an MLP 64-32-10, an MLP 784-128-10, and DeepFM for one
user a party with 2,000 items, vectors of 16 and of 32 numbers and a tower of 32.

What is timed, alike for all: whole rounds, from the choice of examples to the server's new
parameters. What is not: the process's start and imports (Ray's too), reading the data, the first
round, evaluation. Each system runs in its own environment and process, in turns. Ours runs with one
thread and with two (a process beside it), pfl-research as one process and as two, of one thread
each, since two threads slow it down; the best of each counts. Flower has an actor for each of two
cores.

Losses after the same rounds with the same cohorts show that the same work is done. For that run,
ours shares one user vector among all parties, as the peers do; in the timed runs each of our
parties keeps its own.

Memory is that of our process over all rounds with 100,000 users.

Usage: python benchmarks/federated_speed.py [--work DIR] [--repeats 3] [--quick]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import Claim, summarise, write_result
from peers.federated_parties import Work, generate_parties
from peers.running import environment, run_script

PACKAGES = {"pfl-research": ("pfl==0.6.0",), "Flower": ("flwr[simulation]==1.41.*",)}
WORKS = {
    "64-32-10": Work(sizes=(64, 32, 10), parties=2000),
    "784-128-10": Work(sizes=(784, 128, 10), parties=500),
    "DeepFM, dim 16": Work(dim=16, parties=4000),
    "DeepFM, dim 32": Work(dim=32, parties=4000),
}
# At least so many times each peer; none where nothing is asked.
BARS = {
    "64-32-10": {"pfl-research": 20.0, "Flower": 300.0},
    "784-128-10": {"pfl-research": 2.0},
    "DeepFM, dim 16": {"pfl-research": 20.0, "Flower": 300.0},
    "DeepFM, dim 32": {"pfl-research": 20.0, "Flower": 300.0},
}
MANY = Work(dim=16, parties=100_000)
MEMORY_GIB = 8.0
# Of the mean loss of the last round: batches are drawn in other orders.
LOSSES_APART = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A system, and how it runs.

    Args:
        system: Its name.
        words: What tells it from the system's other ways.
        script: Runs it.
        more: Of its job.
        cohort: Parties of a round.
        rounds: That are timed.
    """

    system: str
    words: str
    script: str
    cohort: int
    rounds: int
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.system}, {self.words}"


PFL_COHORT = 500
PFL: dict[str, Any] = {
    "system": "pfl-research",
    "script": "federated_pfl.py",
    "cohort": PFL_COHORT,
    "rounds": 2,
}
OURS: dict[str, Any] = {
    "system": "scalerec",
    "script": "federated_scalerec.py",
    "cohort": 1000,
    "rounds": 30,
}
VARIANTS = (
    Variant(**OURS, words="2 threads", more={"threads": 2}),
    Variant(**OURS, words="1 thread", more={"threads": 1}),
    Variant(**PFL, words="1 process", more={"threads": 1}),
    Variant(**PFL, words="2 processes", more={"threads": 1, "processes": 2}),
    Variant(
        system="Flower",
        words="2 actors",
        script="federated_flower.py",
        cohort=300,
        rounds=2,
        more={"threads": 1, "actors": 2},
    ),
)
CHECKED = 4
"""Rounds after which losses are compared; those of a run of pfl-research."""


@dataclass(slots=True)
class Found:
    """What the runs of one model gave.

    Args:
        rates: Clients a second, by variant, one a turn.
        losses: Of the last round with the same cohorts, by system.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)


def cohorts(parties: int, cohort: int, rounds: int) -> list[list[int]]:
    """Parties of each round, drawn alike for all systems."""
    generator = np.random.default_rng(11)
    return [generator.choice(parties, cohort, replace=False).tolist() for _ in range(rounds)]


def job_of(variant: Variant, work: Work, folder: Path, *, check: bool) -> dict[str, Any]:
    """What a system's script reads."""
    job = {"seed": 1, "work": asdict(work), "folder": str(folder), **variant.more}
    size = min(variant.cohort, work.parties)
    if variant.system == "Flower":
        return {**job, "cohort": size, "rounds": variant.rounds + 1}
    # The first round is not timed; of pfl-research, nor is the last, which keeps its losses.
    extra = 1 if variant.system == "scalerec" else CHECKED - variant.rounds
    job["cohorts"] = cohorts(work.parties, size, variant.rounds + extra)
    if check:
        job["check"] = cohorts(work.parties, min(PFL_COHORT, work.parties), CHECKED)
    return job


def run(
    variant: Variant, name: str, work: Work, where: Path, folder: Path, *, check: bool
) -> dict[str, Any]:
    """One run of a system."""
    job = job_of(variant, work, folder, check=check and variant.system == "scalerec")
    python = sys.executable
    if variant.system in PACKAGES:
        python = environment(where, variant.system, PACKAGES[variant.system])
    found = run_script(variant.script, job, python=python)
    found["rate"] = found["clients"] / found["seconds"]
    loss = f", loss {found['loss']:.4f}" if "loss" in found else ""
    print(f"{name}: {variant}: {found['rate']:,.0f} clients/s{loss}", flush=True)
    return found


def measure(name: str, work: Work, where: Path, found: Found, turn: int) -> None:
    """All variants once on one model."""
    folder = where / f"parties-{'-'.join(map(str, work.sizes or (work.dim,)))}-{work.parties}"
    generate_parties(folder, work)
    for variant in VARIANTS:
        if variant.system != "scalerec" and variant.system not in BARS[name]:
            continue
        out = run(variant, name, work, where, folder, check=turn == 0)
        found.rates.setdefault(str(variant), []).append(out["rate"])
        if "loss" in out and turn == 0:
            found.losses.setdefault(variant.system, out["loss"])


def claims_of(name: str, found: Found) -> Iterator[Claim]:
    """Ours beside the best way of each peer, and losses."""
    middle = {words: summarise(rates)["median"] for words, rates in found.rates.items()}

    def best(system: str) -> float:
        return max(rate for words, rate in middle.items() if words.startswith(system))

    for system, bar in BARS[name].items():
        times = best("scalerec") / best(system)
        yield Claim(f"{name}: scalerec, times {system}", times, bar, at_least=True)
    apart = abs(found.losses["scalerec"] / found.losses["pfl-research"] - 1)
    words = f"{name}: losses of scalerec and pfl-research apart, as a share"
    yield Claim(words, apart, LOSSES_APART, at_least=False)


def figures_of(name: str, found: Found) -> Iterator[tuple[str, Any]]:
    """Rates and losses by name."""
    for words, rates in found.rates.items():
        yield f"{name}: {words}, clients/s", summarise(rates)
    for system in ("scalerec", "pfl-research"):
        yield f"{name}: {system}, mean loss of round {CHECKED}", found.losses[system]


def many(where: Path, work: Work) -> tuple[dict[str, Any], Claim]:
    """Our process with very many users."""
    folder = where / f"parties-many-{work.parties}"
    generate_parties(folder, work)
    ours = replace(VARIANTS[0], rounds=5)
    found = run(ours, f"{work.parties:,} users", work, where, folder, check=False)
    name = f"{work.parties:,} simulated users, DeepFM, dim {work.dim}"
    figures = {f"{name}: clients/s": found["rate"], f"{name}: largest memory, GiB": found["gib"]}
    return figures, Claim(f"{name}: GiB", found["gib"], MEMORY_GIB, at_least=False)


def main() -> int:
    """Measure everything, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-federated-speed"
    parser.add_argument("--work", type=Path, default=default, help="environments and data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="no new turn after so many")
    parser.add_argument("--quick", action="store_true", help="small and once; writes no result")
    options = parser.parse_args()
    works, users = dict(WORKS), MANY
    if options.quick:
        works = {name: replace(work, parties=40) for name, work in WORKS.items()}
        users = replace(MANY, parties=500)
    found, begun = {name: Found() for name in works}, time.monotonic()
    memory, claim = many(options.work, users)
    for turn in range(1 if options.quick else options.repeats):
        if turn and time.monotonic() - begun > 60 * options.minutes:
            break
        for name, work in works.items():
            measure(name, work, options.work, found[name], turn)
    figures: dict[str, Any] = {}
    claims: list[Claim] = []
    for name in works:
        figures |= dict(figures_of(name, found[name]))
        claims += claims_of(name, found[name])
    figures |= memory
    claims.append(claim)
    if options.quick:
        for each in claims:
            print(each.name, round(each.value, 4))
        return 0
    write_result("federated_speed", figures, claims, seeds=[1], notes=NOTES)
    return 0


NOTES = (
    "timed: whole rounds; not timed: start and imports, Ray's start, reading data, the first "
    "round, evaluation",
    "cohorts: "
    + ", ".join(
        f"{cohort:,} parties of {system}"
        for system, cohort in {v.system: v.cohort for v in VARIANTS}.items()
    )
    + ", fewer where a model has fewer",
    "the peers' recommender is a torch module with nn.Embedding, whose user vector is averaged "
    "like the rest; each of our parties keeps its own, but in the run that compares losses",
    "losses are compared after four rounds from the same start with the same cohorts; batches are "
    "drawn in another order",
    "the MLPs' loss is torch's cross_entropy for the peers, and for ours class_losses, the same by "
    "logsumexp: for all parties at once torch's took four times as long",
    "peers: pfl 0.6.0 and Flower 1.41 (Ray 2.55), each with torch 2.13.0 on one thread a process; "
    "with two threads, pfl-research ran at a fifth of its speed",
)


if __name__ == "__main__":
    sys.exit(main())
