"""Bundles that adapt: examples in, a recommender or a delta bundle out.

Shapes: T tasks, N examples of all of them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scalerec.bundle import Bundle, Changes, RowChange, Step, require_adaptable, write_delta
from scalerec.bundle.adaptation import Adaptation
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.batches import Batch
from scalerec.data.pairing import pair
from scalerec.data.schema import TaskKind
from scalerec.data.vocabulary import OOV
from scalerec.errors import ConfigError
from scalerec.meta.adapting import adapt, dense_after
from scalerec.meta.episodes import rectangle
from scalerec.meta.outer import full_rates
from scalerec.meta.parts import OWN, Parts, choose_parts, own_field
from scalerec.meta.personal import Examples, Fast, PersonalModel, Shared
from scalerec.meta.tasks import Ragged
from scalerec.meta.towers import towers_of
from scalerec.models.forming import float_names, unrounded
from scalerec.models.kernels.threads import one_thread
from scalerec.models.packed import PackedTables
from scalerec.models.recommender import Recommender
from scalerec.scoring.recommending import recommend, stranger

__all__ = ["Adapter", "Own", "adaptation_from", "write_adapted"]

# Tasks that adapt at a time: of 10,000 users with 5 examples each, 2,500 together took three
# quarters of the time that all together took, and half of what 100 together took.
GROUP = 2_500
# The kernel takes one task after the other anyway. What tasks have of their own is best no more
# than the processor's cache holds: 2,500 towers of 12,500 numbers took up to a third longer than
# 500.
TOWERS_NUMBERS = 6_000_000
# Examples of the task that makes an adapter ready.
FEW = 5


@dataclass(frozen=True, slots=True)
class Own:
    """What one task has of its own.

    Args:
        dense: Parameters outside the tables, by name.
        row: Its own row, ``[W]``, or None.
        number: That row's number in the matrix of all tables.
    """

    dense: dict[str, Tensor]
    row: Tensor | None
    number: int


def adaptation_from(
    opened: OpenRecommender,
    words: str | None = None,
    steps: int | None = None,
    rate: float | None = None,
    by: str = "user",
) -> tuple[Adaptation, dict[str, Tensor]]:
    """How a bundle adapts, with what was asked for otherwise.

    Args:
        opened: The bundle; one that nobody taught to adapt takes 5 steps of rate .1 on its head.
        words: What adapts, as in `scalerec.meta.parts`; None for what the bundle has.
        steps: Of gradient descent; None for the bundle's.
        rate: Of all adapted parameters; None for the bundle's.
        by: What a task is, where the bundle does not say.

    Raises:
        ConfigError: If a word names nothing.
    """
    held, rates = opened.adaptation, dict(opened.rates)
    if held is None or words is not None:
        by = by if held is None else held.by
        place = own_field(opened.encoders.schema, opened.layout, by)
        parts = choose_parts(unrounded(opened.recommender), words or "head", place)
        held = Adaptation(
            by=by,
            parts=parts.names,
            key="" if place is None else opened.layout.ids[place].name,
            own=parts.field is not None,
            as_new=True if held is None else held.as_new,
            steps=5 if held is None else held.steps,
            rates={},
        )
    names = [*held.parts, *([OWN] if held.own else [])]
    default = torch.tensor(0.1 if rate is None else rate)
    fixed = {name: rates[name] if rate is None and name in rates else default for name in names}
    return replace(held, steps=held.steps if steps is None else steps), fixed


def _check_float(recommender: Recommender, names: Sequence[str]) -> None:
    if not recommender.spec.forms:
        return
    floats = set(float_names(recommender))
    if few := [name for name in names if name not in floats]:
        raise ConfigError(
            f"what has few bits cannot adapt: {', '.join(few)}; parts that a bundle calls "
            "adaptable by name, as `meta-train` does, stay float when it is compressed"
        )
    if isinstance(recommender.tables, PackedTables) and any(n.startswith("tables.") for n in names):
        raise ConfigError(
            "a row of its own cannot adapt where other tables have few bits; compress with "
            "quantize=...:tables=float32"
        )


class Adapter:
    """A bundle that is ready to adapt, one task in a call or thousands as one computation.

    Args:
        opened: The bundle.
        adaptation: How; its own by default.
        rates: Of each adapted parameter; its own by default.
        compiled: Whether the kernel of `scalerec.meta.towers` is used where it fits; without it all
            is computed by torch, to the same result but for the order of sums.

    Raises:
        ConfigError: If its model cannot adapt.
        BundleError: If what would adapt is frozen.
    """

    def __init__(
        self,
        opened: OpenRecommender,
        adaptation: Adaptation | None = None,
        rates: dict[str, Tensor] | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        if adaptation is None or rates is None:
            adaptation, rates = adaptation_from(opened)
        self.opened, self.adaptation = opened, adaptation
        names = [field.name for field in opened.layout.ids]
        if adaptation.key and adaptation.key not in names:
            raise ConfigError(f"adaptation.key must be one of {names}; got {adaptation.key!r}")
        place = names.index(adaptation.key) if adaptation.key else None
        self._hidden = place if adaptation.as_new else None
        self._table = opened.layout.ids[place].table if place is not None else ""
        changed = [*adaptation.parts, *([f"tables.{self._table}.weight"] if adaptation.own else [])]
        _check_float(opened.recommender, changed)
        require_adaptable(opened.bundle, changed)
        parts = Parts(adaptation.parts, place if adaptation.own else None)
        # What has few bits stays so in the bundle, and gradients pass what it stands for.
        self.model = PersonalModel(unrounded(opened.recommender), parts)
        self.rates = full_rates(self.model, rates)
        self.shared: Shared = self.model.shared()
        args = self.model, self.shared, self.rates
        self._towers = towers_of(*args) if compiled else None

    def ready(self) -> "Adapter":
        """Pay now what the first request would: imports, compiled kernels, what is tried once.

        One stranger adapts to a few items of the catalogue and gets a list; nothing changes.
        """
        opened = self.opened
        rows, num = stranger(opened), min(FEW, len(opened.items))
        if num:
            rows = pair(opened.layout, rows, opened.items, torch.arange(num)[None])
        mask = torch.zeros(len(rows), len(opened.layout.tasks), dtype=torch.bool)
        mask[:, 0] = True
        own = self.one(replace(rows, labels=torch.zeros(mask.shape), label_mask=mask))
        ranks = opened.layout.tasks[0].kind is not TaskKind.MULTICLASS
        if num and ranks:
            with self.adapted(own) as ready:
                recommend(ready, history=opened.item_keys[:1], k=1, adapted=True)
        return self

    def examples(self, batch: Batch, offsets: Tensor) -> Examples:
        """The examples of many tasks as `many` takes them.

        Args:
            batch: Those of each task in turn, at least one of each, ``[N]``.
            offsets: Where each task's start; the last is N; ``[T+1]`` int64.
        """
        ragged = Ragged(torch.arange(len(batch)), offsets)
        rows, counts = rectangle(ragged, offsets[:-1].clamp(max=max(0, len(batch) - 1)))
        whole = batch if bool(counts.all()) else batch.take(rows.flatten())
        whole = replace(whole, weights=whole.weights * counts.flatten())
        return self.read(whole, len(ragged))

    def read(self, batch: Batch, num_tasks: int) -> Examples:
        """Rows of many tasks, as many of each.

        Args:
            batch: ``[T * S]``.
            num_tasks: T.
        """
        if self._hidden is not None:
            ids = batch.ids.clone()
            ids[self._hidden] = OOV
            batch = replace(batch, ids=ids)
        return self.model.read(batch, num_tasks)

    def many(self, examples: Examples) -> Fast:
        """Adapt to many tasks as one computation.

        Args:
            examples: Of all of them.
        """
        return self._adapt(examples, self.model)

    def groups(
        self, batch: Batch, offsets: Tensor, size: int | None = None, threads: int = 1
    ) -> Iterator[Fast]:
        """Adapt to any number of tasks, some at a time, so that what is computed stays at hand.

        Args:
            batch: The examples of each task in turn, at least one of each, ``[N]``.
            offsets: Where each task's start; the last is N; ``[T+1]`` int64.
            size: Tasks of a group; None for what was quickest.
            threads: Groups that are computed side by side. While they are, torch uses one thread
                for each call.

        Yields:
            What the tasks of each group have of their own, in order.
        """
        if size is None:
            own = 0 if self._towers is None else len(self._towers.rates)
            size = max(1, min(GROUP, TOWERS_NUMBERS // max(1, own)))
        firsts = range(0, len(offsets) - 1, size)
        if threads <= 1 or len(firsts) <= 1:
            for first in firsts:
                yield self._group(batch, offsets[first : first + size + 1], self.model)
            return
        if self._towers is None:
            few = self.examples(batch.slice(0, int(offsets[1])), offsets[:2])
            self.model.stacks(self.shared, few)
        idle = [self.model.for_thread() for _ in range(threads)]

        def work(first: int) -> Fast:
            model = idle.pop()
            try:
                return self._group(batch, offsets[first : first + size + 1], model)
            finally:
                idle.append(model)

        with one_thread(), ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, firsts)

    def _group(self, batch: Batch, offsets: Tensor, model: PersonalModel) -> Fast:
        start, stop = int(offsets[0]), int(offsets[-1])
        examples = self.examples(batch.slice(start, stop), offsets - start)
        return self._adapt(examples, model)

    def _adapt(self, examples: Examples, model: PersonalModel) -> Fast:
        """By the kernel where that fits, which needs no model of a thread's own."""
        how = self.adaptation
        if self._towers is not None:
            return self._towers.adapt(self.shared, examples, how.steps, how.prior)
        return adapt(model, self.shared, examples, self.rates, how.steps, prior=how.prior)

    @torch.no_grad()
    def scores(self, fast: Fast, queries: Examples) -> Tensor:
        """Logits ``[E, C]`` of rows under each task's own parameters.

        Args:
            fast: From `many`.
            queries: As many rows of each task; see `read`.
        """
        return self.model.open(self.shared, queries, remember=False).logits(fast)

    def one(self, batch: Batch) -> Own:
        """Adapt to one task, by one thread: a few examples are too little to share.

        Args:
            batch: Its examples, at least one.
        """
        with one_thread():
            examples = self.read(batch, 1)
            found = dense_after(self.model, self.shared, self.many(examples))
        row = found.pop(OWN, None)
        places = self.model.own_rows(examples)
        return Own(
            {name: tensor[0].detach() for name, tensor in found.items()},
            None if row is None else row[0].detach(),
            -1 if places is None else int(places[0]),
        )

    @contextmanager
    def adapted(self, own: Own) -> Iterator[OpenRecommender]:
        """The bundle's recommender with a task's own parameters, for as long as the block lasts.

        Args:
            own: From `one`.
        """
        recommender = self.opened.recommender
        before = {n: recommender.get_parameter(n).detach().clone() for n in own.dense}
        row = None if own.row is None else recommender.tables.matrix[own.number].clone()
        try:
            self._put(own.dense, own.row, own.number)
            yield self.opened
        finally:
            self._put(before, row, own.number)

    @torch.no_grad()
    def _put(self, dense: Mapping[str, Tensor], row: Tensor | None, number: int) -> None:
        recommender = self.opened.recommender
        for name, tensor in dense.items():
            recommender.get_parameter(name).copy_(tensor)
        if row is not None:
            recommender.tables.matrix[number] = row

    def changes(self, own: Own, step: Step) -> Changes:
        """What a delta bundle holds of a task.

        Args:
            own: From `one`.
            step: The verb's.
        """
        rows: dict[str, RowChange] = {}
        if own.row is not None:
            start = self.opened.recommender.tables.start[self._table]
            name, number = f"tables.{self._table}.weight", torch.tensor([own.number - start])
            rows[name] = RowChange(rows=number, values=own.row.unsqueeze(0).clone())
        return Changes(step=step, tensors=own.dense, rows=rows)


def write_adapted(path: str | Path, adapter: Adapter, batch: Batch, *, overwrite: bool) -> Bundle:
    """Adapt to one task and write what is its own as a delta bundle.

    Args:
        path: The directory to make.
        adapter: Of the bundle that it stands on.
        batch: The task's examples.
        overwrite: Whether a bundle at `path` may be replaced.
    """
    start = time.perf_counter()
    own = adapter.one(batch)
    base, how = adapter.opened.bundle, adapter.adaptation
    settings = {
        "by": how.by,
        "adapts": [*how.parts, *([OWN] if how.own else [])],
        "steps": how.steps,
        "examples": len(batch),
    }
    seconds = time.perf_counter() - start
    step = Step(verb="adapt", settings=settings, parents=(base.digest,), seconds=seconds)
    return write_delta(path, base, adapter.changes(own, step), overwrite=overwrite)
