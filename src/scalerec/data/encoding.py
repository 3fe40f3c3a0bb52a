"""Encoders: fitted on training rows only, the same for training and for serving.

`Encoders` turns parsed columns into stored ones, tells the layout, and goes to and from one Arrow
table. A stored column is named after its field: `ids/NAME`, `numbers/NAME`, `bags/NAME`,
`vectors/NAME` and `present/NAME`.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.data.growth import growth_columns, split_growth
from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.numeric import NumberStats, transform
from scalerec.data.schema import (
    TIME_PARTS,
    Categorical,
    Feature,
    Numeric,
    Schema,
    Sequence,
    Text,
    Timestamp,
    Vector,
)
from scalerec.data.values import LARGEST, is_null
from scalerec.data.vocabulary import FIRST_ID, PADDING, HashVocabulary, Vocabulary
from scalerec.errors import DataError, SchemaError

__all__ = ["Encoded", "Encoders", "NumberStats", "keep_last", "stored_names"]

META = b"scalerec"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded column.

    Args:
        name: Its stored name.
        values: ``[n, ...]``; ``[V]`` for a bag.
        lengths: Length of each list of a bag, ``[n]`` int64; none for others.
    """

    name: str
    values: NDArray[Any]
    lengths: NDArray[np.int64] | None = None


def stored_names(feature: Feature) -> tuple[str, ...]:
    """The stored names of a feature's encoded columns."""
    if isinstance(feature, Timestamp):
        return tuple(f"ids/{feature.name}.{part}" for part in feature.parts)
    if isinstance(feature, Vector):
        return f"vectors/{feature.name}", f"present/{feature.name}"
    if isinstance(feature, Sequence | Text):
        return (f"bags/{feature.name}",)
    is_number = isinstance(feature, Numeric) and feature.transform != "quantile"
    return (f"numbers/{feature.name}" if is_number else f"ids/{feature.name}",)


