"""Fitting encoders: what the training rows hold, seen chunk by chunk."""

from collections.abc import Mapping

import pyarrow as pa

from scalerec.data.encoding import Encoders
from scalerec.data.numeric import NumberFitter
from scalerec.data.schema import Categorical, Numeric, Schema, Sequence, Text
from scalerec.data.vocabulary import HashVocabulary, KeyCounter, Vocabulary

__all__ = ["EncoderFitter"]


class EncoderFitter:
    """Sees the training rows, and then gives the encoders.

    Args:
        schema: Names the features.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._numbers = {
            feature.name: NumberFitter(feature)
            for feature in schema.features
            if isinstance(feature, Numeric)
        }
        # By vocabulary, the first of the features that share it.
        self._owners: dict[str, Categorical | Sequence | Text] = {}
        for feature in schema.features:
            if isinstance(feature, Categorical | Sequence | Text) and feature not in schema.history:
                self._owners.setdefault(schema.tables_of(feature)[0], feature)
        self._counters = {name: KeyCounter() for name in self._owners}

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """See one chunk of parsed columns, by feature name; other names are passed over."""
        for feature in self.schema.features:
            column = columns.get(feature.name)
            if column is None:
                continue
            if isinstance(feature, Numeric):
                self._numbers[feature.name].add(column.drop_null().to_numpy())
            elif isinstance(feature, Categorical):
                self._counters[self.schema.tables_of(feature)[0]].add(column)
            elif isinstance(feature, Sequence | Text):
                self._counters[self.schema.tables_of(feature)[0]].add(column.flatten())

    def fit(self) -> Encoders:
        """Give the encoders of what was seen."""
        vocabularies: dict[str, Vocabulary | HashVocabulary] = {
            name: HashVocabulary.fit(self._counters[name], owner.buckets)
            if owner.buckets
            else Vocabulary.fit(self._counters[name], owner.min_count)
            for name, owner in self._owners.items()
        }
        numbers = {name: fitter.fit() for name, fitter in self._numbers.items()}
        return Encoders(self.schema, vocabularies, numbers)
