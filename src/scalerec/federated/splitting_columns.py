"""What is known of each training row and can divide them: an id of a feature, a number, a label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import stored_names
from scalerec.data.schema import Categorical, TaskKind
from scalerec.data.vocabulary import HashVocabulary
from scalerec.errors import ConfigError

__all__ = ["Codes", "codes_of", "label_codes"]

# Columns of numbers beside the features.
NUMBERED = ("user", "item", "group")


@dataclass(frozen=True, slots=True)
class Codes:
    """A value of each row, as a number.

    Args:
        code_of: From 0 to K - 1, ``[n]`` int64.
        values: What each code stands for, as a person reads it, K texts; each is met.
    """

    code_of: NDArray[np.int64]
    values: list[str]


def codes_of(dataset: Dataset, column: str, split: str = "train") -> Codes:
    """The values of a column, one a row.

    Args:
        dataset: Its rows.
        column: A feature that is one id a row (of the events, the users or the items), or one of
            the numbered columns `user`, `item` and `group`.
        split: Whose rows.

    Raises:
        ConfigError: If there is no such column; it says which there are.
    """
    found = _ids_of(dataset, column, split)
    distinct, code_of = np.unique(found, return_inverse=True)
    return Codes(code_of.astype(np.int64), _names(dataset, column, distinct.tolist()))


def label_codes(dataset: Dataset, split: str = "train") -> Codes:
    """The labels of the first task; rows whose label is not known have a code of their own.

    Args:
        dataset: Its rows.
        split: Whose rows.

    Raises:
        ConfigError: If the first task is a regression.
    """
    task = dataset.schema.tasks[0]
    require(
        task.kind is not TaskKind.REGRESSION,
        f"labels divide rows where they are classes; task {task.name!r} is a {task.kind.value}; "
        f"name a column instead: {', '.join(_allowed(dataset, split))}",
    )
    labels = np.asarray(dataset.split(split).column("labels")[:, 0])
    distinct, code_of = np.unique(labels, return_inverse=True)
    names = ["(unknown)" if np.isnan(label) else f"{label:g}" for label in distinct.tolist()]
    return Codes(code_of.astype(np.int64), [f"{task.name}={name}" for name in names])


def _ids_of(dataset: Dataset, column: str, split: str) -> NDArray[Any]:
    """The stored numbers of a column, ``[n]``."""
    store, name = dataset.store(split), f"ids/{column}"
    for feature in dataset.schema.features:
        if name in stored_names(feature):
            if feature.table == "events":
                return np.asarray(store[name])
            holder = "user" if feature.table == "users" else "item"
            return np.asarray(dataset.store(feature.table)[name])[store[holder]]
    if column in NUMBERED and column in store:
        return np.asarray(store[column])
    allowed = ", ".join(_allowed(dataset, split)) or "none"
    raise ConfigError(f"column must be one id a row; got {column!r}; there are: {allowed}")


def _allowed(dataset: Dataset, split: str) -> list[str]:
    fields = [field.name for field in dataset.layout.ids]
    beside = [name for name in NUMBERED if name in dataset.store(split) and name not in fields]
    return fields + beside


def _names(dataset: Dataset, column: str, ids: list[int]) -> list[str]:
    """Values by their numbers: keys where a vocabulary knows them."""
    for feature in dataset.schema.features:
        if isinstance(feature, Categorical) and feature.name == column:
            vocabulary = dataset.encoders.vocabularies[dataset.schema.tables_of(feature)[0]]
            if not isinstance(vocabulary, HashVocabulary):
                return [vocabulary.key(id_) for id_ in ids]
    return [str(id_) for id_ in ids]
