"""Which parameters of a recommender adapt to a task; all others are shared by all tasks.

Words: `head`, the last layer with parameters, or what reads the tasks' towers out (ANIL);
`decision`, everything after the embeddings (MeLU); `own`, the embedding that the task's own id
reads, which for a user never seen is that of all unknown users; `all`, everything outside the
tables, and `own`. Any other word is a pattern of names, such as ``net.tower.*``.

Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the
Effectiveness of MAML, 2020, https://arxiv.org/abs/1909.09157. Lee, Im, Jang, Cho, Chung: MeLU:
Meta-Learned User Preference Estimator for Cold-Start Recommendation, 2019,
https://arxiv.org/abs/1908.00413.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from scalerec.data.layout import Layout
from scalerec.data.schema import Categorical, Role, Schema
from scalerec.errors import ConfigError
from scalerec.models.heads import TaskTowers
from scalerec.models.recommender import Recommender

__all__ = ["OWN", "Parts", "choose_parts", "own_field"]

OWN = "own"
"""The name, among adapted tensors, of the row that a task's own id reads."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What adapts.

    Args:
        names: Parameters outside the tables, in the order of the model.
        field: Number of the id field whose row is the task's own, or None if no row adapts.
    """

    names: tuple[str, ...]
    field: int | None = None


def choose_parts(recommender: Recommender, words: str, field: int | None = None) -> Parts:
    """Find what some words name.

    Args:
        recommender: Its parameters are named.
        words: Separated by commas, such as `head,own`; see the module.
        field: Number of the id field that says which task a row belongs to, or None if none does.

    Raises:
        ConfigError: If a word names nothing, or `own` is asked for where no field is the task's.
    """
    # A layout without numbers leaves their vectors empty.
    known = [name for name, own in recommender.dense_parameters().items() if own.numel()]
    wanted: set[str] = set()
    own = False
    for word in (part.strip() for part in words.split(",")):
        own |= word == OWN or (word == "all" and field is not None)
        found = _names(recommender, word, known)
        if not found and word != OWN:
            raise ConfigError(
                f"adapt: {word!r} names no parameter; allowed: head, decision, own, all, or a "
                f"pattern of {', '.join(known)}"
            )
        wanted.update(found)
    if own and field is None:
        raise ConfigError("adapt: `own` needs tasks whose key is an id field of the model")
    return Parts(tuple(name for name in known if name in wanted), field if own else None)


def _names(recommender: Recommender, word: str, known: list[str]) -> list[str]:
    if word == "all":
        return known
    if word == "decision":
        return [name for name in known if name.startswith("net.")]
    if word == "head":
        return [f"net.{name}" for name in _last_layer(recommender.net)]
    return [name for name in known if word == name or fnmatchcase(name, word)]


def _last_layer(net: nn.Module) -> list[str]:
    """The parameters of the last part of a net with some of its own; of towers, the read-out."""
    last: list[str] = []
    for name, part in net.named_modules():
        if isinstance(part, TaskTowers):
            return [f"{name}.{key}" if name else key for key in ("weight", "bias")]
        own = [key for key, _ in part.named_parameters(recurse=False)]
        if own:
            last = [f"{name}.{key}" if name else key for key in own]
    return last


def own_field(schema: Schema, layout: Layout, by: str) -> int | None:
    """The number of the id field that holds a task's key, or None if the model reads none.

    Args:
        schema: Names the columns of users and items.
        layout: Of the model.
        by: `user`, `item`, or the name of an id field.
    """
    names = [field.name for field in layout.ids]
    if by not in ("user", "item"):
        return names.index(by) if by in names else None
    role = Role.USER if by == "user" else Role.ITEM
    table: Literal["users", "items"] = "users" if by == "user" else "items"
    keys = {getattr(schema, by), schema.key_of(table) if table in schema.tables else None}
    for feature in schema.features:
        is_key = isinstance(feature, Categorical) and feature.source in keys
        if is_key and feature.role is role and feature.name in names:
            return names.index(feature.name)
    return None
