"""Sizes stay readable: a file, a class and a function each fit in one head."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "scalerec"

MODULE_LINES = 400
CLASS_LINES = 250
FUNCTION_LINES = 80


def size_faults(path: Path) -> Iterator[str]:
    """Describe what is too long in one file; a docstring counts, a decorator does not."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > MODULE_LINES:
        yield f"{path}:1: module has {lines} lines; allowed: {MODULE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind, limit = "function", FUNCTION_LINES
        elif isinstance(node, ast.ClassDef):
            kind, limit = "class", CLASS_LINES
        else:
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > limit:
            yield f"{path}:{node.lineno}: {kind} {node.name} has {lines} lines; allowed: {limit}"


def test_source_keeps_its_sizes() -> None:
    faults = [fault for path in sorted(SOURCE.rglob("*.py")) for fault in size_faults(path)]
    assert not faults, "\n".join(["too long:", *faults])


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    function = "async def f():\n" + "    x = 1\n" * FUNCTION_LINES
    kind = "class A:\n" + "    y = 1\n" * CLASS_LINES
    path.write_text(function + "\n" + kind + "#\n" * 80)
    first, second, third = size_faults(path)
    assert first == f"{path}:1: module has 413 lines; allowed: 400"
    assert second == f"{path}:1: function f has 81 lines; allowed: 80"
    assert third == f"{path}:83: class A has 251 lines; allowed: 250"


def test_the_limits_themselves_pass(tmp_path: Path) -> None:
    path = tmp_path / "fits.py"
    function = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)
    path.write_text(function + "#\n" * (MODULE_LINES - FUNCTION_LINES))
    assert list(size_faults(path)) == []
