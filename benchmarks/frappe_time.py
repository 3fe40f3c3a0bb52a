"""Time to quality: DeepFM on Frappe, scalerec beside FuxiCTR 2.3.10, in turns, three seeds.

What is measured is the time until an evaluation first gives a validation AUC of .9835. The clock
starts with the opening of the encoded files and runs on through loading, training and every
evaluation on the validation part, for both alike; start, imports and encoding are left out, and for
FuxiCTR the making of the model. Each run then goes on to its own end, and the test part is read
once, with the weights that were best on the validation part.

FuxiCTR trains as published for its leaderboard (`peers/fuxictr_frappe.py`), with its own loader,
layers, `fit`, learning-rate fall and early stopping; it evaluates every epoch, as it does unless
told otherwise, or every `--fuxictr-steps` steps. scalerec's settings are below, chosen on the
validation part.

Usage: python benchmarks/frappe_time.py [--work DIR] [--seeds 3] [--threads 2] [--quick]
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import Claim, summarise, write_result
from peers.running import PEERS, environment, run_script
from scalerec.data.dataset import Dataset
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.errors import DataError

PEER = "FuxiCTR"
TARGET = 0.9835
SHARE = 0.1  # of FuxiCTR's time
OURS: dict[str, Any] = {
    "model": {
        "model": "deepfm",
        "settings": {"dim": 32, "hidden": [128, 128], "dropout": 0.2},
        "init_std": 0.1,
    },
    "settings": {
        "epochs": 5,
        "batch_size": 1024,
        "dense": {"lr": 3e-3},
        "tables": {"optimiser": "adam", "engine": "dense", "lr": 3e-2, "l2": 2e-5},
        "schedule": {"name": "linear"},
        "ema": 0.98,
        "evaluate_every": 66,  # thrice an epoch
        "patience": 1000,  # never stops, and keeps the best weights
        "checkpoint_seconds": 0,
    },
}


def write_encoded(dataset: Dataset, folder: Path) -> dict[str, int]:
    """The data set's ids as FuxiCTR reads them; gives the number of ids of each column."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = dataset.layout.ids
    for split in ("train", "valid", "test"):
        events = dataset.split(split)
        batch = events.read(0, len(events))
        columns = {
            field.name: np.asarray(ids, np.int32)
            for field, ids in zip(fields, batch.ids, strict=True)
        }
        np.savez(folder / f"{split}.npz", **columns, label=np.asarray(batch.labels[:, 0]))
    return {field.name: dataset.layout.tables[field.table] for field in fields}


class Bench:
    """Runs both systems.

    Args:
        work: Where environments and data lie.
        dataset: Frappe, prepared.
        threads: Of each system.
        fuxictr_steps: Steps between FuxiCTR's evaluations; 0 for an epoch's.
    """

    def __init__(self, work: Path, dataset: Dataset, threads: int, fuxictr_steps: int) -> None:
        self.work, self.dataset, self.threads = work, dataset, threads
        self.steps = fuxictr_steps or None
        self.encoded = work / "frappe-encoded"
        self.sizes = write_encoded(dataset, self.encoded)

    def run(self, system: str, seed: int, *, until_target: bool = False) -> dict[str, Any]:
        """One run; `until_target` ends FuxiCTR's there, without a look at the test part."""
        job = {"threads": self.threads, "seed": seed, "target": TARGET, "judge": not until_target}
        with tempfile.TemporaryDirectory() as scratch:
            if system == PEER:
                own = {"folder": str(self.encoded), "scratch": scratch, "sizes": self.sizes}
                own |= {"workers": 0, "eval_steps": self.steps, "stop_at_target": until_target}
                python = environment(self.work, PEER)
                found = run_script("fuxictr_frappe.py", {**job, **own}, python=python)
            else:
                own = {"folder": str(self.dataset.directory), **OURS}
                found = run_script("scalerec_frappe.py", {**job, **own})
        reached = found["reached"]
        found["seconds"] = reached["seconds"] if reached else float("inf")
        shown = {
            name: found[name] for name in ("seconds", "whole", "valid", "test") if name in found
        }
        print(system, seed, shown, [round(entry["auc"], 5) for entry in found["curve"]], flush=True)
        return found


def claims(runs: dict[str, list[dict[str, Any]]]) -> list[Claim]:
    """Ours in a tenth of the time, and no worse on the test part."""
    mean = {
        system: {
            name: summarise([run[name] for run in found])["mean"] for name in ("seconds", "test")
        }
        for system, found in runs.items()
    }
    share = mean["scalerec"]["seconds"] / mean[PEER]["seconds"]
    above = mean["scalerec"]["test"] - mean[PEER]["test"]
    return [
        Claim(
            "time to a validation AUC of .9835, share of FuxiCTR's", share, SHARE, at_least=False
        ),
        Claim("mean test AUC, above FuxiCTR's", above, 0.0, at_least=True),
    ]


def main() -> int:
    """Run both in turns, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-train-speed"
    parser.add_argument("--work", type=Path, default=default, help="environments and data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", default=f"scalerec,{PEER}", help="for a look; no result")
    parser.add_argument("--fuxictr-steps", type=int, default=0, help="0: once an epoch")
    parser.add_argument("--quick", action="store_true", help="one seed to the target; no result")
    options = parser.parse_args()
    systems = options.systems.split(",")
    with tempfile.TemporaryDirectory() as folder:
        try:
            raw = open_raw("frappe")
        except DataError as error:
            print(f"Frappe cannot be had: {error}", file=sys.stderr)
            return 1
        dataset = prepare(raw, Path(folder) / "data")
        bench = Bench(options.work, dataset, options.threads, options.fuxictr_steps)
        seeds = [1] if options.quick else list(range(1, options.seeds + 1))
        runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
        for seed in seeds:
            for system in systems:
                runs[system].append(bench.run(system, seed, until_target=options.quick))
    if options.quick or len(systems) < 2:
        return 0
    names = {"seconds": "seconds to .9835", "whole": "seconds to the end"}
    names |= {"valid": "best valid AUC", "test": "test AUC"}
    figures = {
        f"{system}: {words}": summarise([run[name] for run in found])
        for system, found in runs.items()
        for name, words in names.items()
    }
    notes = (
        *raw.notes,
        "seconds count loading, training and every evaluation, of both; FuxiCTR's do not count the "
        "making of its model",
        f"peer: {', '.join(PEERS[PEER])} with torch 2.13.0",
    )
    write_result("frappe_time", figures, claims(runs), seeds=seeds, notes=notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
