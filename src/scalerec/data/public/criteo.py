"""Criteo display advertising: 45,840,617 rows of seven days, 13 numbers and 26 categories.

Criteo Labs, "Display Advertising Challenge", 2014,
https://www.kaggle.com/c/criteo-display-ad-challenge. The rows of `train.txt` are in the order of
time but bear no time; the publisher's `test.txt` has no labels and is not used.
"""

from pathlib import Path

from scalerec.data.public.sets import first_of, need_files
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Schema, Task
from scalerec.data.sources import CsvSource

__all__ = ["read_criteo"]

NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
SCHEMA = Schema(
    features=(
        *(Numeric(name=name, transform="log", optional=True) for name in NUMBERS),
        *(Categorical(name=name, min_count=10, optional=True) for name in CATEGORIES),
    ),
    tasks=(Task(name="click", column="label"),),
    tables={},
)
NOTES = ("cite: Criteo Labs, Display Advertising Challenge, 2014", "terms: research use")


def read_criteo(folder: Path) -> RawData:
    """Read Criteo from a folder with `train.txt`, plain or gzipped.

    Raises:
        DataError: If the file is missing.
    """
    path = first_of(folder, "train.txt", "train.txt.gz")
    need_files(folder, () if path else ("train.txt",))
    columns = ("label", *NUMBERS, *CATEGORIES)
    source = CsvSource(path or "", "\t", column_names=columns, quote="")
    return RawData(name="criteo", schema=SCHEMA, splits={"all": source}, notes=NOTES)
