"""Training on several processes: as fast as they could be, and the same model as one gives.

Speed: DeepFM on generated Criteo-like data (26 fields of 100,000 ids, 13 numbers, dim 16, a tower
of 3 x 400, global batch 4096), two processes of one thread that share tables and batches, against
one process of one thread with whole tables and the same global batches, and against two processes
that train apart, each on batches of 2048 with whole tables of its own. In turns, within the same
two processes.

The same step with TorchRec's tables and exchange: `benchmarks/distributed_torchrec.py`, run here.

Equality: losses of 1, 2 and 4 processes on the same global batches for each way of keeping tables,
in fp32, and the AUC that processes find together against that of all scores.

Beside it: `distributed_codecs.py` (bytes against AUC), `slow_links.py` (hosts and links) and
`plan_error.py` (predictions).

Usage: python benchmarks/distributed.py [--work DIR] [--quick] [--parts equality,speed,torchrec]
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import Claim, summarise, write_result
from distributed_torchrec import compare, together
from peers.criteo_like import CriteoLike, generate
from train_speed import NET, OURS, prepare_ours

ROWS = 100_000
SMALL_ROWS = 1000
# Whole tables of one process are its own by rows.
WAYS = {kind: {"sharding": kind} for kind in ("row", "table", "column", "replicated")}
TIMES, SHARE = 1.8, 0.92
TEN, HUNDRED, EXACT = 1e-5, 1e-3, 1e-9


def speed(work: Path, *, quick: bool) -> tuple[dict[str, Any], list[Claim]]:
    """Samples a second of two processes together, apart, and of one."""
    folder = work / "speed"
    generate(folder, CriteoLike(rows_per_field=ROWS, train=256 * NET["batch_size"], held_out=4096))
    prepare_ours(folder, "train", "test")
    figures: dict[str, Any] = {}
    claims = []
    for precision, codec in (("fp32", "none"), ("bf16", "none"), ("bf16", "bf16")):
        size = {"turns": 1, "steps": 2} if quick else {"turns": 25, "steps": 8}
        job = {**NET, **OURS, **size, "threads": 1, "seed": 1, "folder": str(folder)}
        job |= {"train": "train", "rows_per_field": ROWS, "precision": precision}
        found = together("scalerec_processes.py", {**job, "distributed": {"codec": codec}}, 2)
        head = precision if codec == "none" else f"{precision}, gradients sent as {codec}"
        for way, rates in found["rates"].items():
            figures[f"{head}: {way}, samples/s"] = summarise(rates)
            figures[f"{head}: {way}, ms of a processor a step"] = 1e3 * found["busy"][way]
        for purpose, sent in found["sent"].items():
            figures[f"{head}: bytes a step sent, {purpose}"] = sent
        # Within a turn, whose ways ran one after the other, so that a slow minute slows all alike.
        gain, apart = (
            median(a / b for a, b in zip(found["rates"]["together"], rates, strict=True))
            for rates in (found["rates"][way] for way in ("one", "side by side"))
        )
        figures[f"{head}: two processes together, times one"] = gain
        figures[f"{head}: two processes together, share of two apart"] = apart
        # Either bar is enough.
        name = (
            f"{head}: two processes, the better of gain / {TIMES} and share of two apart / {SHARE}"
        )
        claims.append(Claim(name, max(gain / TIMES, apart / SHARE), 1.0, at_least=True))
        print(f"{head}: {gain:.3f} times one, {apart:.3f} of two apart", flush=True)
    return figures, claims


def equality(work: Path, *, quick: bool) -> tuple[dict[str, Any], list[Claim]]:
    """How far losses and AUC of several processes are from those of one."""
    folder = work / f"equality-{'quick' if quick else 'full'}"
    # The last batch is short and nothing divides it; a second pass would be learned by heart, and
    # then the relative error of a loss says how near to nothing it is.
    train = 10_500 if quick else 100_500
    generate(folder, CriteoLike(rows_per_field=SMALL_ROWS, train=train, held_out=4999))
    prepare_ours(folder, "train", "test")
    job = {**NET, **OURS, "batch_size": 1000, "hidden": [64, 64], "threads": 1, "seed": 1}
    job |= {"steps": 10 if quick else 100, "folder": str(folder), "train": "train"}
    job |= {"rows_per_field": SMALL_ROWS, "precision": "fp32"}
    one = together("scalerec_equality.py", {**job, "ways": {"row": WAYS["row"]}}, 1)["ways"]["row"]
    figures: dict[str, Any] = {"equality: AUC of one process": one["auc"]}
    worst = {"ten": 0.0, "hundred": 0.0, "auc": abs(one["auc"] - one["auc of all scores"])}
    for world in (2, 4):
        found = together("scalerec_equality.py", {**job, "ways": WAYS}, world)["ways"]
        for way, own in found.items():
            pairs = zip(own["losses"], one["losses"], strict=True)
            apart = [abs(a - b) / abs(b) for a, b in pairs]
            exact = abs(own["auc"] - own["auc of all scores"])
            head = f"equality: {world} processes, tables by {way}"
            figures[f"{head}, losses of ten steps apart"] = max(apart[:10])
            figures[f"{head}, losses of {len(apart)} steps apart"] = max(apart)
            figures[f"{head}, AUC"] = own["auc"]
            worst["ten"] = max(worst["ten"], *apart[:10])
            worst["hundred"] = max(worst["hundred"], *apart)
            worst["auc"] = max(worst["auc"], exact)
    claims = [
        Claim("losses of 10 steps, 1, 2 and 4 processes, apart", worst["ten"], TEN, False),
        Claim("losses of 100 steps, 1, 2 and 4 processes, apart", worst["hundred"], HUNDRED, False),
        Claim("AUC found together and of all scores, apart", worst["auc"], EXACT, at_least=False),
    ]
    return figures, claims


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-distributed"
    parser.add_argument("--work", type=Path, default=default)
    parser.add_argument("--quick", action="store_true", help="few steps; writes no result")
    parser.add_argument("--parts", default="equality,speed,torchrec", help="writes only if all")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    claims: list[Claim] = []
    parts = {"equality": equality, "speed": speed, "torchrec": compare}
    for name in args.parts.split(","):
        more, held = parts[name](args.work, quick=args.quick)
        figures |= more
        claims += held
        for claim in held:
            print(f"{claim.name}: {claim.value:.6g} (bar {claim.bar:g})", flush=True)
    if args.quick or len(args.parts.split(",")) < len(parts):
        return 0
    notes = [
        "one thread a process; two processes have both cores of this machine, one process leaves "
        "the other core idle; samples/s are medians of turns within one run, gains and shares are "
        "medians of the ratios within each turn",
        "together: tables kept as `auto` chooses, messages through memory that the processes share",
        "two apart: batches of 2048 rows each, whole tables and optimisers each, no messages",
    ]
    write_result("distributed", figures, claims, seeds=(1,), notes=notes, packages=("torchrec",))
    return 0


if __name__ == "__main__":
    sys.exit(main())
