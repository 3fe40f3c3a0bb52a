"""How fast a bundle adapts: users a second, 5 examples and 5 steps each, and milliseconds for one.

Ours adapts groups of users (`Adapter.groups`): by one compiled kernel where the net is a tower, as
all here are. Beside it stand three ways, with the same model, examples, rates, prior and steps:

- ours without the kernel, as other nets adapt: all users of a group as one computation of torch, in
  groups of the size that was quickest, with as many threads.
- a loop of `torch.func`, as learn2learn and higher do it: user after user, `functional_call` on the
  start's own module and `autograd.grad`, step after step. Rows of tables are looked up once a user.
- higher 0.2.1 (Grefenstette et al., 2019, https://arxiv.org/abs/1910.01727), `innerloop_ctx` with
  plain SGD, user after user, where it is installed: `pip install -c constraints.txt higher`.

learn2learn 0.2.0 asks for gym, gsutil and other packages that have nothing to do with it, and is
not run. All run in one process, in turns. The loops have one thread, which is their best: their
tensors are small. What is timed, alike for all: from encoded examples to what each user has of its
own. What is not: imports, opening the bundle, drawing examples, the first calls.

Examples are items of the catalogue drawn by chance for users drawn by chance, with labels drawn by
chance: what is computed does not depend on what they say. The first users' parameters are compared.

Measured are parts of a bundle that is learned here from MovieLens 100K; bundles of `cold_start.py`,
learned anew by the algorithm that is best there, by its own parts, rates and prior; and, with
`--bundle`, another one.

Usage: python benchmarks/adapt_speed.py [--bundle DIR] [--threads 2] [--repeats 7] [--quick]
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from cold_start import settings_of
from cold_start_methods import Bench as ColdStart
from cold_start_methods import learned_start
from cold_start_worlds import WORLDS
from common import RESULTS, Claim, summarise, write_result
from scalerec.bundle.recommenders import OpenRecommender, open_recommender
from scalerec.data.batches import Batch
from scalerec.data.opening import open_raw
from scalerec.data.pairing import pair
from scalerec.data.prepare import prepare
from scalerec.data.schema import TaskKind
from scalerec.meta.adapt import Adapter, adaptation_from
from scalerec.meta.adapting import dense_after
from scalerec.meta.config import MetaConfig
from scalerec.meta.few import rows_of_history
from scalerec.meta.learning import meta_train
from scalerec.meta.parts import OWN
from scalerec.meta.tasks import TaskSet
from scalerec.meta.writing import write_meta
from scalerec.models.kernels.threads import one_thread
from scalerec.models.recommender import ModelSpec, build_recommender

# The bundle that is learned here. Speed does not depend on how well it is learned.
MODEL = ModelSpec(model="deepfm", settings={"dim": 16, "hidden": [64, 64]}, init_std=0.1)
LEARNING: dict[str, Any] = {
    "algorithm": "fomaml", "adapt": "all", "steps": 5, "rate": 0.05, "tasks": 16,
    "updates": 200, "evaluate_every": 100, "checkpoint_every": 0, "seed": 0,
}  # fmt: skip
PARTS = ("own", "head", "decision", "all")
EXAMPLES, STEPS = 5, 5
USERS, LOOPED, ONES = 20_000, 100, 200
USERS_BAR, MS_BAR = 10_000.0, 5.0
# Of parameters after adapting: sums are in another order.
APART = 1e-4
WHOLE = "batched torch"
LOOP = "a loop of torch.func"
HIGHER = "higher"
GIVEN = "the bundle given"
# Worlds of `cold_start.py` whose best algorithm is measured.
COLD = ("users", "simulated users")
LABELLED = (TaskKind.BINARY, TaskKind.REGRESSION)


def learn(folder: Path) -> Path:
    """Learn a start from MovieLens 100K and write it as a bundle."""
    dataset = prepare(open_raw("ml-100k"), folder / "data")
    config = MetaConfig.from_dict(LEARNING)
    tasks = TaskSet(dataset.split("train"), "user", least_rows=2)
    found = meta_train(build_recommender(dataset.layout, MODEL, 0), tasks, config)
    write_meta(folder / "bundle", found, dataset, "user", config, ())
    return folder / "bundle"


def best_algorithm(world: str) -> str:
    """The algorithm that is best in a world of `cold_start.py`, by its last result."""
    claims = json.loads((RESULTS / "cold_start.json").read_text("utf-8"))["claims"]
    head = f"{world}: price of "
    names = [claim["name"].removeprefix(head) for claim in claims if claim["name"].startswith(head)]
    return str(names[0]).split(" ", 1)[0]


def learn_cold(world: str, folder: Path) -> tuple[str, Path]:
    """Learn the start that is best in a world, as it was learned there; its name, and a bundle."""
    method = best_algorithm(world)
    bench = ColdStart(WORLDS[world], 1, folder / world)
    found, config = learned_start(bench, method, settings_of(world, method))
    out = folder / f"{world}, bundle"
    write_meta(out, found, bench.dataset, bench.world.config.by, config, ())
    return f"cold start, {world}, {method}", out


def draw(opened: OpenRecommender, num_users: int) -> Batch:
    """Examples of so many users, `EXAMPLES` of each in turn."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(len(opened.users), (num_users,), generator=generator)
    shape = num_users, EXAMPLES
    items = torch.randint(len(opened.items), shape, generator=generator)
    batch = pair(opened.layout, opened.users.take(users), opened.items, items)
    labels = [
        torch.randint(2, (len(batch),), generator=generator)
        if task.kind is TaskKind.BINARY
        else torch.randint(1, 6, (len(batch),), generator=generator)
        for task in opened.layout.tasks
    ]
    mask = torch.ones(len(batch), len(labels), dtype=torch.bool)
    return replace(batch, labels=torch.stack(labels, 1).float(), label_mask=mask)


