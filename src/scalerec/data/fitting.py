"""Fitting encoders: what the training rows hold, seen chunk by chunk."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.encoding import Encoders
from scalerec.data.keys import KeyIndex
from scalerec.data.numeric import NumberFitter
from scalerec.data.schema import Categorical, Feature, Numeric, Schema, Sequence, Text
from scalerec.data.vocabulary import HashVocabulary, KeyCounter, Vocabulary

__all__ = ["EncoderFitter", "SeesNumbers"]


class SeesNumbers(Protocol):
    """What sees the training values of a numeric feature."""

    def add(self, values: NDArray[np.float64]) -> None:
        """See the values of a chunk, none of them missing, ``[n]``."""
        ...


class EncoderFitter:
    """Sees the training rows, and then gives the encoders.

    Args:
        schema: Names the features.
        indexes: By vocabulary, what numbered its keys already, where something did.
        numbers: By feature, what sees its numbers instead; `fit` then says nothing of them.
    """

    def __init__(
        self,
        schema: Schema,
        indexes: Mapping[str, KeyIndex] | None = None,
        numbers: Mapping[str, SeesNumbers] | None = None,
    ) -> None:
        self.schema = schema
        own = {
            feature.name: NumberFitter(feature)
            for feature in schema.features
            if isinstance(feature, Numeric) and numbers is None
        }
        self._own, self._numbers = own, own if numbers is None else numbers
        # By vocabulary, the first of the features that share it.
        self._owners: dict[str, Categorical | Sequence | Text] = {}
        for feature in schema.features:
            if isinstance(feature, Categorical | Sequence | Text) and feature not in schema.history:
                self._owners.setdefault(schema.tables_of(feature)[0], feature)
        known = indexes or {}
        self._counters = {name: KeyCounter(known.get(name)) for name in self._owners}

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """See one chunk of parsed columns, by feature name; other names are passed over."""
        for feature in self.schema.features:
            column = columns.get(feature.name)
            if column is None:
                continue
            if isinstance(feature, Numeric):
                self._numbers[feature.name].add(column.drop_null().to_numpy())
            elif isinstance(feature, Categorical):
                self._counter(feature).add(column)
            elif isinstance(feature, Sequence | Text):
                self._counter(feature).add(column.flatten())

    def add_numbers(self, feature: Numeric, values: NDArray[np.float64]) -> None:
        """See numbers of a feature, ``[n]``; NaN is a missing one."""
        self._numbers[feature.name].add(values[~np.isnan(values)])

    def add_codes(self, feature: Feature, codes: NDArray[Any]) -> None:
        """See keys of a feature by their numbers in its vocabulary's index, ``[n]``; -1 is none."""
        self._counter(feature).count(codes)

    def add_counts(self, feature: Feature, keys: pa.Array, counts: NDArray[np.int64]) -> None:
        """See distinct keys of a feature, text ``[n]``, each so many times, ``[n]``."""
        self._counter(feature).add_counts(keys, counts)

    def fit(self, pool: Executor | None = None) -> Encoders:
        """Give the encoders of what was seen.

        Args:
            pool: If given, fits vocabularies side by side.
        """
        run: Callable[..., Iterable[Any]] = pool.map if pool else map
        vocabularies = dict(zip(self._owners, run(self._fit, self._owners), strict=True))
        numbers = {name: fitter.fit() for name, fitter in self._own.items()}
        return Encoders(self.schema, vocabularies, numbers)

    def counts(self) -> dict[str, pa.Table]:
        """By vocabulary, how often each key was seen: columns `key` and `count`."""
        return {name: counter.counts() for name, counter in self._counters.items()}

    def _fit(self, name: str) -> Vocabulary | HashVocabulary:
        owner, counter = self._owners[name], self._counters[name]
        if owner.buckets:
            return HashVocabulary.fit(counter, owner.buckets)
        return Vocabulary.fit(counter, owner.min_count)

    def _counter(self, feature: Feature) -> KeyCounter:
        return self._counters[self.schema.tables_of(feature)[0]]
