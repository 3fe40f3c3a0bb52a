"""Avazu click-through rate: 40,428,967 rows of ten days of October 2014.

Avazu, "Click-Through Rate Prediction", 2014, https://www.kaggle.com/c/avazu-ctr-prediction. The
column `hour`, written YYMMDDHH, becomes Unix seconds (taken as UTC, which the publisher leaves
open); `id` is no feature. The publisher's test file has no labels and is not used.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from scalerec.data.public.sets import first_of, need_files
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Schema, Task, Timestamp
from scalerec.data.sources import CsvSource, MappedSource, Source

__all__ = ["read_avazu"]

CATEGORIES = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", *(f"C{i}" for i in range(14, 22))),
)
COLUMNS = ("click", "hour", *CATEGORIES)
SCHEMA = Schema(
    timestamp="hour",
    features=(
        Timestamp(name="hour"),
        *(Categorical(name=name, min_count=2) for name in CATEGORIES),
    ),
    tasks=(Task(name="click"),),
    tables={},
)
NOTES = ("cite: Avazu, Click-Through Rate Prediction, 2014", "terms: those of the competition")


def read_avazu(folder: Path) -> RawData:
    """Read Avazu from a folder with `train.csv` (or `train`), plain or gzipped.

    Raises:
        DataError: If the file is missing.
    """
    path = first_of(folder, "train.csv", "train.csv.gz", "train.gz", "train")
    need_files(folder, () if path else ("train.csv",))
    source = _with_seconds(CsvSource(path or ""))
    return RawData(name="avazu", schema=SCHEMA, splits={"all": source}, notes=NOTES)


def _with_seconds(source: Source) -> Source:
    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        columns = [
            _seconds(table.column(0)) if name == "hour" else table.column(name) for name in COLUMNS
        ]
        return pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))

    return MappedSource(source, COLUMNS, convert, ("hour", *(c for c in COLUMNS if c != "hour")))


def _seconds(hour: pa.Array) -> pa.Array:
    """Unix seconds as text; what is no hour stays as it is, so that a message can show it."""
    moment = pc.strptime(hour, format="%y%m%d%H", unit="s", error_is_null=True)
    return pc.coalesce(moment.cast(pa.int64()).cast(pa.string()), hour)