class Plain(nn.Module):
    """The start as an ordinary module of what adapts, for one user's few rows.

    Args:
        adapter: Whose model it is.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.recommender = adapter.model.recommender
        self.field = adapter.model.parts.field
        self.names = tuple(f"recommender.{name}" for name in adapter.adaptation.parts)
        width = self.recommender.tables.matrix.shape[1]
        self.own = nn.Parameter(torch.zeros(width)) if self.field is not None else None

    @torch.no_grad()
    def look_up(self, batch: Batch) -> Tensor:
        """The rows that a user's examples read; its own is kept as a parameter."""
        tables = self.recommender.tables
        rows: Tensor = tables.matrix[tables.rows_of(batch)]
        if self.own is not None and self.field is not None:
            self.own.copy_(rows[self.field * len(batch)])
        return rows

    def forward(self, rows_vw: Tensor, batch: Batch) -> Tensor:
        """Logits of all tasks, ``[S, C]``."""
        if self.own is not None and self.field is not None:
            first, size = self.field * len(batch), len(batch)
            own = self.own.expand(size, -1)
            rows_vw = torch.cat([rows_vw[:first], own, rows_vw[first + size :]])
        logits: Tensor = self.recommender.score(rows_vw, batch)
        return logits

    def adapting(self) -> dict[str, nn.Parameter]:
        """What adapts, by name."""
        known = dict(self.named_parameters())
        names = [*self.names, *(["own"] if self.own is not None else [])]
        return {name: known[name] for name in names}


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the loops adapt: users' examples one after the other.

    Args:
        adapter: Of the bundle.
        plain: Its start.
        batches: The examples of each user, as the adapter reads them.
    """

    adapter: Adapter
    plain: Plain
    batches: list[Batch]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """A user's loss."""
        tasks, total = self.adapter.opened.layout.tasks, logits.new_zeros(())
        for column, task in enumerate(tasks):
            binary = task.kind is TaskKind.BINARY
            function = binary_cross_entropy_with_logits if binary else mse_loss
            own = function(logits[:, column], batch.labels[:, column], reduction="sum")
            total = total + task.weight * own
        return total / (len(batch) + self.adapter.adaptation.prior)

    def rates(self) -> dict[str, Tensor]:
        """The rate of each parameter of `Plain.adapting`."""
        rates = self.adapter.rates
        return {name: rates[name.removeprefix("recommender.")] for name in self.plain.adapting()}


def loop(lesson: Lesson) -> list[dict[str, Tensor]]:
    """Adapt user after user by `functional_call` and `autograd.grad`."""
    plain, rates = lesson.plain, lesson.rates()
    found = []
    for batch in lesson.batches:
        rows = plain.look_up(batch)
        own = {name: p.detach().clone() for name, p in plain.adapting().items()}
        for _ in range(STEPS):
            own = {name: tensor.requires_grad_() for name, tensor in own.items()}
            loss = lesson.loss(functional_call(plain, own, (rows, batch)), batch)
            grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
            own = {
                name: (tensor if grad is None else tensor - rates[name] * grad).detach()
                for (name, tensor), grad in zip(own.items(), grads, strict=True)
            }
        found.append(own)
    return found


def by_higher(lesson: Lesson) -> list[dict[str, Tensor]]:
    """Adapt user after user by `higher.innerloop_ctx`."""
    import higher

    plain, rates = lesson.plain, lesson.rates()
    adapting = plain.adapting()
    groups = [{"params": [p], "lr": float(rates[name])} for name, p in adapting.items()]
    optimiser = torch.optim.SGD(groups, lr=0.0)
    found = []
    for batch in lesson.batches:
        rows = plain.look_up(batch)
        with higher.innerloop_ctx(plain, optimiser, track_higher_grads=False) as (fast, steps):
            for _ in range(STEPS):
                steps.step(lesson.loss(fast(rows, batch), batch))
            last = dict(fast.named_parameters())
        found.append({name: last[name].detach() for name in adapting})
    return found


