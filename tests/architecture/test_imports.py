"""Who may import whom: the table of the design, held by reading the source without running it.

A module imports only from packages with a smaller number; peers on one line never import each
other; the modules of one package form no cycle; the two doors of every command stay light.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "scalerec"
NAME = SOURCE.name

LEVELS = {
    "errors": 1,
    "config": 1,
    "_version": 1,
    "data": 2,
    "metrics": 2,
    "track": 2,
    "models": 3,
    "optim": 3,
    "bundle": 4,
    "rounds": 4,
    "scoring": 5,
    "train": 6,
    "distributed": 7,
    "compress": 7,
    "meta": 7,
    "federated": 7,
    "serve": 7,
    "tune": 7,
    "report": 8,
    "cli": 9,
    "__init__": 9,
    "__main__": 10,
}
# The one pair of peers: the config base raises the errors of the tree.
PEERS_ALLOWED = {("config", "errors")}
# Lower ceilings than the line of the table gives: serving starts without training code.
CEILINGS = {"serve": 5}
OUTSIDE = {"tests", "benchmarks", "examples"}
# Every command passes these doors, `--help` too; what they import is paid each time.
LIGHT_DOORS = (NAME, f"{NAME}.cli")
HEAVY = {"torch", "pyarrow", "matplotlib", "numpy"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One import statement: the module that is imported, and where that is written."""

    target: str
    path: Path
    line: int
    at_start: bool  # runs when the module is imported, not in a function or for a type checker only

    def __str__(self) -> str:
        """Give the place as an editor opens it."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One source file and what it imports."""

    name: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        """The key of the table: the part after the root, or `__init__` for the root itself."""
        return package_of(self.name)


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def read_modules(source: Path) -> dict[str, Module]:
    """Parse every file below `source`, keyed by dotted name."""
    paths = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        name: Module(name=name, path=path, imports=tuple(read_imports(name, path, set(paths))))
        for name, path in paths.items()
    }


