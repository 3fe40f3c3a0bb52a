"""What `prepare` writes is frozen: every column of several worlds, by checksum.

The checksums are in `tests/golden/prepare.json`; `python -m tests.data.test_prepare_golden` writes
them anew, which belongs in a commit of its own. Whole numbers are compared bit by bit. Floats are
compared by their sum to 6 digits, since the last digit of a mean is not the same on every machine.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.worlds import RICH, raw, rich_tables, schema

from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.sources import TableSource, open_source
from scalerec.data.sources.base import CHUNK_ROWS
from scalerec.data.vocabulary import HashVocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "prepare.json"

MANY = schema(
    {"name": "a", "kind": "categorical", "min_count": 3},
    {"name": "b", "kind": "categorical", "vocabulary": "a", "min_count": 3, "optional": True},
    {"name": "number", "kind": "categorical", "role": "item", "optional": True},
    {"name": "hashed", "kind": "categorical", "buckets": 50},
    {"name": "words", "kind": "text", "optional": True},
    {"name": "hashed_words", "kind": "text", "column": "words", "buckets": 20, "optional": True},
    {"name": "tags", "kind": "sequence", "max_length": 2, "vocabulary": "a", "min_count": 3},
    {"name": "moment", "kind": "timestamp", "parts": ["hour", "weekday", "day", "month"]},
    {"name": "vector", "kind": "vector", "dim": 3, "optional": True},
    {"name": "log", "kind": "numeric", "transform": "log", "optional": True},
    {"name": "plain", "kind": "numeric", "transform": "none"},
    {"name": "standard", "kind": "numeric"},
    {"name": "buckets", "kind": "numeric", "transform": "quantile", "num_buckets": 8},
    user="who",
    item="number",
    group="g",
    weight="w",
    title="title",
)


def many_events(size: int, seed: int = 0) -> dict[str, Any]:
    """Events for `MANY`: long tails, missing values, empty lists, shared keys, odd text."""
    draw = np.random.default_rng(seed)
    tail = np.floor(5000.0 ** draw.random(size)).astype(int)
    odd = ["", "é", "éa", "z" * 9, "z" * 8, "z" * 8 + "\0", "Z", "0", "00"]
    numbers = draw.integers(0, 3000, size)

    def some(values: list[Any], share: float) -> list[Any]:
        return [
            None if gone else v for v, gone in zip(values, draw.random(size) < share, strict=True)
        ]

    return {
        "a": [odd[1 + n % 8] if n < 40 else f"key-{n}" for n in tail.tolist()],
        "b": some([odd[n % 9] for n in numbers.tolist()], 0.1),
        "number": numbers.tolist(),
        "who": (numbers % 700).tolist(),
        "g": [f"g{n % 97}" for n in tail.tolist()],
        "w": draw.random(size).tolist(),
        "title": some([f"title {n}" for n in numbers.tolist()], 0.5),
        "hashed": [f"h{n}" for n in tail.tolist()],
        "words": some([f"The {odd[n % 9]}, word{n % 50}!" for n in tail.tolist()], 0.2),
        "tags": [list(map(str, range(n % 4))) for n in tail.tolist()],
        "moment": (1_500_000_000 + 1000 * numbers).tolist(),
        "vector": some(draw.normal(size=(size, 3)).tolist(), 0.2),
        "log": some(draw.exponential(9, size).tolist(), 0.2),
        "plain": draw.normal(size=size).tolist(),
        "standard": draw.integers(-3, 9, size).tolist(),
        "buckets": draw.normal(size=size).tolist(),
        "y": some(draw.integers(0, 2, size).tolist(), 0.1),
    }


def _dirty(folder: Path) -> tuple[RawData, dict[str, Any]]:
    lines = [f"k{n % 11},{n % 5},{n},{n % 2}" for n in range(500)]
    lines[7], lines[40], lines[300], lines[301] = "x,one,1,0", ",2,3,1", "a,b", "x,1,soon,0"
    (folder / "in.csv").write_text("a,n,t,y\n" + "\n".join(lines) + "\n")
    spec = schema(
        {"name": "a", "kind": "categorical"}, {"name": "n", "kind": "numeric"}, timestamp="t"
    )
    return raw(spec, open_source(folder / "in.csv")), {"on_error": "skip"}


def _given(_: Path) -> tuple[RawData, dict[str, Any]]:
    parts = [TableSource(many_events(400, seed)) for seed in range(3)]
    splits = dict(zip(("train", "valid", "test"), parts, strict=True))
    return RawData(name="given", schema=MANY, splits=splits), {}


def _random(size: int) -> tuple[RawData, dict[str, Any]]:
    return raw(MANY, many_events(size)), {"split": {"by": "random", "seed": 5}}


def _parts(_: Path) -> tuple[RawData, dict[str, Any]]:
    events, users, items = rich_tables(400, 3)
    return raw(RICH, events, users, items, test=rich_tables(90, 4)[0]), {"split": {"valid": 0.2}}


WORLDS: dict[str, Callable[[Path], tuple[RawData, dict[str, Any]]]] = {
    "rich by time": lambda _: (raw(RICH, *rich_tables(700)), {}),
    "rich, last out": lambda _: (
        raw(RICH, *rich_tables(90, 1)),
        {"split": {"by": "leave-last-out"}, "eval_negatives": 1, "seed": 2},
    ),
    "rich, cut from train": _parts,
    "dirty": _dirty,
    "given": _given,
    "one chunk": lambda _: _random(2000),
    "several chunks": lambda _: _random(2 * CHUNK_ROWS + 77),
}


def checksums(dataset: Dataset) -> dict[str, str]:
    """A checksum of every column, vocabulary and table."""
    found = {}
    for store, specs in dataset.manifest["stores"].items():
        for name, spec in specs.items():
            values = np.asarray(dataset.store(store)[name])
            found[f"{store} {name}"] = f"{spec['file']} {_sum(values)}"
    for name, words in dataset.encoders.vocabularies.items():
        if isinstance(words, HashVocabulary):
            found[name] = f"{words.buckets} {words.num_keys} {words.num_used}"
        else:
            text = json.dumps([words.keys.to_pylist(), words.counts.tolist()])
            found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    for table in ("items", "users"):
        rows = getattr(dataset, f"{table[:-1]}_table").to_pylist()
        found[table] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    return found


def _sum(values: Any) -> str:
    if values.dtype.kind == "f":
        return f"{values.dtype} {values.shape} {np.nansum(values, dtype=np.float64):.6g}"
    return f"{values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


def made(name: str, folder: Path) -> Dataset:
    world, config = WORLDS[name](folder)
    return prepare(world, folder / "data", PrepareConfig.from_dict(config))


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_written_has_not_changed(tmp_path: Path, name: str) -> None:
    assert checksums(made(name, tmp_path)) == json.loads(GOLDEN.read_text("utf-8"))[name]


def main() -> None:
    """Write the checksums anew."""
    found = {}
    for name in WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = checksums(made(name, Path(folder)))
    GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
