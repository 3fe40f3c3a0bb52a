"""From raw tables to a data set: scan, split, fit on the training rows, encode, write.

The events are read once, as a stream; what was read waits on disk until the training rows and the
vocabularies are known. So memory follows the distinct keys and a few numbers a row, never the width
of the file. Everything is written to a temporary directory beside the target and renamed at the
end: a preparation that was cut short leaves nothing that opens, and the next one removes what a
killed one left.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scalerec.config import Config, require
from scalerec.data.aside import clear_left_over, folder_aside
from scalerec.data.columns import ColumnWriter, Specs
from scalerec.data.continuing import Base, Fresh, check_base, continue_stores
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.entities import Entities, read_entities
from scalerec.data.extending import add_encoders, extend_raw, fill_absent
from scalerec.data.fitting import EncoderFitter
from scalerec.data.growing import Update, grow_encoders
from scalerec.data.intake import Intake, fit_events, take_in
from scalerec.data.logs import Log, build_log
from scalerec.data.manifest import MANIFEST, write_arrow, write_manifest
from scalerec.data.problems import OnError, Problems
from scalerec.data.raw import RawData
from scalerec.data.sampling import draw_unmet
from scalerec.data.scanning import Scan, split_events
from scalerec.data.schema import Role, Schema
from scalerec.data.splits import SPLITS, SplitConfig
from scalerec.data.stores import event_ids, write_entities, write_events, write_log
from scalerec.data.vocabulary import HashVocabulary
from scalerec.errors import DataError

__all__ = ["PrepareConfig", "manifest_parts", "prepare", "write_aside"]


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
    raw: RawData,
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    overwrite: bool = False,
    base: Base | None = None,
) -> Dataset:
    """Make a data set of raw tables.

    Args:
        raw: The tables and their schema.
        out: The directory to make.
        config: How; the defaults split by time and refuse any row that does not fit.
        overwrite: Whether an existing data set at `out` may be replaced.
        base: What a bundle knows, if its encoders are to grow instead of new ones being fitted, and
            its users and items to keep their numbers. The schema may be another one.

    Returns:
        The data set, opened.

    Raises:
        DataError: If a value does not fit its schema, with file, row, column, value and what is
            allowed; if there are no training rows; or if `out` exists.
        SchemaError: If the schema contradicts the base's; features that the base lacks are added,
            and those that it has beyond are null (`scalerec.data.extending`).
    """
    config = config or PrepareConfig()
    if base is not None:
        check_base(config.eval_negatives)
        raw = extend_raw(raw, base.encoders.schema)
    raw = fill_absent(raw)
    if config.eval_negatives and not (raw.schema.user and raw.schema.item):
        raise DataError("eval_negatives need a user and an item; name them in the schema")
    return write_aside(
        Path(out), lambda aside: _write_dataset(raw, config, aside, base), overwrite=overwrite
    )


def write_aside(out: Path, write: Callable[[Path], None], *, overwrite: bool) -> Dataset:
    """Let a data set be written beside its place, then put it there.

    Args:
        out: Its place.
        write: Is given a folder, and writes the data set to its subfolder `new`.
        overwrite: Whether an existing data set at `out` may be replaced.

    Raises:
        DataError: If `out` exists and may not be replaced, or cannot be written.
    """
    try:
        clear_left_over(out)
        _check_target(out, overwrite)
        with folder_aside(out) as aside:
            write(aside)
            _put(aside / "new", out, aside / "old")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
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


def _write_dataset(raw: RawData, config: PrepareConfig, aside: Path, base: Base | None) -> None:
    out, problems = aside / "new", Problems(config.on_error)
    users = read_entities(raw, "users", problems)
    items = read_entities(raw, "items", problems)
    with _workers() as pool:
        intake = take_in(raw, users, items, aside / "waiting", problems, pool)
        scan = _split(raw, config, intake)
        encoders = _fit(raw, intake, scan, (users, items), pool, base)
        stores = _write_stores(scan, (users, items), encoders, intake, out, pool)
    if config.eval_negatives:
        stores |= _write_negatives(scan, len(items), config, out)
    found = users.index.to_arrow().cast(pa.string()), items.index.to_arrow().cast(pa.string())
    tables = {
        "users": pa.table({"key": found[0]}),
        "items": pa.table({"key": found[1], "title": pa.array(items.names(), pa.string())}),
    }
    if base is not None:
        listed = {"users": users.num_listed, "items": items.num_listed}
        fresh = {name: Fresh(table, listed[name]) for name, table in tables.items()}
        stores, tables = continue_stores(out, stores, base, encoders, fresh)
    settings = {**config.to_dict(), **(base.settings() if base else {})}
    rows = {split: int((scan.splits == i).sum()) for i, split in enumerate(SPLITS)}
    parts = manifest_parts(out, raw, encoders, tables, problems)
    write_manifest(out, {**parts, "config": settings, "rows": rows, "stores": stores})


def manifest_parts(
    out: Path,
    raw: RawData,
    encoders: Encoders,
    tables: Mapping[str, pa.Table],
    problems: Problems,
) -> dict[str, Any]:
    """Write the Arrow files of a data set, and give what its manifest says of them and the source.

    Args:
        out: The data set's directory.
        raw: The tables it is made of.
        encoders: Fitted ones.
        tables: The keys of `users`, and the keys and titles of `items`.
        problems: What was left out.
    """
    files = {
        "encoders.arrow": encoders.to_table(),
        "users.arrow": tables["users"],
        "items.arrow": tables["items"],
    }
    return {
        "name": raw.name,
        "notes": list(raw.notes),
        "skipped": problems.num_skipped,
        "skipped_rows": [str(problem) for problem in problems.listed],
        "collisions": _collisions(encoders),
        "files": {name: write_arrow(out / name, table) for name, table in files.items()},
    }


@contextmanager
def _workers() -> Iterator[Executor]:
    """Threads that work on columns side by side; one more reads ahead."""
    pool = ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))) + 1)
    memory = pa.default_memory_pool()
    # What one thread reads another lets go: Arrow's usual allocator then gives pages back to the
    # kernel and takes them again all the time, which costs a tenth of the whole work.
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    try:
        yield pool
    finally:
        pa.set_memory_pool(memory)
        # After an interrupt, what has not begun is not begun.
        pool.shutdown(cancel_futures=True)


def _collisions(encoders: Encoders) -> dict[str, float]:
    return {
        name: vocabulary.collision_rate
        for name, vocabulary in encoders.vocabularies.items()
        if isinstance(vocabulary, HashVocabulary)
    }


def _split(raw: RawData, config: PrepareConfig, intake: Intake) -> Scan:
    numbers = {name: np.concatenate(intake.numbers.pop(name)) for name in list(intake.numbers)}
    given, positive = np.concatenate(intake.given), np.concatenate(intake.positive)
    return split_events(raw, config.split, given, numbers, positive)


def _fit(
    raw: RawData,
    intake: Intake,
    scan: Scan,
    entities: tuple[Entities, Entities],
    pool: Executor,
    base: Base | None,
) -> Encoders:
    """Fit encoders on the training rows, and on what side tables say of who was met in them."""
    schema, of_entity = raw.schema, {Role.USER: entities[0], Role.ITEM: entities[1]}
    keys = [feature for feature in schema.features if schema.is_key(feature)]
    indexes = dict(intake.indexes)
    for feature in keys:
        name = schema.tables_of(feature)[0]
        # Counting may add keys to an index, so entities lend theirs only where none can be new.
        if (
            sum(name in schema.tables_of(f) and f not in schema.history for f in schema.features)
            == 1
        ):
            indexes[name] = of_entity[feature.role].index
    fitter = EncoderFitter(schema, indexes)
    fit_events(fitter, intake, scan.splits == 0, pool)
    # A key counts once an event, also where its feature is of a side table.
    names = {feature.name for feature in keys}
    for (role, table), numbers in zip(of_entity.items(), (scan.users, scan.items), strict=True):
        if numbers is not None:
            counts = np.bincount(numbers[scan.splits == 0], minlength=len(table.index))
            for feature in keys:
                if feature.role is role:
                    fitter.add_counts(feature, table.index.to_arrow(), counts)
            met = np.flatnonzero(counts)
            rows = pa.array(met[met < table.num_listed])
            columns = table.columns.items()
            fitter.add({name: c.take(rows) for name, c in columns if name not in names})
    if base is None:
        return fitter.fit(pool)
    update = Update.of(None if scan.times is None else scan.times[scan.splits == 0], base.encoders)
    known = replace(base.encoders, schema=schema)
    grown = grow_encoders(known, fitter.counts(), base.grow, update)
    return grown if schema == base.encoders.schema else add_encoders(grown, fitter.fit(pool))


def _logs(schema: Schema, scan: Scan, num_users: int) -> dict[str, Log]:
    logs: dict[str, Log] = {}
    for kind in sorted({str(feature.history) for feature in schema.history}):
        assert scan.users is not None
        assert scan.items is not None
        assert scan.times is not None
        kept = scan.positive if kind == "positive" else np.ones(len(scan), bool)
        is_train = scan.splits == 0
        logs[kind] = build_log(scan.users, scan.items, scan.times, kept, is_train, num_users)
    return logs


def _write_stores(
    scan: Scan,
    entities: tuple[Entities, Entities],
    encoders: Encoders,
    intake: Intake,
    out: Path,
    pool: Executor,
) -> dict[str, Specs]:
    """Write the events, the users, the items and the logs."""
    users, items = entities
    logs = _logs(encoders.schema, scan, len(users))
    ids = event_ids(encoders, intake, entities)
    stores = write_events(out, encoders, scan, logs, intake, ids, pool)
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
