"""Choose among a task's rows: where they lie is what a recommender reads of them.

Shapes: n rows of a task, F fields, D embedding.
"""

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.dataset import Events
from scalerec.meta.choosing.candidates import Candidates
from scalerec.meta.choosing.choices import choose
from scalerec.models.recommender import Recommender
from scalerec.scoring.scores import evaluating

__all__ = ["RowChooser"]


class RowChooser:
    """Chooses rows of a split, as `TaskSet.episode` asks for it.

    A row lies where its embedded fields put it, side by side. What all rows of a task have in
    common, such as their user, moves none of them away from the others. Its class is the label of
    the first task, and -1 where that is unknown.

    Args:
        words: As `scalerec.meta.choosing.choose` has them.
        recommender: Embeds the rows.
        events: The split.
        domain: The id field that tells a row's domain, for a choice that needs it.

    Raises:
        ConfigError: If there is no such field.
    """

    def __init__(
        self, words: str, recommender: Recommender, events: Events, *, domain: str = ""
    ) -> None:
        names = [field.name for field in recommender.layout.ids]
        known = not domain or domain in names
        require(known, f"domain must be one of the id fields {', '.join(names)}; got {domain!r}")
        self._words, self._recommender, self._events = words, recommender, events
        self._domain = names.index(domain) if domain else None
        # An unknown choice is told now, and not at the first task.
        choose(words, self._candidates(torch.arange(0)), 0, torch.Generator())

    def __call__(self, rows: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Places of at most `num` rows among a task's ``[n]`` int64, the most wanted first."""
        return choose(self._words, self._candidates(rows), num, generator)

    @torch.no_grad()
    def _candidates(self, rows: Tensor) -> Candidates:
        batch = self._events.take(rows.numpy())
        with evaluating(self._recommender):
            fields_bfd = self._recommender.read(batch).fields.float()
        classes = torch.where(batch.label_mask[:, 0], batch.labels[:, 0].long(), -1)
        domains = None if self._domain is None else batch.ids[self._domain]
        return Candidates(fields_bfd.flatten(1), classes, domains)