def peers_of(adapter: Adapter) -> dict[str, Callable[[Lesson], list[dict[str, Tensor]]]]:
    """The loops that can run."""
    found: dict[str, Callable[[Lesson], list[dict[str, Tensor]]]] = {LOOP: loop}
    # torch's SGD has one rate for a parameter.
    single = all(rate.ndim == 0 or rate.numel() == 1 for rate in adapter.rates.values())
    if importlib.util.find_spec("higher") is not None and single:
        found[HIGHER] = by_higher
    return found


def adapters(learned: OpenRecommender, given: Mapping[str, OpenRecommender]) -> dict[str, Adapter]:
    """What is measured, by name: parts of one bundle, and others as they are."""
    found = {words: Adapter(learned, *adaptation_from(learned, words, STEPS)) for words in PARTS}
    for words, opened in given.items():
        found[words] = Adapter(opened, *adaptation_from(opened, None, STEPS))
    return found


def only_adapting(plain: Plain) -> Plain:
    """The same, with gradients of what adapts alone."""
    plain.requires_grad_(requires_grad=False)
    for parameter in plain.adapting().values():
        parameter.requires_grad_()
    return plain


def lesson_of(adapter: Adapter, batch: Batch, num_users: int) -> Lesson:
    """The first users' examples as the loops take them."""
    parts = [
        adapter.read(batch.slice(first, first + EXAMPLES), 1).batch
        for first in range(0, num_users * EXAMPLES, EXAMPLES)
    ]
    return Lesson(adapter, only_adapting(Plain(adapter)), parts)


def apart(adapter: Adapter, batch: Batch, found: list[dict[str, Tensor]]) -> float:
    """The largest difference between ours and a loop's parameters of the first users."""
    num = len(found)
    examples = adapter.examples(batch.slice(0, num * EXAMPLES), EXAMPLES * torch.arange(num + 1))
    after = dense_after(adapter.model, adapter.shared, adapter.many(examples))
    worst = 0.0
    for name, own in after.items():
        key = OWN if name == OWN else f"recommender.{name}"
        other = torch.stack([user[key] for user in found])
        worst = max(worst, float((own - other).abs().max()))
    return worst


def seconds_of(work: Callable[[], object]) -> float:
    """The time one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Bench:
    """The measurements of one part.

    Args:
        words: What adapts.
        adapter: Adapts it.
        batch: The examples of all users.
        looped: Users of a loop.
        threads: Of ours.
    """

    def __init__(
        self, words: str, adapter: Adapter, batch: Batch, looped: int, threads: int
    ) -> None:
        self.words, self.adapter, self.batch, self.threads = words, adapter, batch, threads
        self.users = len(batch) // EXAMPLES
        self.offsets = EXAMPLES * torch.arange(self.users + 1)
        self.lesson = lesson_of(adapter, batch, looped)
        self.peers = peers_of(adapter)
        self.whole = Adapter(adapter.opened, adapter.adaptation, adapter.rates, compiled=False)
        self.rates: dict[str, list[float]] = {}
        self.ones: list[float] = []
        self.histories: list[float] = []
        self.apart = 0.0

    def warm_up(self) -> None:
        """First calls of everything, and whether all compute the same."""
        self.adapter.ready()
        for threads in {1, self.threads}:
            self.ours(self.adapter, threads)
        self.ours(self.whole, self.threads)
        self.one(0)
        few = replace(self.lesson, batches=self.lesson.batches[:20])
        for name, peer in self.peers.items():
            differs = apart(self.adapter, self.batch, peer(few))
            print(f"{self.words}: {name} differs by {differs:.2g}", flush=True)
            self.apart = max(self.apart, differs)
        self.ones.clear()
        self.histories.clear()

    def ours(self, adapter: Adapter, threads: int) -> float:
        """Users a second; so many threads have a group each, and torch has one in each of them."""

        def work() -> None:
            for _ in adapter.groups(self.batch, self.offsets, threads=threads):
                pass

        with one_thread():
            return self.users / seconds_of(work)

    def peer(self, name: str) -> float:
        """Users a second of a loop, by one thread."""
        with one_thread():
            return len(self.lesson.batches) / seconds_of(lambda: self.peers[name](self.lesson))

    def one(self, user: int) -> None:
        """Milliseconds for one user's examples, and for one history."""
        opened = self.adapter.opened
        few = self.batch.slice(user * EXAMPLES, (user + 1) * EXAMPLES)
        self.ones.append(1000 * seconds_of(lambda: self.adapter.one(few)))
        history = [opened.item_keys[item] for item in few.items.tolist()]
        generator = torch.Generator().manual_seed(user)

        def work() -> None:
            self.adapter.one(rows_of_history(opened, history, generator))

        self.histories.append(1000 * seconds_of(work))

    def turn(self, ones: int) -> None:
        """Measure each system once."""
        for threads in sorted({1, self.threads}):
            name = f"scalerec, {threads} thread{'s' if threads > 1 else ''}"
            self.rates.setdefault(name, []).append(self.ours(self.adapter, threads))
        self.rates.setdefault(WHOLE, []).append(self.ours(self.whole, self.threads))
        for name in self.peers:
            self.rates.setdefault(name, []).append(self.peer(name))
        for user in range(ones):
            self.one(user)

    def figures(self) -> dict[str, Any]:
        """All figures."""
        found: dict[str, Any] = {
            f"{self.words}, {name}, users a second": summarise(rates)
            for name, rates in self.rates.items()
        }
        own = summarise(self.rates[self.fastest])["median"]
        for name in (WHOLE, *self.peers):
            found[f"{self.words}, users a second, times {name}"] = (
                own / summarise(self.rates[name])["median"]
            )
        found[f"{self.words}, one user in one call, ms"] = summarise(self.ones)
        found[f"{self.words}, one user from a history of {EXAMPLES}, ms"] = summarise(
            self.histories
        )
        return found

    @property
    def fastest(self) -> str:
        """Ours with all threads."""
        return f"scalerec, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def claims(self) -> list[Claim]:
        """What the figures must show."""
        rate = summarise(self.rates[self.fastest])["median"]
        ms = summarise(self.ones)["median"]
        words = f"{self.words}: users a second, {EXAMPLES} examples and {STEPS} steps"
        return [
            Claim(words, rate, USERS_BAR, True),
            Claim(f"{self.words}: ms for one user in one call", ms, MS_BAR, False),
            Claim(f"{self.words}: parameters differ from the loops' by", self.apart, APART, False),
        ]


