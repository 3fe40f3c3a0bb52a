"""Algorithms written straight from their papers: one task at a time, plain loops and autograd."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor, nn
from torch.func import functional_call

from scalerec.data.batches import Batch
from scalerec.data.schema import TaskKind
from scalerec.meta.parts import OWN, Parts, choose_parts
from scalerec.meta.personal import Examples, PersonalModel, Shared
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.train.losses import row_losses

__all__ = ["Toy", "adapted", "loss_of", "make_toy", "query_losses", "slow_gradient"]

TASKS, DIM = 4, 3
# Examples of each task that count; one task has none to adapt on.
SUPPORT, QUERY = (3, 1, 0, 2), (2, 3, 1, 2)
Tensors = dict[str, Tensor]


class Scorer(nn.Module):
    """A recommender whose call is `Recommender.score`."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        return self.recommender.score(rows, batch)


@dataclass(frozen=True)
class Toy:
    """A model in float64 with tasks whose supports and queries differ in size."""

    model: PersonalModel
    shared: Shared
    support: Examples
    query: Examples

    @property
    def parts(self) -> Parts:
        return self.model.parts

    def rates(self, rate: float = 0.3) -> Tensors:
        names = [*self.parts.names, *([OWN] if self.parts.field is not None else [])]
        return {name: torch.tensor(rate, dtype=torch.float64) for name in names}


def make_toy(name: str = "deepfm", layout: str = "mixed", adapt: str = "all") -> Toy:
    """A net of the zoo with narrow layers, and examples of four tasks."""
    sizes = {
        key: [20 if name == "finalmlp" else 6] * max(1, len(value))
        for key, value in ZOO[name].config().to_dict().items()
        if isinstance(value, list)
    }
    spec = ModelSpec(model=name, settings={**sizes, "dim": DIM}, init_std=0.3)
    recommender = build_recommender(LAYOUTS[layout], spec, 1).double()
    model = PersonalModel(recommender, choose_parts(recommender, adapt, 0))
    rows = recommender.tables.matrix.double()
    generator = torch.Generator().manual_seed(2)
    support = _examples(model, layout, SUPPORT, generator)
    query = _examples(model, layout, QUERY, generator)
    shared = model.shared()
    return Toy(model, Shared(shared.dense, rows), support, query)


def _examples(
    model: PersonalModel, layout: str, sizes: tuple[int, ...], generator: torch.Generator
) -> Examples:
    width = max(sizes)
    batch = draw_batch(LAYOUTS[layout], TASKS * width, generator)
    batch.ids[0] = torch.arange(2, 2 + TASKS).repeat_interleave(width)
    counted = torch.cat([torch.arange(width) < size for size in sizes])
    weights = counted * (0.5 + torch.rand(len(batch), generator=generator))
    kinds = [task.kind for task in LAYOUTS[layout].tasks]
    labels = torch.stack(
        [
            torch.randint(
                3 if kind is TaskKind.MULTICLASS else 2, (len(batch),), generator=generator
            )
            for kind in kinds
        ],
        1,
    )
    batch = replace(
        batch,
        labels=labels.double(),
        weights=weights.double(),
        dense=batch.dense.double(),
        vectors=tuple(replace(own, values=own.values.double()) for own in batch.vectors),
    )
    return model.read(batch, TASKS)


def own_batch(examples: Examples, task: int) -> Batch:
    """The examples of one task that count."""
    size = len(examples.batch) // examples.num_tasks
    index = torch.arange(task * size, (task + 1) * size)
    return examples.batch.take(index[examples.batch.weights[index] > 0])


def loss_of(toy: Toy, dense: Mapping[str, Tensor], own: Tensor | None, batch: Batch) -> Tensor:
    """The weighted mean loss of one task's examples, through `Recommender.score`."""
    recommender, rows = toy.model.recommender, toy.shared.rows
    if not len(batch):
        return rows.new_zeros(())
    looked = rows[recommender.tables.rows_of(batch)]
    if own is not None:
        # The own row stands first: field 0 is the user's.
        looked = torch.cat([own.expand(len(batch), -1), looked[len(batch) :]])
    named = {f"recommender.{name}": tensor for name, tensor in dense.items()}
    logits = functional_call(Scorer(recommender).eval(), named, (looked, batch))
    losses, weights = row_losses(recommender.layout, logits, batch)
    scales = torch.tensor([task.weight for task in recommender.layout.tasks]).to(losses)
    return ((losses * weights).sum(0) / weights.sum(0) * scales).sum()


def adapted(
    toy: Toy, batches: list[Batch], rates: Mapping[str, Tensor], steps: int, *, second: bool
) -> list[Tensors]:
    """``W <- W - rate * gradient(loss(W, support))``, so many times, task by task."""
    found = []
    for task, batch in enumerate(batches):
        start = {name: toy.shared.dense[name] for name in toy.parts.names}
        if toy.parts.field is not None:
            user = int(toy.query.batch.ids[0].view(TASKS, -1)[task, 0])
            start[OWN] = toy.shared.rows[toy.model.recommender.tables.start["user"] + user]
        own = {n: t if t.requires_grad else t.clone().requires_grad_() for n, t in start.items()}
        for _ in range(steps):
            if not len(batch):
                break
            dense = {**toy.shared.dense, **{n: t for n, t in own.items() if n != OWN}}
            loss = loss_of(toy, dense, own.get(OWN), batch)
            grads = torch.autograd.grad(
                loss, list(own.values()), create_graph=second, allow_unused=True
            )
            own = {
                name: tensor if grad is None else tensor - rates[name] * grad
                for (name, tensor), grad in zip(own.items(), grads, strict=True)
            }
        found.append(own)
    return found


def query_losses(toy: Toy, own: list[Tensors]) -> Tensor:
    """Each task's loss on its query under its own parameters."""
    losses = []
    for task, tensors in enumerate(own):
        dense = {**toy.shared.dense, **{n: t for n, t in tensors.items() if n != OWN}}
        losses.append(loss_of(toy, dense, tensors.get(OWN), own_batch(toy.query, task)))
    return torch.stack(losses)


def slow_gradient(
    toy: Toy, rates: Mapping[str, Tensor], steps: int, *, second: bool
) -> tuple[Tensors, Tensor | None, Tensors]:
    """The gradient of the mean query loss: of dense parameters, of rows, of learned rates."""
    batches = [own_batch(toy.support, task) for task in range(TASKS)]
    total = query_losses(toy, adapted(toy, batches, rates, steps, second=second)).mean()
    leaves = {name: rate for name, rate in rates.items() if rate.requires_grad}
    wanted = [*toy.shared.dense.values(), toy.shared.rows, *leaves.values()]
    grads = torch.autograd.grad(total, wanted, allow_unused=True)
    num = len(toy.shared.dense)
    named = zip(toy.shared.dense, grads, strict=False)
    of_rates = zip(leaves, grads[num + 1 :], strict=True)
    return (
        {name: grad for name, grad in named if grad is not None},
        grads[num],
        {name: grad for name, grad in of_rates if grad is not None},
    )
