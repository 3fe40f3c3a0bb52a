"""Encoders: fitted on training rows only, the same for training and for serving.

`EncoderFitter` sees the training rows chunk by chunk; `Encoders` then turns parsed columns into ids and
numbers, tells the layout, and goes to and from one Arrow table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
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
from scalerec.data.vocabulary import FIRST_ID, PADDING, HashVocabulary, KeyCounter, Vocabulary
from scalerec.errors import SchemaError

__all__ = ["EncoderFitter", "Encoders", "NumberStats", "vocabulary_of"]

Column = NDArray[np.generic]
SAMPLE = 200_000


@dataclass(frozen=True, slots=True)
class NumberStats:
    """What a numeric feature's training rows looked like.

    Args:
        mean: Of the values, after the logarithm if there is one.
        std: Their standard deviation; 1 where all are equal.
        edges: Inner edges of the quantile buckets.
    """

    mean: float = 0.0
    std: float = 1.0
    edges: tuple[float, ...] = ()

    @property
    def num_ids(self) -> int:
        """Ids of the quantile form: padding, out-of-vocabulary, and one a bucket."""
        return len(self.edges) + 1 + FIRST_ID


@dataclass(slots=True)
class _Moments:
    """Running mean and deviation, and a bounded sample for quantiles."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    sample: list[NDArray[np.float64]] = field(default_factory=list)
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        # Chan, Golub and LeVeque, 1979: moments of two parts make those of the whole.
        mean, total = float(values.mean()), self.count + len(values)
        delta = mean - self.mean
        self.m2 += float(((values - mean) ** 2).sum()) + delta**2 * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count = total
        self.sample.append(values)
        if sum(map(len, self.sample)) > 2 * SAMPLE:
            whole = np.concatenate(self.sample)
            self.sample = [self.generator.choice(whole, SAMPLE, replace=False)]

    def stats(self, feature: Numeric) -> NumberStats:
        if not self.count:
            return NumberStats()
        if feature.transform == "quantile":
            inner = np.linspace(0, 1, feature.num_buckets + 1)[1:-1]
            edges = np.unique(np.quantile(np.concatenate(self.sample), inner))
            return NumberStats(edges=tuple(float(edge) for edge in edges))
        if feature.transform == "none":
            return NumberStats()
        std = (self.m2 / self.count) ** 0.5
        return NumberStats(self.mean, std if std > 1e-12 else 1.0)


def vocabulary_of(feature: Feature, schema: Schema) -> str:
    """The name of the vocabulary (and table) that a categorical feature reads.

    A history reads the item key's.

    Raises:
        SchemaError: If there is a history and no feature on the item's key.
    """
    if isinstance(feature, Sequence) and feature.history != "none":
        for other in schema.features:
            if isinstance(other, Categorical) and _is_item_key(other, schema):
                return other.vocabulary or other.name
        raise SchemaError(
            f"history {feature.name!r} needs a categorical feature on the item's key {schema.item!r}"
        )
    return getattr(feature, "vocabulary", "") or feature.name


def _is_item_key(feature: Categorical, schema: Schema) -> bool:
    key = schema.key_of("items") if feature.table == "items" else schema.item
    return feature.table != "users" and feature.source == key


