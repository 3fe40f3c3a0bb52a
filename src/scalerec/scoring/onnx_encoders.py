"""What encodes values for an exported graph where there is no scalerec: plain JSON.

`docs/export.md` has the rules in words, and a reader of this file in plain Python.
"""

from typing import Any

from scalerec.data.encoding import Encoders
from scalerec.data.features import (
    Feature,
    Numeric,
    Sequence,
    Text,
    Timestamp,
    Vector,
)
from scalerec.data.layout import Layout
from scalerec.data.vocabulary import HashVocabulary

__all__ = ["describe_features", "describe_vocabularies"]


def describe_features(encoders: Encoders, layout: Layout) -> list[dict[str, Any]]:
    """How each feature's values become what the graph's inputs hold.

    Args:
        encoders: Fitted.
        layout: Of the model; a feature that it leaves out is not told.
    """
    read = {field.name for field in layout.fields}
    found = []
    for feature in encoders.schema.features:
        names = _fields_of(feature)
        if read.issuperset(names):
            own = _describe(feature, encoders)
            found.append({**_head(feature), "fields": list(names), **own})
    return found


def _fields_of(feature: Feature) -> tuple[str, ...]:
    if isinstance(feature, Timestamp):
        return tuple(f"{feature.name}.{part}" for part in feature.parts)
    return (feature.name,)


def _head(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "kind": feature.kind,
        "role": feature.role.value,
        "table": feature.table,
        "column": feature.source,
        "optional": feature.optional,
    }


def _describe(feature: Feature, encoders: Encoders) -> dict[str, Any]:
    if isinstance(feature, Timestamp):
        return {"parts": list(feature.parts)}
    if isinstance(feature, Vector):
        return {"dim": feature.dim, "separator": feature.separator}
    if isinstance(feature, Numeric):
        stats, quantile = encoders.numbers[feature.name], feature.transform == "quantile"
        told = {"edges": list(stats.edges)} if quantile else {"mean": stats.mean, "std": stats.std}
        return {"transform": feature.transform, **told}
    own: dict[str, Any] = {"vocabulary": encoders.schema.tables_of(feature)[0]}
    if isinstance(feature, Sequence | Text):
        own["max_length"] = feature.max_length
    if isinstance(feature, Sequence):
        own |= {"separator": feature.separator, "history": feature.history}
    return own


def describe_vocabularies(encoders: Encoders, layout: Layout) -> dict[str, dict[str, Any]]:
    """The keys of each vocabulary in the order of their ids, or into how many ids keys are hashed.

    Args:
        encoders: Fitted.
        layout: Of the model; a vocabulary that none of its fields reads is not told.
    """
    read = {field.table for field in layout.ids} | {field.table for field in layout.bags}
    found: dict[str, dict[str, Any]] = {}
    for name, vocabulary in encoders.vocabularies.items():
        if name not in read:
            continue
        if isinstance(vocabulary, HashVocabulary):
            found[name] = {"buckets": vocabulary.buckets}
        else:
            found[name] = {"keys": vocabulary.keys.to_pylist()}
    return found
