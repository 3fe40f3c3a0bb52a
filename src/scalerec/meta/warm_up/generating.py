"""Meta-Embedding: a row is generated such that it is good at once, and better after few examples.

Paper: Warm Up Cold-start Advertisements: Improving CTR Predictions via Learning to Learn ID
Embeddings, Pan et al., 2019, https://arxiv.org/abs/1904.11547.

Shapes: T ids, K numbers that describe one, W columns of a row, B events.
"""

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.known import Known, cut_supports, move
from scalerec.meta.warm_up.rows import Scaled, logits_with, mean_losses, mean_partners, refine
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator, Warmer, WarmUp

__all__ = ["generate_epoch", "meta_embedding_loss"]

Own = tuple[Batch, Tensor]


def meta_embedding_loss(
    recommender: Recommender,
    warm_up: WarmUp,
    warmer: Warmer,
    features_tk: Tensor,
    first: Own,
    second: Own,
    alpha: float,
) -> Tensor:
    """The loss that the generator minimises, differentiable twice; the model is held fixed.

    It is ``alpha * l_a + (1 - alpha) * l_b``, as the paper's algorithm 1 has it: ``l_a`` is that of
    generated rows on the ids' first events, ``l_b`` that of the rows after gradient steps on those,
    on the second events. The paper has one step and one rate.

    The nets of `RowScaler` can be learned by the same loss: a row is then what they make of a cold
    one, and those who met the id are those of its first events.

    Args:
        recommender: In evaluation mode.
        warm_up: Names the key and the number of steps.
        warmer: Gives rows; its parameters get gradients.
        features_tk: Of T known ids.
        first: A batch of events of theirs, and whose each is, 0 to T - 1.
        second: Other events, likewise.
        alpha: Share of ``l_a``, in [0, 1].

    Returns:
        The mean over ids, a scalar.
    """
    field, num = warm_up.field(recommender.narrow.layout), len(features_tk)

    def loss(read_tw: Tensor, own: Own) -> Tensor:
        batch, tasks_b = own
        logits = logits_with(recommender, field, batch, read_tw[tasks_b])
        return mean_losses(recommender, logits, batch, tasks_b, num).mean()

    def refined(rows_tw: Tensor, scaled: Scaled | None = None) -> Tensor:
        return refine(
            recommender, warm_up, rows_tw, *first, warmer.pace, scaled=scaled, create_graph=True
        )

    if isinstance(warmer, RowGenerator):
        before_tw = warmer(features_tk)
        after_tw = refined(before_tw)
    else:
        partners_td = mean_partners(recommender, warm_up, *first, num)
        scaled, cold_tw = Scaled(warmer, features_tk, partners_td), warmer.cold(num)
        before_tw = warmer(cold_tw, features_tk, torch.zeros_like(partners_td))
        after_tw = scaled(refined(cold_tw, scaled))
    return alpha * loss(before_tw, first) + (1 - alpha) * loss(after_tw, second)


def generate_epoch(
    warmer: Warmer,
    known: Known,
    config: WarmUpConfig,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Show a warmer every known id once, with two disjoint batches of its events.

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
        support = (
            cut_supports(episode.support, num, generator) if config.varied else episode.support
        )
        first, second = known.read(support), known.read(episode.query)
        features_tk = known.features[episode.keys]
        loss = meta_embedding_loss(
            known.recommender, known.warm_up, warmer, features_tk, first, second, config.alpha
        )
        move(optimiser, loss)
