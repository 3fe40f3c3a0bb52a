"""A history as somebody tells it: keys of items, some with what was thought of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.parsing import parser_of_task
from scalerec.errors import RequestError

__all__ = ["MOST_TOLD", "Told", "read_told"]

MOST_TOLD = 1_000


@dataclass(frozen=True, slots=True)
class Told:
    """A history, oldest first.

    Args:
        keys: Of items, known or not.
        labels: What each was given, as the first task's label; None where nothing was said, which
            means that it was liked.
    """

    keys: tuple[str, ...]
    labels: tuple[float | None, ...]

    @property
    def liked(self) -> list[str]:
        """The keys of what was liked."""
        return [k for k, own in zip(self.keys, self.labels, strict=True) if own is None or own > 0]

    @property
    def disliked(self) -> list[str]:
        """All other keys."""
        return [
            k for k, own in zip(self.keys, self.labels, strict=True) if own is not None and own <= 0
        ]


def read_told(opened: OpenRecommender, words: Sequence[str]) -> Told:
    """Read a history in which a label may follow a key, after a colon: ``50:5``.

    A word that is a key of the catalogue is that key, whatever colons it has.

    Args:
        opened: The bundle; its first task says which labels there are.
        words: One an item, oldest first.

    Raises:
        RequestError: If there are none, or more than 1,000, or a label is none of the first task's.
    """
    if not words:
        raise RequestError("the history is empty; name items by their keys, as 50,181,174")
    if len(words) > MOST_TOLD:
        raise RequestError(
            f"a history of at most {MOST_TOLD:,} items is read; got {len(words):,}; give the latest"
        )
    pairs = [_part(opened, word) for word in words]
    return Told(tuple(key for key, _ in pairs), tuple(label for _, label in pairs))


def _part(opened: OpenRecommender, word: str) -> tuple[str, float | None]:
    key, colon, label = word.rpartition(":")
    if not colon or word in opened.item_numbers or key not in opened.item_numbers:
        return word, None
    task = opened.layout.tasks[0]
    parser = parser_of_task(task)
    clean, bad = parser.parse(pa.array([label or None], pa.string()))
    value = clean[0].as_py()
    if bad.any() or value is None:
        raise RequestError(
            f"history: item {key} has the label {label!r}; task {task.name!r} allows "
            f"{parser.allowed}"
        )
    return key, float(value)
