"""A few examples from a file or from a history, as rows of a bundle's layout.

What the file does not say of an item or a user, the bundle's catalogue and users say. Keys that the
bundle does not know are out-of-vocabulary.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from scalerec.bundle.recommenders import OpenRecommender
from scalerec.data.batches import Batch
from scalerec.data.encoding import Encoded
from scalerec.data.frames import batch_from_table, batch_to_table, empty_batch
from scalerec.data.pairing import pair
from scalerec.data.parsing import Parser, parse_chunks, parser_of, parser_of_key, parser_of_task
from scalerec.data.problems import Problems
from scalerec.data.schema import Role, TaskKind
from scalerec.data.sources import Source
from scalerec.errors import DataError, RequestError
from scalerec.models.kernels.threads import one_thread
from scalerec.scoring.recommending import stranger

__all__ = ["read_few", "rows_of_history"]

LABEL, ITEM, USER = "label/", "key/item", "key/user"


def read_few(opened: OpenRecommender, source: Source) -> Batch:
    """Encode the rows of a source as the bundle encodes.

    Args:
        opened: The bundle.
        source: It has the columns of the tasks' labels, and any of the features'.

    Raises:
        DataError: If a label's column is missing, a value does not fit, or there are no rows.
    """
    parsers = _parsers(opened, source)
    chunks = list(parse_chunks(source, parsers, Problems("fail")))
    columns = {
        name: pa.concat_arrays([pa.array(chunk.columns[name]) for chunk in chunks])
        for name in (parsers if chunks else ())
    }
    num = sum(len(chunk) for chunk in chunks)
    if not num:
        raise DataError(f"{source.name}: no rows to adapt on")
    table = _entities(opened, columns, num)
    for feature in opened.encoders.schema.features:
        if feature.name in columns:
            for encoded in opened.encoders.encode(feature, columns[feature.name]):
                table |= _column(encoded)
    batch = batch_from_table(opened.layout, pa.table(table))
    batch = replace(
        batch,
        items=_numbers(columns, ITEM, opened.item_numbers, num),
        users=_numbers(columns, USER, opened.user_numbers, num),
    )
    return _with_labels(opened, batch, columns)


def rows_of_history(
    opened: OpenRecommender,
    history: Sequence[str],
    generator: torch.Generator,
    labels: Sequence[float | None] = (),
) -> Batch:
    """Somebody's history as examples: its items were liked, and as many others were not.

    That those others were not is a guess, without which a binary task would see one class alone.
    They are drawn from the rest of the catalogue, as often as items were met in training; as many
    fewer as there are items that the history says were not liked. Of a task that is not binary,
    each item has a label, and no others are drawn.

    Args:
        opened: The bundle.
        history: Keys of items; those that it does not know are left out.
        generator: Draws the others.
        labels: Of each item, for the first task; None, or no labels at all, for liked.

    Raises:
        RequestError: If it knows none of the items, or one lacks a label that must be said.
    """
    task, binary = opened.layout.tasks[0], opened.layout.tasks[0].kind is TaskKind.BINARY
    said = list(labels) or [None] * len(history)
    if not binary and None in said:
        raise RequestError(
            f"{opened.bundle.path}: task {task.name!r} is {task.kind.value}, so say what each item "
            f"of the history was given, as {history[said.index(None)]}:VALUE"
        )
    found = [
        (opened.item_numbers[str(key)], 1.0 if label is None else label)
        for key, label in zip(history, said, strict=True)
        if str(key) in opened.item_numbers
    ]
    if not found:
        raise RequestError(
            f"{opened.bundle.path} knows none of the history's items: {', '.join(history)}"
        )
    known = torch.tensor([number for number, _ in found])
    given = torch.tensor([label for _, label in found])
    chances = torch.from_numpy(opened.item_counts.astype(np.float64)) + 1.0
    chances[known] = 0.0
    balance = int((given > 0).sum()) - int((given <= 0).sum())
    drawn = min(balance, int((chances > 0).sum())) if binary else 0
    others = known[:0]
    if drawn > 0:
        others = torch.multinomial(chances, drawn, generator=generator)
    with one_thread():
        rows = pair(opened.layout, stranger(opened), opened.items, torch.cat([known, others])[None])
    filled = torch.zeros(len(rows), len(opened.layout.tasks))
    filled[: len(known), 0] = given
    mask = torch.zeros(filled.shape, dtype=torch.bool)
    mask[:, 0] = True
    return replace(rows, labels=filled, label_mask=mask)


def _parsers(opened: OpenRecommender, source: Source) -> dict[str, Parser]:
    """How the columns are read that the source has."""
    schema, there = opened.encoders.schema, set(source.columns)
    parsers: dict[str, Parser] = {}
    for i, task in enumerate(schema.tasks):
        if task.has_column:
            if task.source not in there:
                raise DataError(
                    f"{source.name}: no column {task.source!r}, which holds the label of task "
                    f"{task.name!r}; there is {', '.join(source.columns)}"
                )
            parsers[f"{LABEL}{i}"] = parser_of_task(task)
    for name, column in ((ITEM, schema.item), (USER, schema.user)):
        if column and column in there:
            parsers[name] = parser_of_key(column)
    for feature in schema.features:
        if feature not in schema.history and feature.source in there:
            parsers[feature.name] = parser_of(feature)
    return parsers


def _entities(
    opened: OpenRecommender, columns: Mapping[str, pa.Array], num: int
) -> dict[str, pa.Array]:
    """What the bundle says of the rows' items and users; nothing of those that it does not know."""
    found: dict[str, pa.Array] = {}
    for name, role, rows, numbers in (
        (ITEM, Role.ITEM, opened.items, opened.item_numbers),
        (USER, Role.USER, opened.users, opened.user_numbers),
    ):
        keys = columns[name].to_pylist() if name in columns else [None] * num
        places = torch.tensor([numbers.get(str(key), len(rows)) for key in keys])
        known = Batch.concat([rows, empty_batch(opened.layout, 1)]).take(places)
        table = batch_to_table(opened.layout, known, [role], {})
        found |= {column: table[column].combine_chunks() for column in table.column_names}
    if USER not in columns:
        user = batch_to_table(opened.layout, stranger(opened), [Role.USER], {})
        none = pa.array(np.zeros(num, np.int64))
        found |= {name: _first(user[name].take(none)) for name in user.column_names}
    return found


