"""Known ids, on which warming up is learned, and those of them that are held out.

Shapes: N all users or items, K numbers that describe one, B events.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset, Events
from scalerec.data.tasks import TaskKind
from scalerec.errors import TrainError
from scalerec.meta.tasks import Ragged, TaskSet
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.entities import check_table, describe, entities_of
from scalerec.meta.warm_up.rows import mean_losses
from scalerec.meta.warm_up.warming import rows_from, score_with_rows
from scalerec.models.recommender import Recommender
from scalerec.models.warming import Warmer, WarmUp

__all__ = [
    "HeldOut",
    "Judged",
    "Known",
    "cut_supports",
    "draw_judged",
    "find_known",
    "held_out_losses",
    "move",
]

MWUF_HIDDEN = (16,)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The mean loss of ids that were held out, on their queries.

    Args:
        generated: By rows without any example.
        refined: By rows after the ids' supports.
    """

    generated: float
    refined: float


@dataclass(frozen=True, slots=True)
class Judged:
    """Ids by which a warmer is judged.

    Args:
        features: What describes them, ``[T, K]``.
        support: Their first events, and whose each is.
        query: Other events, and whose each is.
    """

    features: Tensor
    support: tuple[Batch, Tensor]
    query: tuple[Batch, Tensor]


@dataclass(frozen=True, slots=True)
class Known:
    """What warming up is learned from.

    Args:
        recommender: In evaluation mode; it is held fixed.
        warm_up: Which ids, from what.
        entities: All users or items, ``[N]``.
        features: What describes them, ``[N, K]``.
        events: The training rows.
        tasks: The rows by id, of those that are learned from.
        judged: Those that are held out.
    """

    recommender: Recommender
    warm_up: WarmUp
    entities: Batch
    features: Tensor
    events: Events
    tasks: TaskSet
    judged: Judged

    def read(self, ragged: Ragged) -> tuple[Batch, Tensor]:
        """Events, and the place of the id to which each belongs, ``[B]``."""
        return self.events.take(ragged.rows.numpy()), ragged.tasks


def cut_supports(support: Ragged, most: int, generator: torch.Generator) -> Ragged:
    """The first 1 to `most` rows of each task, by chance."""
    sizes_t = torch.randint(1, most + 1, (len(support),), generator=generator)
    return support.keep(support.ranks < sizes_t[support.tasks])


def find_known(
    recommender: Recommender,
    dataset: Dataset,
    config: WarmUpConfig,
    generator: torch.Generator,
) -> Known:
    """Gather what warming up is learned from; see `learn_warm_up`."""
    kinds = [task.kind for task in recommender.layout.tasks]
    can = any(kind is not TaskKind.RETRIEVAL for kind in kinds)
    require(can, "warming up needs a task that is not retrieval; there is none")
    own = entities_of(recommender, dataset.schema, config.entity)
    check_table(recommender, dataset.schema, own.key)
    scales = config.method == "mwuf"
    partner = own.partner if scales else ""
    require(not scales or bool(partner), "method 'mwuf' needs the key of who met an id; got none")
    warm_up = WarmUp(
        key=own.key,
        features=own.features,
        method=config.method,
        partner=partner,
        hidden=config.hidden or (MWUF_HIDDEN if scales else ()),
        steps=config.steps,
    )
    events, num = dataset.split("train"), config.rows_per_id
    least = num + 1 if config.varied else 2 * num
    tasks, apart = TaskSet(events, config.entity, least_rows=least).hold_out(
        config.held_out, generator
    )
    entities = dataset.items if config.entity == "item" else dataset.users
    features = describe(recommender, warm_up, entities)
    judged = draw_judged(events, apart, features, config, generator)
    return Known(recommender.eval(), warm_up, entities, features, events, tasks, judged)


def draw_judged(
    events: Events,
    tasks: TaskSet,
    features_nk: Tensor,
    config: WarmUpConfig,
    generator: torch.Generator,
    most: int | None = None,
) -> Judged:
    """Draw support and query of ids by which a warmer is judged.

    Args:
        events: The split.
        tasks: Its rows by id.
        features_nk: Of all users or items, by number.
        config: Sizes.
        generator: Draws ids and events.
        most: How many ids at most; all by default.
    """
    num = config.rows_per_id
    some = torch.randperm(len(tasks), generator=generator)[:most]
    episode = tasks.episode(some, num, num, generator)
    support = episode.support
    if config.varied:
        support = cut_supports(support, num, generator)
    read = ((events.take(own.rows.numpy()), own.tasks) for own in (support, episode.query))
    return Judged(features_nk[episode.keys], *read)


def held_out_losses(known: Known, warmer: Warmer, judged: Judged | None = None) -> HeldOut:
    """Judge a warmer by ids that are held out.

    Args:
        known: The model, and the ids held out.
        warmer: Gives rows.
        judged: Other ids.

    Raises:
        TrainError: If a loss is not finite.
    """
    judged, recommender = judged or known.judged, known.recommender
    (query, tasks_b), num = judged.query, len(judged.features)
    none = judged.support[0].slice(0, 0), judged.support[1][:0]
    losses = []
    for support in (none, judged.support):
        rows_tw = rows_from(recommender, known.warm_up, warmer, judged.features, *support)
        logits = score_with_rows(recommender, known.warm_up.key, query, rows_tw, tasks_b)
        losses.append(float(mean_losses(recommender, logits, query, tasks_b, num).mean()))
    whole = HeldOut(*losses)
    if not torch.tensor(losses).isfinite().all():
        raise TrainError(f"warming up: the loss of held-out ids is not finite: {whole}")
    return whole


def move(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step of an optimiser; nothing but its parameters gets gradients."""
    parameters = [own for group in optimiser.param_groups for own in group["params"]]
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
