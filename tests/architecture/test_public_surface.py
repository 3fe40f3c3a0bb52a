"""Every package has one door with a list of what it offers, and all of it is documented.

It also holds what no file may do: execute what it reads.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "scalerec"
PATHS = sorted(SOURCE.rglob("*.py"))
PACKAGES = [
    ".".join(path.parent.relative_to(SOURCE.parent).parts)
    for path in PATHS
    if path.name == "__init__.py"
]

UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
}
UNSAFE_SETTINGS = {"shell", "allow_pickle"}


def reading_order(name: str) -> tuple[int, list[tuple[bool, int | str]]]:
    """Order names as the linter does: CONSTANTS, Classes, the rest; numbers by their value."""
    is_constant = len(name) > 1 and name.isupper()
    kind = 0 if is_constant else 1 if name[:1].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(not part.isdigit(), int(part) if part.isdigit() else part) for part in parts]


def surface_faults(module: ModuleType) -> Iterator[str]:
    """Describe what is wrong with the list of names that a package offers."""
    names = getattr(module, "__all__", None)
    if names is None:
        yield f"{module.__name__} has no __all__"
        return
    expected = sorted(set(names), key=reading_order)
    if list(names) != expected:
        yield f"{module.__name__}.__all__ is not sorted without repeats; allowed: {expected}"
    for name in expected:
        try:
            found = getattr(module, name)
        except AttributeError:
            yield f"{module.__name__}.__all__ names {name!r}, which does not exist"
            continue
        if not is_documented(found):
            yield f"{module.__name__}.{name} has no docstring of its own"


def is_documented(thing: object) -> bool:
    """Tell whether a class, function or module has its own words; constants cannot have any."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)):
        return True
    words = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    # A dataclass without a docstring gets its signature as one.
    return bool(words and words.strip()) and not str(words).startswith(f"{thing.__name__}(")


def unsafe_faults(path: Path) -> Iterator[str]:
    """Describe each construct that would execute what it reads."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                used = {alias.name.split(".")[0] for alias in node.names} & UNSAFE_MODULES
            case ast.ImportFrom(module=str(base)):
                names = {f"{base}.{alias.name}" for alias in node.names}
                used = (names & UNSAFE_CALLS) | ({base.split(".")[0]} & UNSAFE_MODULES)
            case ast.Call():
                used = {ast.unparse(node.func)} & UNSAFE_CALLS
                used |= {f"{word.arg}=True" for word in node.keywords if is_unsafe(word)}
            case _:
                continue
        for name in sorted(used):
            yield f"{path}:{node.lineno}: uses {name}, which can execute what it reads"


def is_unsafe(word: ast.keyword) -> bool:
    off = isinstance(word.value, ast.Constant) and not word.value.value
    return word.arg in UNSAFE_SETTINGS and not off


@pytest.mark.parametrize("package", PACKAGES)
def test_package_offers_what_it_lists(package: str) -> None:
    faults = list(surface_faults(importlib.import_module(package)))
    assert not faults, "\n".join(faults)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        f"{path}:1: the module has no docstring"
        for path in PATHS
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, "\n".join(silent)


def test_nothing_executes_what_it_reads() -> None:
    folders = [SOURCE, ROOT / "benchmarks", ROOT / "examples"]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    faults = [fault for path in paths for fault in unsafe_faults(path)]
    assert not faults, "\n".join(faults)


# The checks themselves, on known faults.


def test_reading_order_is_the_linters() -> None:
    # The order that ruff's RUF022 gave for these names.
    names = ["AUC", "DCN", "GAUC", "HR", "A", "Batch", "DCNv2", "Hr", "__version__", "auc"]
    names += ["dcn_v2", "dcn_v10"]
    assert sorted(names, key=reading_order) == names


def test_a_wrong_surface_is_found() -> None:
    module = ModuleType("sample")
    assert list(surface_faults(module)) == ["sample has no __all__"]

    class Silent:
        pass

    module.__dict__.update(__all__=["Silent", "LIMIT", "Absent"], Silent=Silent, LIMIT=3)
    assert list(surface_faults(module)) == [
        "sample.__all__ is not sorted without repeats; allowed: ['LIMIT', 'Absent', 'Silent']",
        "sample.__all__ names 'Absent', which does not exist",
        "sample.Silent has no docstring of its own",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("from torch import load", "torch.load"),
        ("import torch\ntorch.load(path, weights_only=True)", "torch.load"),
        ("def f():\n    return eval(text)", "eval"),
        ("yaml.load(text)", "yaml.load"),
        ("subprocess.run(words, shell=True)", "shell=True"),
        ("np.load(path, allow_pickle=flag)", "allow_pickle=True"),
    ],
)
def test_an_unsafe_construct_is_found(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "sample.py"
    path.write_text(text)
    (fault,) = unsafe_faults(path)
    assert f": uses {name}, which" in fault


def test_a_safe_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text("model.eval()\nsubprocess.run(words, shell=False)\nfrom . import load\n")
    assert list(unsafe_faults(path)) == []