def notes_of(benches: list[Bench]) -> list[str]:
    """What must be said wherever a figure is quoted."""
    first = benches[0]
    found = [
        f"head, own, decision and all: {MODEL.model}, {MODEL.settings}, learned from MovieLens "
        f"100K; {first.users} users in groups",
        f"the loops have one thread and {len(first.lesson.batches)} users; their number does not "
        "matter to them",
        "one user in one call is `Adapter.one` on encoded examples; from a history, as many other "
        "items are drawn beside it and all are encoded",
    ]
    for bench in benches:
        if bench.words not in PARTS:
            spec, how = bench.adapter.opened.recommender.spec, bench.adapter.adaptation
            parts = ", ".join([*how.parts, *(["own"] if how.own else [])])
            found.append(f"{bench.words}: {spec.model}, {spec.settings}; adapts {parts}")
        if HIGHER not in bench.peers:
            found.append(f"{bench.words}: higher is not installed, or has no rate for each number")
    return found


def main() -> int:
    """Time everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="another bundle, beside the one learned here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="few users; writes no result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    users, looped, ones, repeats = USERS, LOOPED, ONES, args.repeats
    if args.quick:
        users, looped, ones, repeats = 5_000, 10, 10, 1
    with tempfile.TemporaryDirectory() as folder:
        learned = open_recommender(learn(Path(folder)))
        paths = dict(learn_cold(world, Path(folder)) for world in COLD)
        if args.bundle is not None:
            paths[GIVEN] = args.bundle
        given = {words: open_recommender(path) for words, path in paths.items()}
        if any(t.kind not in LABELLED for opened in given.values() for t in opened.layout.tasks):
            parser.error(f"{args.bundle} has tasks that are neither binary nor of regression")
        benches = [
            Bench(words, adapter, draw(adapter.opened, users), looped, args.threads)
            for words, adapter in adapters(learned, given).items()
        ]
        for bench in benches:
            bench.warm_up()
        for _ in range(repeats):
            for bench in benches:
                bench.turn(ones // repeats)
    figures = {name: value for bench in benches for name, value in bench.figures().items()}
    claims = [claim for bench in benches for claim in bench.claims()]
    for name, value in figures.items():
        shown = value if isinstance(value, float) else value["median"]
        print(f"{name}: {shown:,.2f}", flush=True)
    if args.quick:
        for claim in claims:
            print(claim.name, claim.value, "holds" if claim.holds else "does not hold")
        return 0
    notes = notes_of(benches)
    write_result("adapt_speed", figures, claims, seeds=[0], notes=notes, packages=("higher",))
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    raise SystemExit(main())
