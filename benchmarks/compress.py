"""What compression gives: bytes of weights, time of 1,000 candidates, and AUC.

Frappe, MovieLens 100K and generated clicks in the shape of Criteo's. A teacher of each is trained
with three seeds, and exported to ONNX in float32: that file in ONNX Runtime, on one thread, with
all candidates as ready rows, is what everything is compared with. The compressed bundle answers the
same requests in the way `recommend` scores, in turns with it.

Beside the whole chain stand its steps alone: pruning, quantising, distilling, the same student
trained on labels alone, and the first layer split by field with nothing else changed.

Chains were chosen on the validation part; the test part of each seed is read once, at the end.

Usage: python benchmarks/compress.py [--parts frappe,films] [--seeds 3] [--work DIR] [--quick]
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import Claim, summarise, write_result
from frappe import settings as frappe_settings
from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender, write_recommender
from scalerec.compress.chain import Chains
from scalerec.compress.effects import Effect
from scalerec.compress.measuring import Meter
from scalerec.compress.steps import read_steps
from scalerec.compress.teacher import open_teacher
from scalerec.compress.work import Work
from scalerec.compress.writing import write_compressed
from scalerec.data.dataset import Dataset
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.scoring.onnx_export import export_onnx
from scalerec.scoring.onnx_inputs import feeds_of, graph_inputs
from scalerec.scoring.onnx_run import OnnxScorer
from scalerec.scoring.timing import (
    Request,
    percentiles_ms,
    request_scorer,
    requests_of,
    time_in_turns,
)
from scalerec.train import TrainConfig, train
from scalerec.train.lineage import prepare_step, train_step

FEWER_BYTES, LESS_TIME, WORSE, FUXICTR = 20.0, 10.0, 0.001, 0.98358


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A data set, its teacher, and the chains that are tried on it.

    Args:
        data: Prepares the data in a folder.
        spec: The teacher.
        training: From the number of training rows and a seed, its training.
        chain: The whole chain.
        alone: By name, single steps.
    """

    data: Callable[[Path], Path]
    spec: ModelSpec
    training: Callable[[int, int], TrainConfig]
    chain: str
    alone: Mapping[str, str]


def public(name: str) -> Callable[[Path], Path]:
    """Prepares a public data set."""

    def make(folder: Path) -> Path:
        if not folder.exists():
            prepare(open_raw(name), folder)
        return folder

    return make


def films_training(num_rows: int, seed: int) -> TrainConfig:
    """Adam, and an early stop."""
    del num_rows
    return TrainConfig.from_dict({"epochs": 5, "batch_size": 1024, "seed": seed, "patience": 1})


DEEP = {"dim": 16, "hidden": [400, 400, 400], "dropout": 0.3}
STUDENT = "distil=64-32"
ALONE = {
    "pruning alone": "prune=0.8",
    "quantising alone": "quantize=int8:tables=int4",
    "distilling alone": STUDENT,
    "the student on labels alone": f"{STUDENT}:weight=0.0",
}
CASES = {
    "frappe": Case(
        data=public("frappe"),
        spec=ModelSpec(model="deepfm", settings=DEEP, init_std=0.1),
        training=frappe_settings,
        chain=f"{STUDENT},quantize=int8:tables=int4,recalibrate",
        alone=ALONE,
    ),
    "films": Case(
        data=public("ml-100k"),
        spec=ModelSpec(model="deepfm", settings=DEEP),
        training=films_training,
        chain=f"{STUDENT},quantize=int8:tables=int4,recalibrate",
        alone=ALONE,
    ),
}


def teacher_of(case: Case, dataset: Dataset, seed: int, folder: Path) -> Path:
    """The teacher's bundle."""
    out = folder / f"teacher-{seed}"
    if not out.exists():
        config = case.training(dataset.num_rows("train"), seed)
        trained = train(dataset, case.spec, config)
        step = train_step(dataset, case.spec, config, trained.seconds)
        write_recommender(out, trained.recommender, dataset, (prepare_step(dataset), step))
    return out


def onnx_answer(teacher: Path, folder: Path) -> Callable[[Request], object]:
    """The teacher in ONNX Runtime."""
    opened = open_recommender(teacher)
    path = folder / f"{teacher.name}.onnx"
    if not path.exists():
        export_onnx(opened, path)
    scorer = OnnxScorer(path)
    layout = opened.recommender.narrow.layout
    inputs, feeds = graph_inputs(layout), {}

    def answer(request: Request) -> object:
        # Feeds are made once a request, before the first turn that counts.
        if id(request) not in feeds:
            feeds[id(request)] = feeds_of(layout, request.rows, inputs)
        return scorer(feeds[id(request)], ["logits"])

    return answer