@dataclass(frozen=True, slots=True, eq=False)
class Encoders:
    """Everything that turns values into what a model sees.

    Args:
        schema: Names the features.
        vocabularies: By name; features may share one.
        numbers: By feature.
    """

    schema: Schema
    vocabularies: dict[str, Vocabulary | HashVocabulary]
    numbers: dict[str, NumberStats]

    def layout(self) -> Layout:
        """The layout of the batches these encoders make."""
        ids, numbers, bags, vectors = [], [], [], []
        tables: dict[str, int] = {}
        for feature in self.schema.features:
            name, role = feature.name, feature.role
            names = self.schema.tables_of(feature)
            tables |= {table: self._num_rows(feature, table) for table in names}
            if isinstance(feature, Vector):
                vectors.append(VectorField(name=name, role=role, dim=feature.dim))
            elif not names:
                numbers.append(NumberField(name=name, role=role))
            elif isinstance(feature, Sequence | Text):
                bags.append(
                    BagField(
                        name=name,
                        role=role,
                        table=names[0],
                        max_length=feature.max_length,
                        history=feature in self.schema.history,
                    )
                )
            elif isinstance(feature, Timestamp):
                ids += [IdField(name=part, role=role, table=part) for part in names]
            else:
                ids.append(IdField(name=name, role=role, table=names[0]))
        return Layout(
            ids=tuple(ids),
            numbers=tuple(numbers),
            bags=tuple(bags),
            vectors=tuple(vectors),
            tables=tables,
            tasks=self.schema.tasks,
        )

    def encode(self, feature: Feature, column: pa.Array) -> list[Encoded]:
        """Encode a feature's parsed column.

        Args:
            feature: One of the schema's that is read from a column.
            column: As its parser gives it, ``[n]``.

        Returns:
            One encoded column for each of `stored_names`.
        """
        names = stored_names(feature)
        if isinstance(feature, Timestamp):
            parts = zip(names, feature.parts, strict=True)
            return [Encoded(name, _time_part(column, part)) for name, part in parts]
        if isinstance(feature, Vector):
            arrays = zip(names, _vectors(feature, column), strict=True)
            return [Encoded(name, values) for name, values in arrays]
        (name,) = names
        if isinstance(feature, Numeric):
            quantile = feature.transform == "quantile"
            values = self._bucket(feature, column) if quantile else self._number(feature, column)
            return [Encoded(name, values)]
        vocabulary = self.vocabularies[self.schema.tables_of(feature)[0]]
        if isinstance(feature, Categorical):
            return [Encoded(name, vocabulary.encode(column))]
        ids = vocabulary.encode(column.flatten())
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        return [Encoded(name, *keep_last(ids, lengths.astype(np.int64), feature.max_length))]

    def to_table(self) -> pa.Table:
        """One Arrow table of all vocabularies: name, key, count; the rest is its metadata.

        Where one has grown there are also `last`, and `waiting`: the keys that have no id yet.
        """
        names, keys, counts, kinds = [], [], [], {}
        for name, vocabulary in self.vocabularies.items():
            if isinstance(vocabulary, HashVocabulary):
                kinds[name] = [vocabulary.buckets, vocabulary.num_keys, vocabulary.num_used]
                continue
            kinds[name] = [int(vocabulary.counts[1])]
            names.append(pa.repeat(name, len(vocabulary.keys)))
            keys.append(vocabulary.keys)
            counts.append(pa.array(vocabulary.counts[FIRST_ID:]))
            if (growth := vocabulary.growth) is not None:
                kinds[name].append(growth.updates)
                names.append(pa.repeat(name, len(growth.waiting)))
                keys.extend(growth.waiting["key"].chunks)
                counts.extend(growth.waiting["count"].chunks)
        numbers = {n: [s.mean, s.std, list(s.edges)] for n, s in self.numbers.items()}
        meta = {"schema": self.schema.to_dict(), "vocabularies": kinds, "numbers": numbers}
        columns = {
            "vocabulary": pa.chunked_array(names, pa.string()).dictionary_encode(),
            "key": pa.chunked_array(keys, pa.large_string()),
            "count": pa.chunked_array(counts, pa.int64()),
            **growth_columns(
                (len(vocabulary.keys), vocabulary.growth)
                for vocabulary in self.vocabularies.values()
                if isinstance(vocabulary, Vocabulary)
            ),
        }
        # Not sorted: the order of vocabularies and of a schema's tables is kept.
        return pa.table(columns).replace_schema_metadata({META: json.dumps(meta)})

    @classmethod
    def from_table(cls, table: pa.Table) -> "Encoders":
        """The encoders that `to_table` wrote.

        Raises:
            DataError: If the table is not one of encoders.
        """
        try:
            return cls._from_table(table)
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            if isinstance(error, SchemaError):
                raise
            raise DataError(f"not a table of encoders: {error!r}") from None

    @classmethod
    def _from_table(cls, table: pa.Table) -> "Encoders":
        meta = json.loads((table.schema.metadata or {})[META])
        stretches = _stretches(table["vocabulary"])
        vocabularies: dict[str, Vocabulary | HashVocabulary] = {}
        for name, values in meta["vocabularies"].items():
            if len(values) == 3:
                vocabularies[name] = HashVocabulary(*values)
                continue
            own = table.slice(*stretches.get(name, (0, 0)))
            growth = None
            if len(values) == 2:
                own, growth = split_growth(own, values[1])
            counts = np.concatenate([np.array([0, values[0]], np.int64), own["count"].to_numpy()])
            vocabularies[name] = Vocabulary(own["key"].combine_chunks(), counts, growth)
        numbers = {n: NumberStats(m, s, tuple(e)) for n, (m, s, e) in meta["numbers"].items()}
        return cls(Schema.from_dict(meta["schema"]), vocabularies, numbers)

    def _num_rows(self, feature: Feature, table: str) -> int:
        if isinstance(feature, Timestamp):
            return TIME_PARTS[table.rpartition(".")[2]] + FIRST_ID
        if isinstance(feature, Numeric):
            return self.numbers[table].num_ids
        return self.vocabularies[table].size

    def _bucket(self, feature: Numeric, column: pa.Array) -> NDArray[np.int32]:
        values = column.fill_null(0.0).to_numpy(zero_copy_only=False)
        buckets = np.searchsorted(np.asarray(self.numbers[feature.name].edges), values, "right")
        return np.where(is_null(column), PADDING, buckets + FIRST_ID).astype(np.int32)

    def _number(self, feature: Numeric, column: pa.Array) -> NDArray[np.float32]:
        stats = self.numbers[feature.name]
        values = transform(feature, column.fill_null(0.0).to_numpy(zero_copy_only=False))
        scaled = np.clip((values - stats.mean) / stats.std, -LARGEST, LARGEST)
        # A missing value is the mean, which is 0.
        return np.where(is_null(column), 0.0, scaled).astype(np.float32)


def _stretches(names: pa.ChunkedArray) -> dict[str, tuple[int, int]]:
    """Where the rows of each vocabulary start, and how many it has; they are in one stretch."""
    coded = names.dictionary_encode().unify_dictionaries().combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    codes = coded.indices.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: len(codes)])
    words = coded.dictionary.take(pa.array(codes[starts])).to_pylist()
    if len(set(words)) < len(words):
        raise ValueError("the rows of a vocabulary are in several places")
    lengths = np.diff(np.append(starts, len(codes)))
    return dict(zip(words, zip(starts.tolist(), lengths.tolist(), strict=True), strict=True))


def keep_last(
    ids: NDArray[np.int32], lengths: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The last `most` ids of every list, and the new lengths.

    Args:
        ids: Those of all lists, one list after the other, ``[V]``.
        lengths: Of each list, ``[n]``.
        most: At least 1.
    """
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
    return ids[from_end <= most], np.minimum(lengths, most)


def _vectors(feature: Vector, column: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors ``[n, D]``, zero where absent, and whether each is present ``[n]``."""
    present = ~is_null(column)
    values = np.zeros((len(column), feature.dim), np.float32)
    values[present] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, feature.dim)
    return values, present


def _time_part(column: pa.Array, part: str) -> NDArray[np.int32]:
    moments = column.cast(pa.timestamp("s"))
    read = {"hour": pc.hour, "weekday": pc.day_of_week, "day": pc.day, "month": pc.month}[part]
    first = 1 if part in ("day", "month") else 0
    parts = pc.subtract(read(moments), first - FIRST_ID).fill_null(PADDING)
    ids: NDArray[np.int32] = parts.to_numpy(zero_copy_only=False).astype(np.int32)
    return ids
