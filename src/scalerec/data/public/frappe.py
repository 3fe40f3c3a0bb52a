"""Frappe: which mobile app a person used in which context, with the split Frappe_x1.

L. Baltrunas, K. Church, A. Karatzoglou and N. Oliver, "Frappe: Understanding the Usage and
Perception of Mobile App Recommendations In-The-Wild", 2015, https://arxiv.org/abs/1505.03014. The
split is that of the benchmark BARS: 202,027 / 57,722 / 28,860 rows, two negatives for a positive.
The ten fields write their ids into one shared range; here each field keeps its own vocabulary.
"""

import gzip
import hashlib
from pathlib import Path

from scalerec.data.public.sets import first_of, need_files
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Role, Schema, Task
from scalerec.data.sources import CsvSource

__all__ = ["read_frappe"]

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
# MD5 of the official files, as BARS states them; the lines there end with CR and LF.
OFFICIAL_MD5 = {
    "train": "ba7306e6c4fc19dd2cd84f2f0596d158",
    "valid": "88d51bf2173505436d3a8f78f2a59da8",
    "test": "3470f6d32713dc5f7715f198ca7c612a",
}
SCHEMA = Schema(
    user="user",
    item="item",
    features=(
        Categorical(name="user", role=Role.USER),
        Categorical(name="item", role=Role.ITEM),
        *(Categorical(name=name) for name in CONTEXT),
    ),
    tasks=(Task(name="label"),),
    tables={},
)
NOTES = (
    "cite: Baltrunas et al., Frappe: Understanding the Usage and Perception of Mobile App "
    "Recommendations In-The-Wild, 2015",
    "terms: research use; no redistribution, no commercial use",
)


def read_frappe(folder: Path) -> RawData:
    """Read Frappe_x1 from a folder with `train.csv`, `valid.csv` and `test.csv`, plain or gzipped.

    A file that differs from the official one (line ends aside) is named in the notes.

    Raises:
        DataError: If one of the files is missing.
    """
    paths = {part: first_of(folder, f"{part}.csv", f"{part}.csv.gz") for part in OFFICIAL_MD5}
    need_files(folder, [f"{part}.csv" for part, path in paths.items() if path is None])
    found = {part: path for part, path in paths.items() if path is not None}
    splits = {part: CsvSource(path) for part, path in found.items()}
    differ = [part for part, path in found.items() if _md5(path) != OFFICIAL_MD5[part]]
    return RawData(
        name="frappe", schema=SCHEMA, splits=splits, notes=(*NOTES, *map(_difference, differ))
    )


def _difference(part: str) -> str:
    return (
        f"{part} is not the official file of Frappe_x1 (its MD5 differs); "
        "if its negatives were drawn again, say so beside every figure"
    )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with (gzip.open if path.suffix == ".gz" else Path.open)(path, "rb") as file:
        for line in file:
            digest.update(line.rstrip(b"\r\n") + b"\r\n")
    return digest.hexdigest()
