"""`scalerec prepare --domain`: raw tables of several domains, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalerec.data.raw import RawData

__all__ = ["open_domains"]


def open_domains(words: Sequence[str], shared: Sequence[str], schema: Path | None) -> "RawData":
    """Open the raw tables of domains and put them side by side.

    Args:
        words: A domain each: ``NAME=SOURCE`` or ``NAME=SOURCE,SCHEMA.toml``.
        shared: Whose keys mean the same in all domains: `user`, `item`.
        schema: Of the files of domains that name none.

    Raises:
        ConfigError: If a word is no such word, or a name comes twice.
        DataError: If a file is missing, or domains cannot be put side by side.
        SchemaError: If a file has no schema, or domains mean different things by one name.
    """
    from scalerec.data.joining import join_domains
    from scalerec.data.opening import open_raw
    from scalerec.data.public import PUBLIC
    from scalerec.errors import ConfigError

    raws = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if not (name and equals and rest):
            raise ConfigError(f"--domain needs NAME=SOURCE or NAME=SOURCE,SCHEMA; got {word!r}")
        if name in raws:
            raise ConfigError(f"--domain {name!r} is given twice")
        source, comma, own = rest.rpartition(",")
        if not (comma and own.endswith(".toml")):
            source, own = rest, ""
        known = Path(own) if own else None if source in PUBLIC else schema
        raws[name] = open_raw(source, schema=known)
    return join_domains(raws, shared=shared)
