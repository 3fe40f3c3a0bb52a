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
from peers.child import CATEGORICAL, LABEL, NUMBERS
from peers.criteo_like import CriteoLike, generate
from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender, write_recommender
from scalerec.compress.chain import Chains
from scalerec.compress.measuring import Meter
from scalerec.compress.steps import read_steps
from scalerec.compress.teacher import open_teacher
from scalerec.compress.work import Work
from scalerec.compress.writing import write_compressed
from scalerec.data.dataset import Dataset
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Schema, Task
from scalerec.data.sources import open_source
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.scoring.cost import sizes_of
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

GIVEN, SPLIT, WHOLE = "ONNX in float32", "the split alone", "the whole chain"
PARTS = ("train", "valid", "test")
CLICKS = CriteoLike(rows_per_field=10_000, train=1_000_000, held_out=100_000)
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
        teachers: Models whose mean score the student learns: the given one, and others that differ
            in their seeds. Where data are few, one model's scores are mostly its own noise.
    """

    data: Callable[[Path], Path]
    spec: ModelSpec
    training: Callable[[int, int], TrainConfig]
    chain: str
    alone: Mapping[str, str]
    teachers: int = 1


def public(name: str) -> Callable[[Path], Path]:
    """Prepares a public data set."""

    def make(folder: Path) -> Path:
        if not folder.exists():
            prepare(open_raw(name), folder)
        return folder

    return make


def generated(folder: Path) -> Path:
    """Prepares generated clicks."""
    if not folder.exists():
        made = folder.parent / "generated"
        generate(made, CLICKS)
        features: Any = (
            *(Categorical(name=column) for column in CATEGORICAL),
            *(Numeric(name=column, transform="none") for column in NUMBERS),
        )
        schema = Schema(features=features, tasks=(Task(name=LABEL),), tables={})
        splits = {part: open_source(made / f"{part}.parquet") for part in PARTS}
        prepare(RawData(name="criteo-like", schema=schema, splits=splits), folder)
    return folder


def clicks_training(num_rows: int, seed: int) -> TrainConfig:
    """Adam with L2 on the tables: most ids are rare."""
    steps = 2 * -(-num_rows // 2048)
    return TrainConfig.from_dict(
        {
            "epochs": 2,
            "batch_size": 2048,
            "seed": seed,
            "patience": -1,
            "tables": {"optimiser": "adam", "lr": 3e-3, "l2": 1e-4},
            "schedule": {"name": "linear", "warmup_steps": steps // 20},
        }
    )


def films_training(num_rows: int, seed: int) -> TrainConfig:
    """Adam, and an early stop."""
    del num_rows
    return TrainConfig.from_dict(
        {
            "epochs": 5,
            "batch_size": 1024,
            "seed": seed,
            "patience": 1,
            "tables": {"lr": 1e-2, "l2": 1e-5},
        }
    )


DEEP = {"dim": 16, "hidden": [400, 400, 400], "dropout": 0.3}


def alone(student: str, labels: str, pruning: str) -> dict[str, str]:
    """Steps of a chain one at a time, and the student without its teacher."""
    return {
        "pruning alone": pruning,
        "quantising alone": "quantize=int8:tables=int4",
        "distilling alone": student,
        "the student on labels alone": labels,
    }


# Products of a student's layers are as quick in float32, which 16 bits become when they are read.
FEW_BITS = "quantize=int4:layers=float16"
CASES = {
    "frappe": Case(
        data=public("frappe"),
        spec=ModelSpec(model="deepfm", settings=DEEP, init_std=0.1),
        training=frappe_settings,
        chain=f"distil=dim10+64-32:epochs=10,{FEW_BITS}:aware=1,recalibrate",
        alone=alone(
            "distil=dim10+64-32:epochs=10",
            "distil=dim10+64-32:epochs=10:weight=0.0",
            "prune=0.8:epochs=2",
        ),
    ),
    "clicks": Case(
        data=generated,
        spec=ModelSpec(model="deepfm", settings=DEEP),
        training=clicks_training,
        chain=f"distil=dim8+64-32,shrink=rare:times=12,{FEW_BITS},recalibrate",
        alone={
            **alone("distil=dim8+64-32", "distil=dim8+64-32:weight=0.0", "prune=0.8"),
            "sharing rare rows": "shrink=rare:times=12",
        },
    ),
    "films": Case(
        data=public("ml-100k"),
        spec=ModelSpec(model="deepfm", settings=DEEP),
        training=films_training,
        chain=f"distil=dim8+64-32:weight=0.8:drawn=1.0,{FEW_BITS},recalibrate",
        alone=alone(
            "distil=dim8+64-32:weight=0.8:drawn=1.0",
            "distil=dim8+64-32:weight=0.0",
            "prune=0.8:epochs=3:teach=0.8",
        ),
        teachers=5,
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


def bundles_of(case: Case, dataset: Dataset, seed: int, folder: Path) -> dict[str, Path]:
    """Bundles of one seed, by what was done; those that are there are not made again."""
    seeds = [seed + 100 * number for number in range(case.teachers)]
    teachers = [teacher_of(case, dataset, own, folder) for own in seeds]
    texts = {WHOLE: case.chain, **case.alone}
    bundles = {name: folder / f"{name.replace(' ', '-')}-{seed}" for name in texts}
    if not all(path.exists() for path in bundles.values()):
        together = open_teacher(teachers, dataset)
        work = Work(
            recommender=together.recommenders[0],
            teacher=together,
            dataset=dataset,
            training=case.training(dataset.num_rows("train"), seed),
            folder=folder / f"logits-{seed}",
        )
        parents = [read_bundle(path) for path in teachers]
        chains = Chains(work, Meter(parents[0], dataset, repeats=5))
        for name, text in texts.items():
            stages = chains.run(read_steps(text))
            write_compressed(bundles[name], parents, stages, data=dataset.digest, overwrite=True)
    return {GIVEN: teachers[0], **bundles}


def run(case: Case, seed: int, folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Everything of one seed: by what was done, its figures."""
    dataset = Dataset(case.data(folder / "data"))
    bundles = bundles_of(case, dataset, seed, folder)
    opened = {name: open_recommender(path) for name, path in bundles.items()}
    answers = {name: request_scorer(own.recommender, dataset) for name, own in opened.items()}
    answers[SPLIT] = answers.pop(GIVEN)
    requests = requests_of(dataset, 1_000, 20)
    timed = time_in_turns(
        {GIVEN: onnx_answer(bundles[GIVEN], folder), **answers}, requests, repeats
    )
    found: dict[str, dict[str, float]] = {}
    for name in [GIVEN, SPLIT, *bundles]:
        if name in found:
            continue
        own = opened[GIVEN if name == SPLIT else name]
        sizes = sizes_of(own)
        milliseconds, late = percentiles_ms(timed[name])
        found[name] = {
            "test auc": quality(own.recommender, dataset, "test"),
            "ms": milliseconds,
            "p99 ms": late,
            "bytes": sizes.weight_bytes,
            "directory's bytes": sizes.directory_bytes,
        }
        figures, given = found[name], found[GIVEN]
        figures["drop of test auc"] = given["test auc"] - figures["test auc"]
        figures["times less time"] = given["ms"] / figures["ms"]
        figures["times fewer bytes"] = given["bytes"] / figures["bytes"]
        print(seed, name, {key: round(value, 5) for key, value in figures.items()}, flush=True)
    return found