class EncoderFitter:
    """Collects what encoders need from the training rows.

    Args:
        schema: Names the features.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._counters: dict[str, KeyCounter] = {}
        self._moments: dict[str, _Moments] = {}

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """See one chunk of parsed columns, by feature name; other names are passed over."""
        for feature in self.schema.features:
            column = columns.get(feature.name)
            if column is None or isinstance(feature, Timestamp | Vector):
                continue
            if isinstance(feature, Numeric):
                moments = self._moments.setdefault(feature.name, _Moments())
                moments.add(_transform(feature, column.drop_null()))
                continue
            keys = column if isinstance(feature, Categorical) else column.flatten()
            name = vocabulary_of(feature, self.schema)
            self._counters.setdefault(name, KeyCounter()).add(_not_blank(keys))

    def fit(self) -> "Encoders":
        """The encoders of what was seen."""
        vocabularies: dict[str, Vocabulary | HashVocabulary] = {}
        numbers: dict[str, NumberStats] = {}
        for feature in self.schema.features:
            if isinstance(feature, Numeric):
                moments = self._moments.get(feature.name, _Moments())
                numbers[feature.name] = moments.stats(feature)
            elif isinstance(feature, Categorical | Sequence | Text):
                name = vocabulary_of(feature, self.schema)
                if name in vocabularies or feature in self.schema.history:
                    continue
                counter = self._counters.get(name, KeyCounter())
                vocabularies[name] = (
                    HashVocabulary.fit(counter, feature.buckets)
                    if feature.buckets
                    else Vocabulary.fit(counter, feature.min_count)
                )
        return Encoders(self.schema, vocabularies, numbers)


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
            if isinstance(feature, Timestamp):
                for part in feature.parts:
                    ids.append(IdField(name=f"{name}.{part}", role=role, table=f"{name}.{part}"))
                    tables[f"{name}.{part}"] = TIME_PARTS[part] + FIRST_ID
            elif isinstance(feature, Vector):
                vectors.append(VectorField(name=name, role=role, dim=feature.dim))
            elif isinstance(feature, Numeric) and feature.transform != "quantile":
                numbers.append(NumberField(name=name, role=role))
            elif isinstance(feature, Numeric):
                ids.append(IdField(name=name, role=role, table=name))
                tables[name] = self.numbers[name].num_ids
            else:
                table = vocabulary_of(feature, self.schema)
                tables[table] = self.vocabularies[table].size
                if isinstance(feature, Categorical):
                    ids.append(IdField(name=name, role=role, table=table))
                else:
                    history = isinstance(feature, Sequence) and feature.history != "none"
                    length = feature.max_length
                    bags.append(
                        BagField(
                            name=name, role=role, table=table, max_length=length, history=history
                        )
                    )
        return Layout(
            ids=tuple(ids),
            numbers=tuple(numbers),
            bags=tuple(bags),
            vectors=tuple(vectors),
            tables=tables,
            tasks=self.schema.tasks,
        )

    def ids(self, feature: Feature, column: pa.Array) -> dict[str, NDArray[np.int32]]:
        """Ids of a feature that has one id a row, by field name, ``[n]`` int32 each."""
        if isinstance(feature, Timestamp):
            return {f"{feature.name}.{part}": _time_part(column, part) for part in feature.parts}
        if isinstance(feature, Numeric):
            missing = column.is_null().to_numpy(zero_copy_only=False)
            values = column.fill_null(0.0).to_numpy(zero_copy_only=False)
            buckets = np.searchsorted(np.asarray(self.numbers[feature.name].edges), values, "right")
            return {feature.name: np.where(missing, PADDING, buckets + FIRST_ID).astype(np.int32)}
        vocabulary = self.vocabularies[vocabulary_of(feature, self.schema)]
        return {feature.name: vocabulary.encode(_blank_to_null(column))}

    def number(self, feature: Numeric, column: pa.Array) -> NDArray[np.float32]:
        """Standardised values, ``[n]`` float32; a missing one is the mean, which is 0."""
        stats = self.numbers[feature.name]
        missing = column.is_null().to_numpy(zero_copy_only=False)
        values = (_transform(feature, column.fill_null(0.0)) - stats.mean) / stats.std
        return np.where(missing, 0.0, values).astype(np.float32)

    def bag(
        self, feature: Sequence | Text, column: pa.Array
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of lists, and each list's length; long lists keep their last `max_length` ids."""
        values = _blank_to_null(column.flatten())
        vocabulary = self.vocabularies[vocabulary_of(feature, self.schema)]
        ids = vocabulary.encode(values)
        rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        known = ids != PADDING
        ids, rows = ids[known], rows[known]
        lengths = np.bincount(rows, minlength=len(column)).astype(np.int64)
        ends = np.cumsum(lengths)
        from_end = ends[rows] - np.arange(len(rows))
        kept = from_end <= feature.max_length
        return ids[kept], np.minimum(lengths, feature.max_length)

    def vector(
        self, feature: Vector, column: pa.Array
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors ``[n, D]`` float32, zero where absent, and whether each is present ``[n]``."""
        present = ~column.is_null().to_numpy(zero_copy_only=False)
        values = np.zeros((len(column), feature.dim), np.float32)
        flat = column.drop_null().flatten().to_numpy(zero_copy_only=False)
        values[present] = flat.reshape(-1, feature.dim)
        return values, present

    def to_table(self) -> pa.Table:
        """One Arrow table that holds all encoders: vocabulary, key, count; the rest as metadata."""
        names, keys, counts, kinds = [], [], [], {}
        for name, vocabulary in self.vocabularies.items():
            if isinstance(vocabulary, HashVocabulary):
                hashed = (vocabulary.buckets, vocabulary.num_keys, vocabulary.num_used)
                kinds[name] = {"kind": "hash", "values": hashed}
                continue
            unknown = int(vocabulary.counts[1])
            kinds[name] = {"kind": str(vocabulary.keys.type), "unknown": unknown}
            names.append(pa.array([name] * len(vocabulary.keys), pa.string()))
            keys.append(vocabulary.keys.cast(pa.string()))
            counts.append(pa.array(vocabulary.counts[FIRST_ID:]))
        numbers = {n: [s.mean, s.std, list(s.edges)] for n, s in self.numbers.items()}
        meta = {"schema": self.schema.to_dict(), "vocabularies": kinds, "numbers": numbers}
        table = pa.table(
            {
                "vocabulary": pa.chunked_array(names, pa.string()).dictionary_encode(),
                "key": pa.chunked_array(keys, pa.string()),
                "count": pa.chunked_array(counts, pa.int64()),
            }
        )
        return table.replace_schema_metadata({"scalerec": json.dumps(meta, sort_keys=True)})

    @classmethod
    def from_table(cls, table: pa.Table) -> "Encoders":
        """The encoders that `to_table` wrote."""
        meta = json.loads(table.schema.metadata[b"scalerec"])
        vocabularies: dict[str, Vocabulary | HashVocabulary] = {}
        for name, spec in meta["vocabularies"].items():
            if spec["kind"] == "hash":
                vocabularies[name] = HashVocabulary(*spec["values"])
                continue
            own = table.filter(pc.equal(table["vocabulary"].cast(pa.string()), name))
            kind = pa.int64() if spec["kind"] == "int64" else pa.string()
            head = np.array([0, spec["unknown"]], dtype=np.int64)
            counts = np.concatenate([head, own["count"].to_numpy()])
            keys = pa.array(own["key"].to_pylist(), pa.string()).cast(kind)
            vocabularies[name] = Vocabulary(keys, counts)
        numbers = {n: NumberStats(m, s, tuple(e)) for n, (m, s, e) in meta["numbers"].items()}
        return cls(Schema.from_dict(meta["schema"]), vocabularies, numbers)


def _transform(feature: Numeric, column: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    if feature.transform == "log":
        return np.sign(values) * np.log1p(np.abs(values))
    return values


def _time_part(column: pa.Array, part: str) -> NDArray[np.int32]:
    moments = column.cast(pa.timestamp("s"))
    read = {"hour": pc.hour, "weekday": pc.day_of_week, "day": pc.day, "month": pc.month}[part]
    first = 1 if part in ("day", "month") else 0
    parts = pc.subtract(read(moments), first - FIRST_ID).fill_null(PADDING)
    return parts.to_numpy(zero_copy_only=False).astype(np.int32)  # type: ignore[no-any-return]


def _blank_to_null(keys: pa.Array) -> pa.Array:
    if keys.type != pa.string():
        return keys
    return pc.if_else(pc.equal(keys, ""), None, keys)


def _not_blank(keys: pa.Array) -> pa.Array:
    return _blank_to_null(keys).drop_null()
