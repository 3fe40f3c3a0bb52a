"""A recommender as a function of many tasks' parameters, of which only some are their own.

Shapes: T tasks, S examples of each (rows that do not count fill up), E = T S, F id fields, K rows
of tables, W a row's width, C columns of the logits.
"""

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from scalerec.data.batches import Batch
from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError
from scalerec.meta.parts import OWN, Parts
from scalerec.meta.passing import Memo, Products, Read, Running
from scalerec.models.inputs import Inputs
from scalerec.models.recommender import Recommender
from scalerec.train.cohort.models import Head
from scalerec.train.cohort.stacked import TRIED, fits, linear_parameters, spread_examples
from scalerec.train.losses import row_losses

__all__ = ["Examples", "Fast", "Pass", "PersonalModel", "Shared"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Shared:
    """Where all tasks start.

    Args:
        dense: Parameters outside the tables, by name.
        rows: Rows of tables, ``[K, W]``.
    """

    dense: dict[str, Tensor]
    rows: Tensor

    def detach(self) -> "Shared":
        """The same numbers without their history."""
        dense = {name: tensor.detach() for name, tensor in self.dense.items()}
        return Shared(dense, self.rows.detach())


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of T tasks, S of each in turn.

    Args:
        batch: ``[E]``; the weight of one that only fills a place is 0.
        places: Which of `Shared.rows` each id reads: `Tables.rows_of` of the batch, ``[V]`` int64.
        num_tasks: T.
    """

    batch: Batch
    places: Tensor
    num_tasks: int


@dataclass(frozen=True, slots=True)
class Fast:
    """What tasks have of their own after some steps.

    Args:
        num_tasks: T.
        tensors: Adapted parameters by name, ``[T, ...]``; the row of the task's id under `OWN`.
        products: How far linear layers have moved, by the weight's name, where they are not in
            `tensors`; None where they have not.
    """

    num_tasks: int
    tensors: dict[str, Tensor]
    products: dict[str, Products | None] = field(default_factory=dict)

    def take(self, tasks: Tensor) -> "Fast":
        """What some of the tasks have, by their places ``[K]`` int64 or a mask ``[T]`` bool."""
        tensors = {name: tensor[tasks] for name, tensor in self.tensors.items()}
        products = {n: None if p is None else p.take(tasks) for n, p in self.products.items()}
        num = int(tasks.sum()) if tasks.dtype == torch.bool else len(tasks)
        return Fast(num, tensors, products)


class PersonalModel:
    """A recommender whose parts differ between tasks.

    Args:
        recommender: One of whose forms layers alone are read, and without running means.
        parts: What adapts.

    Attributes:
        linear: Weights of linear layers that adapt, or whose bias does, each with its bias.
        whole: Those that adapt with their bias, if they have one.
        moves: Whether these can move by products; known once `stacks` was asked.

    One thread at a time may compute with it; see `for_thread`.

    Raises:
        ConfigError: If its tables have forms, fields are left out, it has running means or a
            retrieval task, or nothing adapts.
    """

    def __init__(self, recommender: Recommender, parts: Parts) -> None:
        _check(recommender)
        if not parts.names and parts.field is None:
            raise ConfigError("nothing adapts; name at least one parameter")
        self.recommender, self.layout, self.parts = recommender, recommender.layout, parts
        self.head = Head(recommender).eval()
        linear = linear_parameters(self.head)
        own = set(parts.names)
        # Layers of which both, or one, of weight and bias adapt.
        self.linear = {w: b for w, b in linear.items() if own & {w, b}}
        self.whole = {w: b for w, b in self.linear.items() if {w, b or w} <= own}
        self._task_weights = torch.tensor([task.weight for task in self.layout.tasks])
        self._stacks: bool | None = None
        self.moves = False

    def for_thread(self) -> "PersonalModel":
        """The same model with modules of its own: a call puts parameters into them for a while."""
        other = copy(self)
        other.head = deepcopy(self.head)
        return other

    def shared(self) -> Shared:
        """The recommender's own parameters and all its rows; they are live."""
        dense = {n: tensor.detach() for n, tensor in self.recommender.dense_parameters().items()}
        return Shared(dense, self.recommender.tables.matrix.detach())

    def start(
        self, shared: Shared, num_tasks: int, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Every task's parameters before the first step, ``[T, ...]``, not copied.

        Args:
            shared: Where they start.
            num_tasks: T.
            rows: The place of each task's own row, ``[T]``; needed where it adapts.
        """
        found = {
            name: shared.dense[name].expand(num_tasks, *shared.dense[name].shape)
            for name in self.parts.names
        }
        if self.parts.field is not None:
            assert rows is not None, "a row that adapts has a place"
            found[OWN] = shared.rows.index_select(0, rows)
        return found

    def own_rows(self, examples: Examples) -> Tensor | None:
        """The place of each task's own row: that which its first example reads, ``[T]``."""
        if self.parts.field is None:
            return None
        size, num = len(examples.batch), examples.num_tasks
        start = self.parts.field * size
        return examples.places[start : start + size].view(num, -1)[:, 0]

    def read(self, batch: Batch, num_tasks: int, numbers: Tensor | None = None) -> Examples:
        """Find the rows that examples read.

        Args:
            batch: ``[E]``, of the layout.
            num_tasks: T.
            numbers: Which rows of the matrix `Shared.rows` holds, in order; None for all of them.
        """
        places = self.recommender.tables.rows_of(batch)
        if numbers is not None:
            places = torch.searchsorted(numbers, places)
        return Examples(batch, places, num_tasks)

    def open(self, shared: Shared, examples: Examples, *, remember: bool = True) -> "Pass":
        """Look the rows up, once for all steps.

        Args:
            shared: Where tasks start.
            examples: Theirs.
            remember: Whether to keep what does not depend on tasks; see `Memo`.
        """
        return Pass(self, shared, examples, remember=remember)

    def stacks(self, shared: Shared, examples: Examples) -> bool:
        """Whether the net computes many tasks by its own code; tried once, on a few examples."""
        if self._stacks is None and len(examples.batch):
            training = self.head.training
            self.head.eval()
            self._stacks = self._try(shared.detach(), examples)
            self.head.train(training)
        return bool(self._stacks)

    def _try(self, shared: Shared, examples: Examples) -> bool:
        size = len(examples.batch)
        batch = examples.batch.take(spread_examples(size))
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=shared.rows.dtype)

        rows = draw(*self.recommender.tables.matrix.shape)
        few = self.read(batch, TRIED)
        tensors = {name: draw(TRIED, *shared.dense[name].shape) for name in self.parts.names}
        if self.parts.field is not None:
            tensors[OWN] = draw(TRIED, rows.shape[1])
        work = Pass(self, Shared(shared.dense, rows), few, remember=False)
        fast = Fast(TRIED, tensors)
        stacks = fits(lambda: work.mapped(fast), lambda: work.stacked(fast))
        if stacks and self.whole:
            moved = {name for pair in self.whole.items() for name in pair}
            rest = {name: own for name, own in tensors.items() if name not in moved}
            unmoved = {
                n: own.expand(TRIED, *own.shape) for n, own in shared.dense.items() if n in moved
            }
            plain = Fast(TRIED, {**rest, **unmoved})
            implied = Fast(TRIED, rest, dict.fromkeys(self.whole))
            self.moves = fits(lambda: work.stacked(plain), lambda: work.stacked(implied))
        return stacks

    def task_losses(
        self, logits: Tensor, batch: Batch, num_tasks: int, prior: float = 0.0
    ) -> Tensor:
        """Each task's mean loss over its examples, ``[T]``; 0 without any.

        Args:
            logits: ``[E, C]``.
            batch: ``[E]``.
            num_tasks: T.
            prior: So many more examples, of loss 0, are counted.
        """
        losses_et, weights_et = row_losses(self.layout, logits, batch)
        parted = (num_tasks, len(batch) // num_tasks, -1)
        totals, weights = (
            (losses_et * weights_et).view(parted).sum(1),
            weights_et.view(parted).sum(1),
        )
        return totals / (weights + prior).clamp(min=1e-12) @ self._task_weights.to(totals)

    def label_parts(self, batch: Batch, num_tasks: int, prior: float = 0.0) -> Tensor:
        """How much each label's loss counts in `task_losses` of its task, ``[E, K]``.

        Args:
            batch: ``[E]``, with K labels a row.
            num_tasks: T.
            prior: As there.
        """
        weights = (batch.weights.unsqueeze(1) * batch.label_mask).unflatten(0, (num_tasks, -1))
        counted = (weights.sum(1, keepdim=True) + prior).clamp(min=1e-12)
        parts: Tensor = weights / counted * self._task_weights.to(weights)
        return parts.flatten(0, 1)


class Pass:
    """Some examples, looked up, and what of their logits is the same for all tasks.

    Args:
        model: The model.
        shared: Where tasks start.
        examples: Theirs.
        remember: As in `PersonalModel.open`.
    """

    def __init__(
        self, model: PersonalModel, shared: Shared, examples: Examples, *, remember: bool
    ) -> None:
        self.model, self.shared, self.examples = model, shared, examples
        self._memo = Memo() if remember else None
        batch, width = examples.batch, shared.rows.shape[1]
        self._size, num_ids = len(batch), len(model.layout.ids)
        looked = shared.rows.index_select(0, examples.places)
        own, rest = looked.split([num_ids * self._size, len(looked) - num_ids * self._size])
        self._ids: Tensor = own.view(num_ids, self._size, width).transpose(0, 1)
        self._bags, self._histories = model.head.embedder.pool(rest, batch)
        self._vectors = [field.values for field in batch.vectors]

    def others(self) -> Inputs:
        """What the net sees of the examples without the tasks' own rows, which are zero."""
        ids, place = self._ids, self.model.parts.field
        if place is not None:
            ids = ids.clone()
            ids[:, place] = 0
        args = (ids, self.examples.batch.dense, self._bags, self._vectors, self._histories)
        found: Inputs = self.model.head.embedder.assemble(*args)
        return found

    def losses(self, fast: Fast, reads: list[Read] | None = None, prior: float = 0.0) -> Tensor:
        """Each task's mean loss, ``[T]``.

        Args:
            fast: What tasks have of their own.
            reads: Is told of the layers that move by products.
            prior: As in `PersonalModel.task_losses`.
        """
        logits = self.logits(fast, reads)
        return self.model.task_losses(logits, self.examples.batch, self.examples.num_tasks, prior)

    def logits(self, fast: Fast, reads: list[Read] | None = None) -> Tensor:
        """Logits ``[E, C]``; arguments as in `losses`."""
        if fast.products or self.model.stacks(self.shared, self.examples):
            return self.stacked(fast, reads)
        return self.mapped(fast)

    def stacked(self, fast: Fast, reads: list[Read] | None = None) -> Tensor:
        """Logits by the net's own code, for a net that it fits."""
        model, num = self.model, self.examples.num_tasks
        own = [tensor for name, tensor in fast.tensors.items() if name == OWN]
        used = dict(self.shared.dense)
        linear: dict[str, Tensor] = {}
        paired: set[str] = set()
        for weight, bias in model.linear.items():
            if weight in fast.products:
                linear[weight] = used[weight]
                continue
            for name in (weight, bias):
                if name:
                    used[name] = fast.tensors.get(name, used[name].expand(num, *used[name].shape))
                    paired.add(name)
            linear[weight] = used[weight]
        for name, tensor in fast.tensors.items():
            if name != OWN and name not in paired:
                used[name] = tensor.repeat_interleave(self._size // num, 0)
                own.append(used[name])
        args = (self._with_own(fast), self.examples.batch.dense, self._bags, self._vectors)
        if OWN in fast.tensors:
            own.append(args[0])
        with Running(own, linear, fast.products, num, self._memo, reads):
            out: Tensor = functional_call(model.head, used, (*args, self._histories))
        return out

    def _with_own(self, fast: Fast) -> Tensor:
        """The rows of id fields, ``[E, F, W]``, with each task's own in its place."""
        place = self.model.parts.field
        if OWN not in fast.tensors or place is None:
            return self._ids
        size = self._size // self.examples.num_tasks
        own = fast.tensors[OWN].repeat_interleave(size, 0).unsqueeze(1)
        return torch.cat([self._ids[:, :place], own, self._ids[:, place + 1 :]], 1)

    def mapped(self, fast: Fast) -> Tensor:
        """Logits by `torch.func.vmap` over tasks, which is right for every net."""
        num = self.examples.num_tasks
        own = {name: tensor for name, tensor in fast.tensors.items() if name != OWN}
        head, shared, histories = self.model.head, self.shared.dense, self._histories

        def parted(tensor: Tensor) -> Tensor:
            own: Tensor = tensor.unflatten(0, (num, -1))
            return own

        def one(
            parameters: Tensors,
            ids_sfw: Tensor,
            dense_sn: Tensor,
            bags: list[Tensor],
            vectors: list[Tensor],
            values: list[Tensor],
            masks: list[Tensor],
        ) -> Tensor:
            met = [
                replace(history, values=value, mask=mask)
                for history, value, mask in zip(histories, values, masks, strict=True)
            ]
            args = (ids_sfw, dense_sn, bags, vectors, met)
            logits: Tensor = functional_call(head, {**shared, **parameters}, args)
            return logits

        found: Tensor = vmap(one, randomness="different")(
            own,
            parted(self._with_own(fast)),
            parted(self.examples.batch.dense),
            [parted(bag) for bag in self._bags],
            [parted(vector) for vector in self._vectors],
            [parted(history.values) for history in histories],
            [parted(history.mask) for history in histories],
        )
        flat: Tensor = found.flatten(0, 1)
        return flat


def _check(recommender: Recommender) -> None:
    if any(task.kind is TaskKind.RETRIEVAL for task in recommender.layout.tasks):
        raise ConfigError(
            "a retrieval task takes the other rows of a batch as negatives, and a task's few rows "
            "hold what it liked alone; adapt to a binary, multiclass or regression task"
        )
    forms = recommender.spec.forms
    if forms.tables or forms.fields:
        names = ", ".join((*forms.tables, *forms.fields))
        raise ConfigError(
            "adapting needs tables that store whole rows of each id's own, and all fields; others "
            f"are here: {names}: adapt first, then compress"
        )
    buffers = [name for name, _ in recommender.net.named_buffers()]
    if buffers:
        raise ConfigError(
            f"adapting needs a model without running means; got {', '.join(buffers)}: "
            "set batch_norm=false"
        )