def claims_of(name: str, runs: list[dict[str, dict[str, float]]]) -> list[Claim]:
    """What the whole chain must show."""

    def mean(what: str) -> float:
        return sum(own[WHOLE][what] for own in runs) / len(runs)

    found = [
        Claim(f"{name}: times fewer bytes", mean("times fewer bytes"), FEWER_BYTES, True),
        Claim(f"{name}: times less time", mean("times less time"), LESS_TIME, True),
        Claim(f"{name}: drop of test AUC", mean("drop of test auc"), WORSE, at_least=False),
    ]
    if name == "frappe":
        found.append(Claim(f"{name}: test AUC, compressed", mean("test auc"), FUXICTR, True))
    return found


def notes_of(name: str, data: Path) -> list[str]:
    """How the figures came about."""
    case = CASES[name]
    chains = [f"{what}: {text}" for what, text in {WHOLE: case.chain, **case.alone}.items()]
    notes = [
        "ONNX Runtime and the compressed bundle answer requests with 1,000 candidates on one "
        "thread, in turns of a random order. ONNX Runtime gets all rows ready as arrays; the "
        "bundle gets a user and numbers of items, or rows where the data name no items, and "
        "splits the first layer. Milliseconds are medians over requests.",
        f"The model as given: {case.spec.model} {case.spec.settings}; its settings and all chains "
        "were chosen on the validation part. The test part is read once a seed.",
        f"Steps. {'; '.join(chains)}.",
        "Bytes are those of the files of weights; the directory also holds encoders and catalogue. "
        "A drop below zero is a rise.",
    ]
    if case.teachers > 1:
        notes.append(
            f"Students, and steps that train further, learn from the mean score of {case.teachers} "
            "models that differ in their seeds, the given one among them: it is compared with the "
            "given one alone."
        )
    if name == "clicks":
        notes.append(f"Generated clicks: {CLICKS}.")
    return [*notes, *Dataset(data).manifest["notes"]]


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
            notes = notes_of(name, folder / "data")
            write_result(f"compress_{name}", figures, claims, seeds=seeds, notes=notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
