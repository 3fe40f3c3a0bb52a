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
from scalerec.meta.tasks import Episode, Ragged, TaskSet
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.entities import check_table, describe, entities_of
from scalerec.meta.warm_up.rows import mean_losses
from scalerec.meta.warm_up.warming import rows_from, score_with_rows
from scalerec.models.recommender import Recommender
from scalerec.models.warming import Warmer, WarmUp

__all__ = ["HeldOut", "Known", "find_known", "held_out_losses", "move"]

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
class Known:
    """What warming up is learned from.

    Args:
        recommender: In evaluation mode; it is held fixed.
        warm_up: Which ids, from what.
        entities: All users or items, ``[N]``.
        features: What describes them, ``[N, K]``.
        events: The training rows.
        tasks: The rows by id, of those that are learned from.
        judged: Support and query of those that are held out.
    """

    recommender: Recommender
    warm_up: WarmUp
    entities: Batch
    features: Tensor
    events: Events
    tasks: TaskSet
    judged: Episode

    def read(self, ragged: Ragged) -> tuple[Batch, Tensor]:
        """Events, and the place of the id to which each belongs, ``[B]``."""
        return self.events.take(ragged.rows.numpy()), ragged.tasks


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
    tasks, apart = TaskSet(events, config.entity, least_rows=2 * num).hold_out(
        config.held_out, generator
    )
    judged = apart.episode(torch.arange(len(apart)), num, num, generator)
    entities = dataset.items if config.entity == "item" else dataset.users
    features = describe(recommender, warm_up, entities)
    return Known(recommender.eval(), warm_up, entities, features, events, tasks, judged)


def held_out_losses(known: Known, warmer: Warmer) -> HeldOut:
    """Judge a warmer by the ids that were held out.

    Raises:
        TrainError: If a loss is not finite.
    """
    episode, recommender = known.judged, known.recommender
    features_tk = known.features[episode.keys]
    query, tasks_b = known.read(episode.query)
    losses = []
    for support in (episode.first(0).support, episode.support):
        rows_tw = rows_from(recommender, known.warm_up, warmer, features_tk, *known.read(support))
        logits = score_with_rows(recommender, known.warm_up.key, query, rows_tw, tasks_b)
        own_t = mean_losses(recommender, logits, query, tasks_b, len(episode))
        losses.append(float(own_t.mean()))
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