def _numbers(
    columns: Mapping[str, pa.Array], name: str, numbers: Mapping[str, int], num: int
) -> Tensor:
    """Numbers of the rows' items or users; -1 for those that the bundle does not list."""
    keys = columns[name].to_pylist() if name in columns else [None] * num
    return torch.tensor([numbers.get(str(key), -1) for key in keys], dtype=torch.int64)


def _first(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _column(encoded: Encoded) -> dict[str, pa.Array]:
    values: Any = encoded.values
    if encoded.lengths is not None:
        offsets = np.concatenate([[0], np.cumsum(encoded.lengths)])
        lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))
        return {encoded.name: lists}
    if values.ndim == 2:
        flat = pa.array(values.ravel())
        return {encoded.name: pa.FixedSizeListArray.from_arrays(flat, values.shape[1])}
    return {encoded.name: pa.array(values)}


def _with_labels(opened: OpenRecommender, batch: Batch, columns: Mapping[str, pa.Array]) -> Batch:
    labels = torch.full(batch.labels.shape, torch.nan)
    for i in range(len(opened.layout.tasks)):
        if (name := f"{LABEL}{i}") in columns:
            own = columns[name].cast(pa.float32()).to_numpy(zero_copy_only=False)
            labels[:, i] = torch.from_numpy(np.array(own, np.float32))
    known: Tensor = ~labels.isnan()
    return replace(batch, labels=labels.nan_to_num(0.0), label_mask=known)
