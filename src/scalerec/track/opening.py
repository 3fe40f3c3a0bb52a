"""Sinks by name, as the command line gives them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scalerec.config import require
from scalerec.errors import ConfigError
from scalerec.track.jsonl import JsonlSink
from scalerec.track.services import TensorBoardSink, WandbSink
from scalerec.track.sinks import Fanout, Sink

__all__ = ["LOG", "PROJECT", "SINKS", "SinkEntry", "open_sinks"]

LOG = "log.jsonl"
PROJECT = "scalerec"


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkEntry:
    """One row of the table of sinks.

    Args:
        open: Makes the sink from the run's directory, what follows the colon, and whether the run
            goes on.
        argument: What may follow a colon, in words; empty if nothing may.
    """

    open: Callable[[Path, str, bool], Sink]
    argument: str = ""


def _jsonl(directory: Path, _argument: str, resume: bool) -> Sink:
    return JsonlSink(directory / LOG, resume=resume)


def _tensorboard(directory: Path, _argument: str, _resume: bool) -> Sink:
    return TensorBoardSink(directory / "tensorboard")


def _wandb(directory: Path, argument: str, _resume: bool) -> Sink:
    return WandbSink(argument or PROJECT, directory)


SINKS: dict[str, SinkEntry] = {
    "jsonl": SinkEntry(open=_jsonl),
    "tensorboard": SinkEntry(open=_tensorboard),
    "wandb": SinkEntry(open=_wandb, argument="PROJECT"),
}


def open_sinks(spec: Sequence[str], directory: str | Path, *, resume: bool = False) -> Fanout:
    """Open the sinks that a user asked for.

    Every word is checked before the first sink is made; if one cannot be made, those before it are
    closed.

    Args:
        spec: Any of ``jsonl``, ``tensorboard``, ``wandb`` and ``wandb:PROJECT``, each once.
        directory: The run's directory: it gets ``log.jsonl``, ``tensorboard/`` and ``wandb/``.
        resume: Go on with the logs that are there.

    Raises:
        ConfigError: If a word is not allowed or comes twice, or a log cannot be written.
        MissingExtraError: If an engine is not installed.

    Example:
        >>> open_sinks([], "runs/deepfm").sinks
        ()
    """
    if isinstance(spec, str):
        raise ConfigError(f"sinks must be a list of words; got {spec!r}")
    parsed = [_parse(word) for word in spec]
    names = [name for name, _ in parsed]
    for name in names:
        require(names.count(name) == 1, f"sink {name!r} is given {names.count(name)} times")
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for name, argument in parsed:
            sinks.append(SINKS[name].open(Path(directory), argument, resume))
            stack.callback(sinks[-1].close)
        stack.pop_all()
    return Fanout(sinks)


def _parse(word: str) -> tuple[str, str]:
    name, colon, argument = word.partition(":")
    entry = SINKS.get(name)
    good = entry is not None and (not colon or bool(entry.argument and argument.strip()))
    allowed = [
        name if not entry.argument else f"{name}, {name}:{entry.argument}"
        for name, entry in SINKS.items()
    ]
    require(good, f"a sink must be one of {', '.join(allowed)}; got {word!r}")
    return name, argument
