"""Meta-Embedding: a row is generated such that it is good at once, and better after few examples.

Paper: Warm Up Cold-start Advertisements: Improving CTR Predictions via Learning to Learn ID
Embeddings, Pan et al., 2019, https://arxiv.org/abs/1904.11547.

Shapes: T ids, K numbers that describe one, W columns of a row, B events.
"""

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.known import Known, move
from scalerec.meta.warm_up.rows import logits_with, mean_losses, refine
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator, WarmUp

__all__ = ["generate_epoch", "meta_embedding_loss"]

Own = tuple[Batch, Tensor]


def meta_embedding_loss(
    recommender: Recommender,
    warm_up: WarmUp,
    warmer: RowGenerator,
    features_tk: Tensor,
    first: Own,
    second: Own,
    alpha: float,
) -> Tensor:
    """The loss that the generator minimises, differentiable twice; the model is held fixed.

    It is ``alpha * l_a + (1 - alpha) * l_b``, as the paper's algorithm 1 has it: ``l_a`` is that of
    generated rows on the ids' first events, ``l_b`` that of the rows after gradient steps on those,
    on the second events. The paper has one step and one rate.

    Args:
        recommender: In evaluation mode.
        warm_up: Names the key and the number of steps.
        warmer: Generates rows; its parameters and rates get gradients.
        features_tk: Of T known ids.
        first: A batch of events of theirs, and whose each is, 0 to T - 1.
        second: Other events, likewise.
        alpha: Share of ``l_a``, in [0, 1].

    Returns:
        The mean over ids, a scalar.
    """
    field, num = warm_up.field(recommender.narrow.layout), len(features_tk)
    rows_tw = warmer(features_tk)

    def loss(read_tw: Tensor, own: Own) -> Tensor:
        batch, tasks_b = own
        logits = logits_with(recommender, field, batch, read_tw[tasks_b])
        return mean_losses(recommender, logits, batch, tasks_b, num).mean()

    refined_tw = refine(recommender, warm_up, rows_tw, *first, warmer.rates, create_graph=True)
    return alpha * loss(rows_tw, first) + (1 - alpha) * loss(refined_tw, second)


def generate_epoch(
    warmer: RowGenerator,
    known: Known,
    config: WarmUpConfig,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Show the generator every known id once, with two disjoint batches of its events.

    Args:
        warmer: It is trained.
        known: The ids and their events.
        config: Sizes and weights.
        optimiser: Of the warmer.
        generator: Draws the order of ids, and their events.
    """
    num = config.rows_per_id
    order = torch.randperm(len(known.tasks), generator=generator)
    for some in order.split(config.ids_per_step):
        episode = known.tasks.episode(some, num, num, generator)
        first, second = known.read(episode.support), known.read(episode.query)
        features_tk = known.features[episode.keys]
        loss = meta_embedding_loss(
            known.recommender, known.warm_up, warmer, features_tk, first, second, config.alpha
        )
        move(optimiser, loss)
