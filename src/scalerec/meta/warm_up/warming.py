"""Warm rows: what a recommender's warmers give new users or items, and scores with them.

Shapes: T users or items, W columns of a row, B events, C columns of the logits.
"""

from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.errors import ConfigError
from scalerec.meta.warm_up.entities import describe
from scalerec.meta.warm_up.rows import Scaled, logits_with, mean_partners, refine
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator, RowScaler, Warmer, WarmUp
from scalerec.scoring.scores import evaluating

__all__ = ["rows_from", "score_with_rows", "warm_rows", "warm_up_of", "with_warm_up"]


def with_warm_up(recommender: Recommender, warm_up: WarmUp, warmer: Warmer) -> Recommender:
    """A recommender that holds a warmer too, in place of one for the same key.

    Args:
        recommender: Stays as it is.
        warm_up: What the warmer does.
        warmer: Trained; it is copied.

    Returns:
        The new recommender, in evaluation mode; it scores as the old one.
    """
    others = [own for own in recommender.spec.warm_ups if own.key != warm_up.key]
    spec = replace(recommender.spec, warm_ups=(*others, warm_up))
    generator = torch.Generator().manual_seed(0)
    new = Recommender(recommender.layout, spec, generator, draw_tables=False)
    tensors = {
        name: tensor
        for name, tensor in recommender.to_tensors().items()
        if not name.startswith("warmers.")
    }
    for number, own in enumerate(spec.warm_ups):
        module = warmer if own is warm_up else warm_up_of(recommender, own.key)[1]
        tensors |= {f"warmers.{number}.{n}": t for n, t in module.state_dict().items()}
    new.load_tensors(tensors)
    return new.eval()


def warm_up_of(recommender: Recommender, key: str) -> tuple[WarmUp, Warmer]:
    """The warm-up of a key, and its module.

    Args:
        recommender: The model.
        key: The name of the id field.

    Raises:
        ConfigError: If the recommender has none for that key.
    """
    for warm_up, warmer in zip(recommender.spec.warm_ups, recommender.warmers, strict=True):
        if warm_up.key == key:
            assert isinstance(warmer, RowGenerator | RowScaler), "built so"
            return warm_up, warmer
    known = ", ".join(own.key for own in recommender.spec.warm_ups) or "none"
    raise ConfigError(f"the model warms up no new {key!r}; it does: {known}")


def warm_rows(
    recommender: Recommender,
    key: str,
    entities: Batch,
    support: Batch | None = None,
    tasks_b: Tensor | None = None,
) -> Tensor:
    """Rows for users or items, whether the model knows them or not.

    Thousands are one computation, and each one's row is as if it were alone.

    Args:
        recommender: It holds a warmer for the key.
        key: The name of the id field.
        entities: The users or items, one a row, ``[T]``; what they are not may be empty.
        support: Their first events, if there are any, ``[B]``.
        tasks_b: Whose each event is, 0 to T - 1.

    Returns:
        ``[T, W]``: generated from the features, and refined by the events of each.

    Raises:
        ConfigError: If the recommender has no warmer for the key.
    """
    warm_up, warmer = warm_up_of(recommender, key)
    features_tk = describe(recommender, warm_up, entities)
    if support is None or tasks_b is None:
        support, tasks_b = entities.slice(0, 0), torch.zeros(0, dtype=torch.int64)
    return rows_from(recommender, warm_up, warmer, features_tk, support, tasks_b)


def rows_from(
    recommender: Recommender,
    warm_up: WarmUp,
    warmer: Warmer,
    features_tk: Tensor,
    support: Batch,
    tasks_b: Tensor,
) -> Tensor:
    """As `warm_rows`, by a warmer that the recommender need not hold.

    Args:
        recommender: The model.
        warm_up: What the warmer does.
        warmer: Gives rows.
        features_tk: As `describe` gives them.
        support: The first events, ``[B]``, or none.
        tasks_b: Whose each event is, 0 to T - 1.
    """
    scaled = None
    with evaluating(recommender):
        if isinstance(warmer, RowScaler):
            num = len(features_tk)
            partners_td = mean_partners(recommender, warm_up, support, tasks_b, num)
            scaled, rows_tw = Scaled(warmer, features_tk, partners_td), warmer.cold(num)
        else:
            rows_tw = warmer(features_tk)
        if len(support):
            rows_tw = refine(
                recommender, warm_up, rows_tw, support, tasks_b, warmer.pace, scaled=scaled
            )
        with torch.no_grad():
            return (rows_tw if scaled is None else scaled(rows_tw)).detach().clone()


@torch.no_grad()
def score_with_rows(
    recommender: Recommender, key: str, batch: Batch, rows_tw: Tensor, tasks_b: Tensor
) -> Tensor:
    """Logits of events whose users or items read given rows, ``[B, C]``.

    Args:
        recommender: The model.
        key: The name of the id field.
        batch: The events.
        rows_tw: As `warm_rows` gives them.
        tasks_b: Which row each event reads, 0 to T - 1.
    """
    names = [field.name for field in recommender.narrow.layout.ids]
    if key not in names:
        raise ConfigError(f"the model reads no id field {key!r}; it reads {', '.join(names)}")
    with evaluating(recommender):
        return logits_with(recommender, names.index(key), batch, rows_tw[tasks_b])
