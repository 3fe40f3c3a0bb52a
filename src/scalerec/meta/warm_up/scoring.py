"""A recommender's warmers as a method of cold start: scores of queries after few examples."""

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.meta.tasks import Episode
from scalerec.meta.warm_up.warming import score_with_rows, warm_rows
from scalerec.models.recommender import Recommender

__all__ = ["WarmScore"]


class WarmScore:
    """Scores an episode's query rows with warm rows for its users or items.

    Args:
        recommender: It holds a warmer for the key.
        key: The id field of the users or items.
        dataset: Gives them and their events; its ids are the model's.
        split: Whose rows the episodes name.

    Raises:
        ConfigError: If the key is no field of a user or an item.
    """

    def __init__(self, recommender: Recommender, key: str, dataset: Dataset, split: str) -> None:
        schema = dataset.schema
        keys = [own.name for own in (schema.user_key, schema.item_key) if own is not None]
        require(key in keys, f"a key must be one of {', '.join(keys)}; got {key!r}")
        is_item = schema.item_key is not None and schema.item_key.name == key
        self._entities = dataset.items if is_item else dataset.users
        self._recommender, self._key, self._events = recommender, key, dataset.split(split)

    def __call__(self, episode: Episode) -> Tensor:
        """The first task's scores of the query rows, ``[N]``.

        Args:
            episode: Its tasks are by this user or item.
        """
        entities = self._entities.take(episode.keys)
        support = self._events.take(episode.support.rows.numpy())
        rows_tw = warm_rows(self._recommender, self._key, entities, support, episode.support.tasks)
        query = self._events.take(episode.query.rows.numpy())
        logits_bc = score_with_rows(
            self._recommender, self._key, query, rows_tw, episode.query.tasks
        )
        return logits_bc[:, 0].contiguous() if len(query) else torch.zeros(0)
