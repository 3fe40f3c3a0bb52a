"""Options that several verbs share, and how settings are written on the command line."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.errors import ConfigError

__all__ = [
    "AsJson",
    "Call",
    "Continue",
    "DataPath",
    "Grow",
    "Out",
    "Overwrite",
    "Threads",
    "examples",
    "free",
    "given",
    "merge",
    "read_config",
    "read_settings",
    "use_threads",
]


@dataclass(frozen=True, slots=True)
class Call:
    """How the program was called, for a verb that calls it again.

    Args:
        words: All words, but --debug.
        is_member: Whether this is one of several processes that a launcher has started.
        debug: Whether --debug was among the words.
    """

    words: tuple[str, ...]
    is_member: bool = False
    debug: bool = False


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DataPath = Annotated[Path, typer.Argument(metavar="DATA", help="A data set made by `prepare`.")]
Continue = Annotated[
    Path | None, typer.Option("--continue", metavar="BUNDLE", help="Go on from this bundle.")
]
Grow = Annotated[
    list[str] | None,
    typer.Option(
        "--grow",
        help="How tables grow, NAME=VALUE: admit=3, max_ids=100000, evict_after=30, "
        "evict_first=rare, tables.user.admit=1.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The directory to make.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0: all cores.")]


def examples(*lines: str) -> str:
    """The examples under a verb's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def free(out: Path, overwrite: bool, option: str = "--out") -> None:
    """Refuse a place where something is already.

    Args:
        out: What is to be made.
        overwrite: Whether it may replace what is there.
        option: That named it.

    Raises:
        ConfigError: If something is there and may not be replaced.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{option} {out} exists already; choose another, or --overwrite")


def given(**values: Any) -> dict[str, Any]:
    """The options that were given: all that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def use_threads(number: int) -> None:
    """Let torch use so many CPU threads; 0 leaves its own choice."""
    if number:
        import torch

        torch.set_num_threads(number)


def read_config(path: Path | None) -> dict[str, Any]:
    """Read a TOML file of settings; nothing without a path.

    Raises:
        ConfigError: If it is missing or not TOML.
    """
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML: {error}") from None


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Turn `a.b=value` words into nested settings; a value is read as TOML, else as text.

    Raises:
        ConfigError: If a word has no name or no value.

    Example:
        >>> read_settings(["model.hidden=[64, 32]", "epochs=3", "tables.engine=torch"])
        {'model': {'hidden': [64, 32]}, 'epochs': 3, 'tables': {'engine': 'torch'}}
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set needs NAME=VALUE, such as epochs=3; got {word!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        place = settings
        *parents, last = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {word}: {parent!r} has a value already")
        place[last] = value
    return settings


def merge(base: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of settings, table by table; later ones win."""
    merged = dict(base)
    for other in others:
        for name, value in other.items():
            old = merged.get(name)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            merged[name] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