def quality(recommender: Recommender, dataset: Dataset, split: str) -> float:
    """AUC of a part."""
    config = EvaluateConfig(split=split, ranking="no")
    return float(evaluate(recommender, dataset, config).metrics["auc"] or 0.0)


def run(case: Case, seed: int, folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Everything of one seed: by what was done, its figures."""
    dataset = Dataset(case.data(folder / "data"))
    teacher = teacher_of(case, dataset, seed, folder)
    work = Work(
        recommender=open_teacher([teacher], dataset).recommenders[0],
        teacher=open_teacher([teacher], dataset),
        dataset=dataset,
        training=case.training(dataset.num_rows("train"), seed),
        folder=folder / f"logits-{seed}",
    )
    meter = Meter(read_bundle(teacher), dataset, repeats=5)
    chains = Chains(work, meter)
    stages = {"the whole chain": chains.run(read_steps(case.chain))}
    stages |= {name: chains.run(read_steps(text)) for name, text in case.alone.items()}
    out = folder / f"small-{seed}"
    write_compressed(
        out, [read_bundle(teacher)], stages["the whole chain"], data=dataset.digest, overwrite=True
    )
    models = {name: own[-1].work.recommender for name, own in stages.items()}
    models["the whole chain"] = open_recommender(out).recommender
    models["the split alone"] = work.recommender
    answers = {name: request_scorer(model, dataset) for name, model in models.items()}
    requests = requests_of(dataset, 1_000, 20)
    timed = time_in_turns({"ONNX": onnx_answer(teacher, folder), **answers}, requests, repeats)
    base = percentiles_ms(timed["ONNX"])[0]
    before, given = quality(work.recommender, dataset, "test"), chains.given.effect
    found = {"as given": {"test auc": before, "ms": base, "bytes": given.weight_bytes}}
    for name, model in models.items():
        effect: Effect = stages[name][-1].effect if name in stages else given
        milliseconds = percentiles_ms(timed[name])[0]
        after = quality(model, dataset, "test")
        found[name] = {
            "test auc": after,
            "drop of test auc": before - after,
            "ms": milliseconds,
            "times less time": base / milliseconds,
            "bytes": effect.weight_bytes,
            "directory's bytes": effect.directory_bytes,
            "times fewer bytes": given.weight_bytes / effect.weight_bytes,
        }
    for name, figures in found.items():
        print(seed, name, {key: round(value, 5) for key, value in figures.items()}, flush=True)
    return found


def claims_of(name: str, runs: list[dict[str, dict[str, float]]]) -> list[Claim]:
    """What the whole chain must show."""

    def mean(what: str) -> float:
        return sum(own["the whole chain"][what] for own in runs) / len(runs)

    found = [
        Claim(f"{name}: times fewer bytes", mean("times fewer bytes"), FEWER_BYTES, True),
        Claim(f"{name}: times less time", mean("times less time"), LESS_TIME, True),
        Claim(f"{name}: drop of test AUC", mean("drop of test auc"), WORSE, at_least=False),
    ]
    if name == "frappe":
        found.append(Claim(f"{name}: test AUC, compressed", mean("test auc"), FUXICTR, True))
    return found


def main() -> int:
    """Run the parts, and write a result for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(CASES), help="several separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=200, help="requests that are timed")
    parser.add_argument("--work", type=Path, help="keeps data and teachers")
    parser.add_argument("--quick", action="store_true", help="one seed; writes no result")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    seeds = list(range(1, 2 if asked.quick else asked.seeds + 1))
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        for name in asked.parts.split(","):
            folder = work / name
            folder.mkdir(parents=True, exist_ok=True)
            runs = [run(CASES[name], seed, folder, asked.repeats) for seed in seeds]
            claims = claims_of(name, runs)
            figures: dict[str, Any] = {
                f"{what}: {key}": summarise([own[what][key] for own in runs])
                for what in runs[0]
                for key in runs[0][what]
            }
            if asked.quick:
                for claim in claims:
                    print(claim.name, round(claim.value, 5), claim.bar, flush=True)
                continue
            write_result(f"compress_{name}", figures, claims, seeds=seeds, notes=[])
    return 0


if __name__ == "__main__":
    sys.exit(main())