def read_imports(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    late = late_nodes(tree)
    here = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        for target in targets_of(node, here, known):
            yield Import(
                target=target,
                path=path,
                line=getattr(node, "lineno", 0),
                at_start=node not in late,
            )


def late_nodes(tree: ast.Module) -> set[ast.AST]:
    """Collect what does not run at import: bodies of functions and of `if TYPE_CHECKING`."""
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_function or is_types:
            body = node.body if isinstance(node, ast.If) else [node]
            late.update(child for part in body for child in ast.walk(part))
    return late


def targets_of(node: ast.AST, here: str, known: set[str]) -> list[str]:
    """Name the modules that a node imports; `from package import module` counts as the module."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = node.module or ""
            if node.level:
                parents = here.split(".")[: len(here.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            inner = [f"{base}.{alias.name}" for alias in node.names]
            return [name if name in known else base for name in inner]
        case ast.Call(args=[ast.Constant(value=str(target)), *_]):
            function = ast.unparse(node.func)
            return [target] if function.endswith(("import_module", "__import__")) else []
        case _:
            return []


def direction_faults(modules: dict[str, Module]) -> list[str]:
    """Describe each import that goes sideways, upwards or out of the source."""
    faults = []
    for module in modules.values():
        package = module.package
        if package not in LEVELS:
            faults.append(f"{module.path}:1: package {package!r} has no number in the table")
            continue
        for found in module.imports:
            if fault := direction_fault(package, found):
                faults.append(f"{found}: {fault}")
    return faults


def is_launched(path: Path) -> bool:
    """Whether a launcher starts this module as a program, so that nobody imports it."""
    return path.name == "__main__.py"


def direction_fault(package: str, found: Import) -> str | None:
    if is_launched(found.path):
        return None
    top = found.target.split(".")[0]
    if top in OUTSIDE:
        return (
            f"imports {found.target}; the package never imports from {', '.join(sorted(OUTSIDE))}"
        )
    target = package_of(found.target)
    if top != NAME or target == package or (package, target) in PEERS_ALLOWED:
        return None
    ceiling = CEILINGS.get(package, LEVELS[package] - 1)
    if LEVELS.get(target, 0) <= ceiling:
        return None
    allowed = [name for name, level in LEVELS.items() if level <= ceiling]
    return (
        f"{package} ({LEVELS[package]}) imports {found.target} ({LEVELS[target]}); "
        f"allowed: {package} itself, {', '.join(allowed) or 'nothing else'}"
    )


def cycle_faults(modules: dict[str, Module]) -> list[str]:
    """Describe each import that closes a circle between the modules of one package."""
    edges = {
        name: [
            found
            for found in module.imports
            if found.target in modules and package_of(found.target) == module.package
        ]
        for name, module in modules.items()
    }
    faults: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in done:
            return
        path = [*path, name]
        for found in edges[name]:
            if found.target not in path:
                visit(found.target, path)
                continue
            circle = [*path[path.index(found.target) :], found.target]
            faults.append(
                f"{found}: closes a circle: {' -> '.join(circle)}; allowed: one direction only, "
                "and from the module itself, not from the __init__ of its own package"
            )
        done.add(name)

    for name in edges:
        visit(name, [])
    return faults


def weight_faults(modules: dict[str, Module]) -> list[str]:
    """Describe each heavy import that a light door pays for, directly or through other modules."""
    faults = []
    for door in LIGHT_DOORS:
        waiting, seen = [door], {door}
        while waiting:
            module = modules.get(waiting.pop())
            for found in module.imports if module else ():
                if not found.at_start:
                    continue
                if found.target.split(".")[0] in HEAVY:
                    faults.append(
                        f"{found}: `import {door}` pays for {found.target}; allowed: importing it "
                        "in the function that needs it"
                    )
                reached = set(parents_and_self(found.target)) - seen
                seen |= reached
                waiting.extend(sorted(reached))
    return faults


def parents_and_self(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_modules(SOURCE)


def test_imports_go_downwards(modules: dict[str, Module]) -> None:
    faults = direction_faults(modules)
    assert not faults, "\n".join(["imports against the table of the design:", *faults])


def test_packages_have_no_cycles(modules: dict[str, Module]) -> None:
    faults = cycle_faults(modules)
    assert not faults, "\n".join(["imports in a circle:", *faults])


def test_doors_are_light(modules: dict[str, Module]) -> None:
    faults = weight_faults(modules)
    assert not faults, "\n".join(["heavy imports at start:", *faults])


# The checks themselves, on trees with known faults.


def plant(folder: Path, files: dict[str, str]) -> dict[str, Module]:
    """Write a source tree and read it back."""
    for name, text in files.items():
        path = folder / NAME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_modules(folder / NAME)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics/a.py", "from scalerec.data import x", "metrics (2) imports scalerec.data (2)"),
        ("data/a.py", "def f():\n    import scalerec.train.loop", "a.py:2: data (2) imports"),
        ("data/a.py", "from scalerec import cli", "imports scalerec.cli (9)"),
        ("data/a.py", "from scalerec import Name", "imports scalerec (9)"),
        ("data/a.py", "from ..models import dcn", "data (2) imports scalerec.models (3)"),
        ("data/a.py", "import importlib as i\ni.import_module('scalerec.cli')", "scalerec.cli (9)"),
        ("serve/a.py", "from scalerec.train import loop", "allowed: serve itself, errors"),
        ("errors.py", "import scalerec.config", "allowed: errors itself, nothing else"),
        ("cli/a.py", "from tests.conftest import x", "never imports from benchmarks"),
        ("extra.py", "", "package 'extra' has no number"),
    ],
)
def test_a_wrong_direction_is_found(tmp_path: Path, name: str, text: str, words: str) -> None:
    tree = {"__init__.py": "", "cli/__init__.py": "", "models/__init__.py": "", name: text}
    faults = direction_faults(plant(tmp_path, tree))
    assert len(faults) == 1
    assert words in faults[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.py", "from scalerec.errors import ConfigError"),
        ("train/loop.py", "from scalerec.scoring import rank\nfrom .state import State"),
        ("serve/app.py", "from scalerec.scoring import rank"),
        ("data/a.py", "import numpy as np\nimport scalerec_other"),
    ],
)
def test_a_right_direction_passes(tmp_path: Path, name: str, text: str) -> None:
    assert direction_faults(plant(tmp_path, {"__init__.py": "", name: text})) == []


def test_a_cycle_is_found_and_named(tmp_path: Path) -> None:
    tree = {
        "data/__init__.py": "from scalerec.data.a import x",
        "data/a.py": "from scalerec.data.b import x",
        "data/b.py": "def f():\n    from scalerec.data import a",
        "data/c.py": "from scalerec.data import b",
    }
    faults = cycle_faults(plant(tmp_path, tree))
    assert len(faults) == 1
    assert (
        "b.py:2: closes a circle: scalerec.data.a -> scalerec.data.b -> scalerec.data.a"
        in faults[0]
    )


def test_a_module_that_uses_its_own_door_is_a_cycle(tmp_path: Path) -> None:
    tree = {
        "data/__init__.py": "from scalerec.data.a import x",
        "data/a.py": "from scalerec.data import y",
    }
    faults = cycle_faults(plant(tmp_path, tree))
    assert len(faults) == 1
    assert "not from the __init__ of its own package" in faults[0]


def test_a_heavy_door_is_found_through_other_modules(tmp_path: Path) -> None:
    tree = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "cli/__init__.py": "from scalerec.cli import train",
        "cli/train.py": "from scalerec.data.schema import Schema",
        "data/__init__.py": "try:\n    import numpy as np\nexcept ImportError:\n    pass",
        "data/schema.py": "def f():\n    import pyarrow",
    }
    faults = weight_faults(plant(tmp_path, tree))
    assert len(faults) == 1
    assert "data/__init__.py:2: `import scalerec.cli` pays for numpy" in faults[0]
