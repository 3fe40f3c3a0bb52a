"""What the split of the first layer saves of a request: 1, 100 and 1,000 candidates on one thread.

DeepFM with 39 categorical fields of dim 16: 13 of the user, 13 of the item and 13 of the context,
with a head of 3 x 400, and with the head 64-32 of a student. A request is one user in a context and
candidates of a catalogue, drawn evenly. Three ways answer the same requests in turns:

- whole rows: the recommender on pairs that are made before the clock starts;
- generic: the same, with the pairs made in time;
- split: what items add is held, as float32, float16 or int8.

Weights are as they are drawn: a time does not depend on them.

Usage: python benchmarks/split_scoring.py [--repeats 300] [--quick]
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch

from common import Claim, summarise, write_result
from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import IdField, Layout
from scalerec.data.pairing import pair
from scalerec.data.schema import Role, Task
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.scoring import Request, SplitScorer, score_rows, time_in_turns
from scalerec.scoring.candidates import PairScorer
from scalerec.scoring.split import ASKING
from scalerec.scoring.timing import percentiles_ms

ROLES = (Role.USER, Role.ITEM, Role.CONTEXT)
FIELDS_A_ROLE, IDS_A_FIELD, DIM = 13, 1_000, 16
HEADS = {"3 x 400": [400, 400, 400], "64-32": [64, 32]}
CANDIDATES = (1, 100, 1_000)
NUM_ITEMS, NUM_REQUESTS = 5_000, 50
STORED: tuple[Any, ...] = ("float32", "float16", "int8")
# A student's request of 1,000 candidates, in milliseconds, and how often it fits into the generic.
MOST_MS, TIMES_QUICKER = 0.3, 5.0


def make_layout() -> Layout:
    fields = tuple(
        IdField(name=f"{role.value}_{number}", role=role, table=f"{role.value}_{number}")
        for role in ROLES
        for number in range(FIELDS_A_ROLE)
    )
    tables = {field.table: IDS_A_FIELD for field in fields}
    return Layout(ids=fields, tables=tables, tasks=(Task(name="clicked"),))


def draw_rows(
    layout: Layout, roles: tuple[Role, ...], size: int, generator: torch.Generator
) -> Batch:
    """Rows with ids in the fields of some roles."""
    batch = empty_batch(layout, size)
    for number, field in enumerate(layout.ids):
        if field.role in roles:
            batch.ids[number] = torch.randint(1, IDS_A_FIELD, (size,), generator=generator)
    return batch


def draw_requests(layout: Layout, items: Batch, num_candidates: int) -> list[Request]:
    generator = torch.Generator().manual_seed(num_candidates)
    requests = []
    for _ in range(NUM_REQUESTS):
        user = draw_rows(layout, ASKING, 1, generator)
        index = torch.randint(len(items), (num_candidates,), generator=generator)
        requests.append(Request(pair(layout, user, items, index.view(1, -1)), user, index))
    return requests


def ways(recommender: Recommender, items: Batch) -> dict[str, Callable[[Request], object]]:
    """The three ways to answer a request."""

    def on_candidates(scorer: Any) -> Callable[[Request], object]:
        return lambda request: scorer(request.user, request.candidates)

    return {
        "whole rows": lambda request: score_rows(recommender, request.rows),
        "generic": on_candidates(PairScorer(recommender, items)),
        **{
            f"split, {stored}": on_candidates(SplitScorer(recommender, items, stored=stored))
            for stored in STORED
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="few turns, and nothing is written")
    options = parser.parse_args()
    repeats = 5 if options.quick else options.repeats
    layout = make_layout()
    items = draw_rows(layout, (Role.ITEM,), NUM_ITEMS, torch.Generator().manual_seed(0))
    figures: dict[str, Any] = {}
    p50: dict[tuple[str, int, str], float] = {}
    for head, hidden in HEADS.items():
        spec = ModelSpec(model="deepfm", settings={"dim": DIM, "hidden": hidden}, init_std=0.1)
        recommender = build_recommender(layout, spec, seed=1).eval()
        scorers = ways(recommender, items)
        for number in CANDIDATES:
            found = time_in_turns(scorers, draw_requests(layout, items, number), repeats)
            for way, seconds in found.items():
                half, most = percentiles_ms(seconds)
                p50[head, number, way] = half
                name = f"{head}, {number:,} candidates, {way}"
                figures[f"{name}, ms"] = summarise([second * 1e3 for second in seconds])
                figures[f"{name}, p99 ms"] = most
                print(f"{name}: p50 {half:.3f} ms, p99 {most:.3f} ms", flush=True)
    student = p50["64-32", 1_000, "split, float32"]
    quicker = p50["64-32", 1_000, "generic"] / student
    teacher = p50["3 x 400", 1_000, "generic"] / p50["3 x 400", 1_000, "split, float32"]
    claims = [
        Claim("64-32, 1,000 candidates, split, p50 ms", student, MOST_MS, at_least=False),
        Claim("64-32, 1,000 candidates, split against generic", quicker, TIMES_QUICKER, True),
        Claim("3 x 400, 1,000 candidates, split against generic", teacher, 1.2, at_least=True),
    ]
    if options.quick:
        print({claim.name: round(claim.value, 3) for claim in claims})
        return
    write_result("split_scoring", figures, claims, notes=["one thread, in turns"])


if __name__ == "__main__":
    main()
