"""From raw tables to a data set: scan, split, fit on the training rows, encode, write.

The events are read three times as a stream, so memory follows the distinct keys and a few numbers a
row, never the width of the file. Everything is written to a temporary directory beside the target
and renamed at the end: a preparation that was cut short leaves nothing that opens.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from scalerec.config import Config, require
from scalerec.data.columns import ColumnWriter, Specs
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.entities import Entities, read_entities
from scalerec.data.fitting import EncoderFitter
from scalerec.data.logs import Log, build_log
from scalerec.data.manifest import MANIFEST, write_arrow, write_manifest
from scalerec.data.parsing import Parsed
from scalerec.data.problems import OnError, Problems
from scalerec.data.raw import RawData
from scalerec.data.sampling import draw_unmet
from scalerec.data.scanning import ITEM, USER, Scan, read_events, scan_events
from scalerec.data.schema import Role
from scalerec.data.splits import SPLITS, SplitConfig
from scalerec.data.stores import EventWriter, write_entities, write_log
from scalerec.data.vocabulary import HashVocabulary
from scalerec.errors import DataError

__all__ = ["PrepareConfig", "prepare"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig(Config):
    """How a data set is made.

    Args:
        split: How events are split where the files do not say.
        on_error: `fail` at the first row that does not fit, or `skip`, count and list such rows.
        eval_negatives: If positive, so many items that the user never met are drawn once for each
            validation and test row, and stored, for protocols that rank one item among a few.
        seed: Of the stored negatives.
    """

    split: SplitConfig = field(default_factory=SplitConfig)
    on_error: OnError = "fail"
    eval_negatives: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        count = self.eval_negatives
        require(count >= 0, f"eval_negatives must not be negative; got {count}")


def prepare(
    raw: RawData, out: str | Path, config: PrepareConfig | None = None, *, overwrite: bool = False
) -> Dataset:
    """Make a data set of raw tables.

    Args:
        raw: The tables and their schema.
        out: The directory to make.
        config: How; the defaults split by time and refuse any row that does not fit.
        overwrite: Whether an existing data set at `out` may be replaced.

    Returns:
        The data set, opened.

    Raises:
        DataError: If a value does not fit its schema, with file, row, column, value and what is
            allowed; if there are no training rows; or if `out` exists.
    """
    config = config or PrepareConfig()
    if config.eval_negatives and not (raw.schema.user and raw.schema.item):
        raise DataError("eval_negatives need a user and an item; name them in the schema")
    out = Path(out)
    _check_target(out, overwrite)
    aside: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        _write_dataset(raw, config, aside / "new")
        _put(aside / "new", out, aside / "old")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return Dataset(out)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise DataError(f"{out} exists already; choose another --out, or --overwrite")
    if not (out / MANIFEST).is_file():
        raise DataError(f"{out} is no data set (no {MANIFEST}), so it is not overwritten")


def _put(new: Path, out: Path, old: Path) -> None:
    """Put a directory in the place of another, or leave all as it was."""
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:  # an interrupt too
        if old.exists():
            old.rename(out)
        raise


def _write_dataset(raw: RawData, config: PrepareConfig, out: Path) -> None:
    problems = Problems(config.on_error)
    users = read_entities(raw, "users", problems)
    items = read_entities(raw, "items", problems)
    scan = scan_events(raw, users, items, config.split, problems)
    encoders = _fit(raw, scan, users, items)
    stores = _write_stores(raw, scan, (users, items), encoders, out)
    if config.eval_negatives:
        stores |= _write_negatives(scan, len(items), config, out)
    tables = {
        "encoders.arrow": encoders.to_table(),
        "users.arrow": pa.table({"key": pa.array(users.index.keys, pa.string())}),
        "items.arrow": pa.table(
            {
                "key": pa.array(items.index.keys, pa.string()),
                "title": pa.array(items.names(), pa.string()),
            }
        ),
    }
    parts = {
        "name": raw.name,
        "notes": list(raw.notes),
        "config": config.to_dict(),
        "rows": {split: int((scan.splits == i).sum()) for i, split in enumerate(SPLITS)},
        "skipped": problems.num_skipped,
        "skipped_rows": [str(problem) for problem in problems.listed],
        "collisions": _collisions(encoders),
        "files": {name: write_arrow(out / name, table) for name, table in tables.items()},
        "stores": stores,
    }
    write_manifest(out, parts)


def _collisions(encoders: Encoders) -> dict[str, float]:
    return {
        name: vocabulary.collision_rate
        for name, vocabulary in encoders.vocabularies.items()
        if isinstance(vocabulary, HashVocabulary)
    }


def _read_again(raw: RawData, scan: Scan) -> Iterator[Parsed]:
    """Read the events once more; what does not fit has been reported already."""
    size = 0
    for _, part in read_events(raw, Problems("skip", keep=0)):
        size = part.first + len(part)
        if size > len(scan):
            break
        yield part
    if size != len(scan):
        names = ", ".join(source.name for source in raw.splits.values())
        raise DataError(f"{names}: changed while it was read; prepare it again")


def _fit(raw: RawData, scan: Scan, users: Entities, items: Entities) -> Encoders:
    """Fit encoders on the training rows, and on what side tables say of who was met in them."""
    schema, fitter = raw.schema, EncoderFitter(raw.schema)
    # A key counts once an event, also where its feature is of a side table.
    column_of = {feature.name: feature.name for feature in schema.of_table("events")}
    for feature in schema.features:
        if schema.is_key(feature):
            column_of[feature.name] = USER if feature.role is Role.USER else ITEM
    for part in _read_again(raw, scan):
        own = part.filter(scan.splits[part.first : part.first + len(part)] == 0)
        fitter.add({name: own.columns[column] for name, column in column_of.items()})
    for entities, numbers in ((users, scan.users), (items, scan.items)):
        if numbers is not None:
            met = np.unique(numbers[scan.splits == 0])
            rows = pa.array(met[met < entities.num_listed])
            columns = entities.columns.items()
            fitter.add({name: c.take(rows) for name, c in columns if name not in column_of})
    return fitter.fit()


def _logs(raw: RawData, scan: Scan, num_users: int) -> dict[str, Log]:
    logs: dict[str, Log] = {}
    for kind in sorted({str(feature.history) for feature in raw.schema.history}):
        assert scan.users is not None
        assert scan.items is not None
        assert scan.times is not None
        kept = scan.positive if kind == "positive" else np.ones(len(scan), bool)
        is_train = scan.splits == 0
        logs[kind] = build_log(scan.users, scan.items, scan.times, kept, is_train, num_users)
    return logs


def _write_stores(
    raw: RawData, scan: Scan, entities: tuple[Entities, Entities], encoders: Encoders, out: Path
) -> dict[str, Specs]:
    """Write the events, the users, the items and the logs."""
    users, items = entities
    logs = _logs(raw, scan, len(users))
    writer = EventWriter(out, encoders, scan, logs)
    for part in _read_again(raw, scan):
        writer.append(part)
    stores = writer.close()
    if scan.users is not None:
        seen = {f"past/{kind}": log.seen for kind, log in logs.items()}
        met = scan.users, scan.splits
        stores["users"] = write_entities(out, "users", users, encoders, met, seen, stores)
    if scan.items is not None:
        met = scan.items, scan.splits
        stores["items"] = write_entities(out, "items", items, encoders, met, {}, stores)
    for kind, log in logs.items():
        stores[f"log-{kind}"] = write_log(out / f"log-{kind}", log)
    return stores


def _write_negatives(
    scan: Scan, num_items: int, config: PrepareConfig, out: Path
) -> dict[str, Specs]:
    assert scan.users is not None
    assert scan.items is not None
    stores = {}
    for number, split in enumerate(SPLITS[1:], start=1):
        generator = np.random.default_rng([config.seed, number])
        users, met = scan.users[scan.splits == number], (scan.users, scan.items)
        drawn = draw_unmet(users, met, num_items, config.eval_negatives, generator)
        writer = ColumnWriter(out / f"negatives-{split}")
        writer.append("items", drawn)
        stores[f"negatives-{split}"] = writer.close()
    return stores
