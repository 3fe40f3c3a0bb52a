"""From what a person names, a public set or files of their own, to raw data with a schema."""

from pathlib import Path

import pyarrow as pa

from scalerec.data.public import PUBLIC, open_public
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import Source, TableSource, open_source
from scalerec.data.splits import SPLITS
from scalerec.data.suggesting import suggest_schema
from scalerec.errors import ConfigError, DataError, SchemaError

__all__ = ["open_raw"]


def open_raw(
    source: str, *, schema: Path | Schema | None = None, path: Path | None = None
) -> RawData:
    """Open raw data.

    Args:
        source: The name of a public set; or a file (CSV, Parquet, Arrow), a pattern such as
            ``part-*.csv``, or a folder, whose files are read in the order of their names, or which
            holds `train.*` beside `valid.*` or `test.*` as given splits.
        schema: The schema of files, a TOML file; the files of side tables are relative to it. Or
            one that is known, as a bundle's: side tables are then looked for beside the events, and
            one that is not there says nothing new.
        path: A folder that holds a public set's files.

    Raises:
        ConfigError: If a setting does not fit the kind of source.
        DataError: If a file is missing, or is not what it should be.
        SchemaError: If there is no schema, with a suggestion, or it contradicts itself.
    """
    if source in PUBLIC:
        if isinstance(schema, Path):
            raise ConfigError(f"{source} is a public set and has its schema; leave --schema out")
        return open_public(source, path)
    if path is not None:
        raise ConfigError(f"--path is for public sets ({', '.join(PUBLIC)}); got {source!r}")
    splits = _splits(source)
    if schema is None:
        raise SchemaError(_no_schema(source, splits["train" if "train" in splits else "all"]))
    name = Path(source).name or source
    if isinstance(schema, Schema):
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        known, note = schema, f"read from {source}"
        users, items = (_more(known, table, folder) for table in ("users", "items"))
    else:
        known, note = Schema.from_toml(schema), f"read from {source} with schema {schema}"
        users, items = (_side_table(known, table, schema) for table in ("users", "items"))
    return RawData(name=name, schema=known, splits=splits, users=users, items=items, notes=(note,))


def _splits(source: str) -> dict[str, Source]:
    folder = Path(source)
    try:
        if folder.is_dir():
            given = {split: sorted(folder.glob(f"{split}.*")) for split in SPLITS}
            for split, files in given.items():
                if len(files) > 1:
                    names = ", ".join(file.name for file in files)
                    raise DataError(f"{folder}: one file may be {split}; got {names}")
            found = {split: open_source(files[0]) for split, files in given.items() if files}
            if "train" in found and len(found) > 1:
                return found
        return {"all": open_source(source)}
    except DataError as error:
        if "no such file" in str(error) and not folder.exists():
            known = ", ".join(PUBLIC)
            raise DataError(
                f"{error}, and no public set of this name; these are: {known}"
            ) from None
        raise


def _side_table(schema: Schema, table: str, schema_path: Path) -> Source | None:
    if table not in schema.tables:
        return None
    file = schema.tables[table].file
    if not file:
        raise SchemaError(f"schema {schema_path}: tables.{table}.file must name its file")
    return open_source(schema_path.parent / file)


def _more(schema: Schema, table: str, folder: Path) -> Source | None:
    """A side table beside new events; an empty one if it has nothing new to say."""
    if table not in schema.tables:
        return None
    file = schema.tables[table].file
    if file and (folder / file).exists():
        return open_source(folder / file)
    columns = [feature.source for feature in schema.features if feature.table == table]
    columns += [schema.key_of("users" if table == "users" else "items")]
    columns += [schema.title] if table == "items" and schema.title else []
    nothing = {column: pa.array([], pa.string()) for column in columns}
    return TableSource(pa.table(nothing), f"no {table}")


def _no_schema(source: str, first: Source) -> str:
    return (
        f"{source} needs a schema that says what its columns mean: write it to a file and give "
        f"that as --schema FILE. A first guess from its first rows, to be checked:\n\n"
        f"{suggest_schema(first)}"
    )
