"""What tasks do, where it is more than one step.

Workers import this module, not the driver's, which loads tensors.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from scalerec.data.columns import Specs
from scalerec.data.scanning import ITEM, USER
from scalerec.data.schema import Schema, TableName
from scalerec.data.spark.counting import Met, Tally, tally_events, tally_listed
from scalerec.data.spark.files import load_array
from scalerec.data.spark.numbering import number_rows
from scalerec.data.spark.reading import Part
from scalerec.data.spark.splitting import Splitting, write_splits
from scalerec.data.spark.writing import EntityRange, write_range

__all__ = ["TABLES", "find_repeats", "settle", "tally_table", "write_entity_range"]

TABLES: dict[TableName, str] = {"users": USER, "items": ITEM}


def settle(part: Part, schema: Schema, splitting: Splitting, paths: Mapping[str, Path]) -> Tally:
    """Number the rows of a part, and split and count them, if they can be split yet."""
    number_rows(part, paths)
    if part.table != "events" or splitting.kind == "last":
        return Tally((), {})
    write_splits(part, splitting)
    return tally_events(part, schema)


def tally_table(part: Part, schema: Schema, met: Mapping[str, Met]) -> tuple[int, Tally]:
    """A part of a side table by its number, and what `tally_listed` counts in it."""
    return part.number, tally_listed(part, schema, met[TABLES[part.table]])


def write_entity_range(
    own: EntityRange,
    scratch: Path,
    out: Path,
    stores: Mapping[str, Specs],
    met: Mapping[str, Met],
    kinds: tuple[str, ...],
) -> tuple[Path, Specs]:
    """As `write_range`, with who was met by table."""
    return write_range(own, scratch, out, stores, met[own.table], kinds)


def find_repeats(
    part: Part, paths: Mapping[str, Path], most: int
) -> tuple[int, list[tuple[int, str]]]:
    """How many rows of a part have a key that came in an earlier one, and the first of them."""
    kind = TABLES[part.table]
    number_rows(part, paths)
    again = np.flatnonzero(part.array(part.table) < part.numbers[0])
    first = again[:most]
    keys = part.keys(kind)["key"].take(pa.array(first)).to_pylist()
    rows = (load_array(part.folder / "rows.npy")[first] + part.before_file).tolist()
    return len(again), list(zip(rows, keys, strict=True))
