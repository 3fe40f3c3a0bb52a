"""What commands print: tables for people, one JSON object for programs, progress on the side."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

__all__ = ["Progress", "note", "print_json", "print_pairs", "print_table", "showing_steps"]


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def note(text: str) -> None:
    """Tell a person something, on standard error."""
    typer.echo(text, err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on standard output; numbers stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        number = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120).print(table)


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values below each other."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        typer.echo(f"{name:<{width}}  {_shown(value)}")


def _shown(value: object) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Progress:
    """Shows a training run's progress on standard error: a bar on a terminal, lines elsewhere.

    Args:
        unit: What is counted: steps, or rounds.
    """

    def __init__(self, unit: str = "step") -> None:
        self._unit, self._last = unit, 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, seen: Mapping[str, float]) -> None:
        """Show the latest numbers."""
        step, total = int(seen["step"]), int(seen["num_steps"])
        parts = [f"{self._unit} {step:,}/{total:,}", f"loss {seen['train/loss']:.4f}"]
        judged = [name for name in seen if name.startswith("valid/")]
        shown = [n for n in judged if n.rpartition("/")[2].rpartition(".")[2] in ("auc", "rmse")]
        shown += [name for name in judged if name.endswith("ndcg@10")]
        parts += [f"{name} {seen[name]:.4f}" for name in shown]
        line = "  ".join(parts)
        if judged:
            seconds = seen.get("seconds", 0.0)
            end = "\r\033[K" if self._live else ""
            epoch = f"epoch {seen['epoch']:.4g}  " if "epoch" in seen else ""
            typer.echo(f"{end}{epoch}{line}  {seconds:.1f} s", err=True)
        elif self._live:
            bar = "█" * (20 * step // max(1, total))
            typer.echo(f"\r\033[K{bar:<20}  {line}", err=True, nl=False)
        elif time.monotonic() - self._last > 10.0:
            self._last = time.monotonic()
            typer.echo(line, err=True)


@contextmanager
def showing_steps(text: str) -> Iterator[None]:
    """Tell what is being done, and how long it took."""
    start = time.perf_counter()
    note(f"{text} ...")
    yield
    note(f"{text}: {time.perf_counter() - start:.1f} s")
