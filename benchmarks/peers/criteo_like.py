"""Generated click data in the shape of Criteo's, with a known true model.

26 categorical fields of R ids each, 13 numbers, one binary label. Ids follow a bounded Pareto law:
id k is the (k + 1)-th most frequent of its field, so every reader gets the frequent rows side by
side. The true logit is a bias, plus a weight for each id, plus the numbers times their weights,
plus the products of the ids' vectors over all pairs of the first fields. The label is drawn from
it, so the AUC of the true logit is the best that any model can reach.

The same rows are written twice: `NAME.npz` for readers of NumPy, `NAME.parquet` for the others.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .child import CATEGORICAL, LABEL, NUMBERS, area_under_curve

__all__ = ["CriteoLike", "Truth", "draw_ids", "draw_rows", "generate"]

CHUNK = 131_072
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class CriteoLike:
    """What is generated.

    Args:
        rows_per_field: R, the number of ids of each field.
        train: Rows to train on.
        held_out: Rows of the validation part, and as many of the test part.
        stretches: Further files with the first rows of `train`, by their names.
        exponent: Of the law of ids, above 1; the larger, the shorter the tail.
        first_order: Standard deviation of all ids' weights together, in the logit.
        pairs: That of all pairs together.
        numbers: That of all numbers together.
        pair_fields: The first so many fields interact, each with each.
        rank: Length of the true vectors.
        bias: Added to the logit.
        seed: Of everything.
    """

    rows_per_field: int
    train: int
    held_out: int
    stretches: tuple[tuple[str, int], ...] = ()
    exponent: float = 1.25
    first_order: float = 1.4
    pairs: float = 0.5
    numbers: float = 1.0
    pair_fields: int = 6
    rank: int = 2
    bias: float = -1.5
    seed: int = 7


class Truth:
    """The true model.

    Args:
        config: Its shape and strength.
        generator: Draws its weights.
    """

    def __init__(self, config: CriteoLike, generator: np.random.Generator) -> None:
        self.config = config
        shape = (len(CATEGORICAL), config.rows_per_field)
        scale = config.first_order / len(CATEGORICAL) ** 0.5
        self.weights = generator.standard_normal(shape, np.float32) * np.float32(scale)
        num_pairs = config.pair_fields * (config.pair_fields - 1) / 2
        scale = (config.pairs**2 / (num_pairs * config.rank)) ** 0.25
        vectors = (config.pair_fields, config.rows_per_field, config.rank)
        self.vectors = generator.standard_normal(vectors, np.float32) * np.float32(scale)
        scale = config.numbers / len(NUMBERS) ** 0.5
        self.slopes = generator.standard_normal(len(NUMBERS), np.float32) * np.float32(scale)

    def logits(self, ids_fb: NDArray[np.int32], numbers_nb: Floats) -> Floats:
        """The true logit of each row, ``[B]``."""
        total = self.config.bias + self.slopes @ numbers_nb
        for weights, ids in zip(self.weights, ids_fb, strict=True):
            total += weights[ids]
        fields = range(self.config.pair_fields)
        vectors = np.stack([self.vectors[f][ids_fb[f]] for f in fields])
        pairs = np.square(vectors.sum(0)) - np.square(vectors).sum(0)
        return np.asarray(total + 0.5 * pairs.sum(1), np.float32)


def draw_ids(
    config: CriteoLike, size: tuple[int, int], generator: np.random.Generator
) -> NDArray[np.int32]:
    """Ids by the bounded Pareto law, from 0 to R - 1."""
    power = 1.0 - config.exponent
    tail = (config.rows_per_field + 1.0) ** power
    uniform = generator.random(size, np.float32).astype(np.float64)
    ranks = (1.0 - uniform * (1.0 - tail)) ** (1.0 / power)
    whole = np.asarray(ranks, np.int32)
    return np.asarray(np.clip(whole, 1, config.rows_per_field) - 1, np.int32)


def generate(folder: Path, config: CriteoLike) -> dict[str, Any]:
    """Write the files, unless they are there already; tell the config and the true AUCs.

    Args:
        folder: Gets `train`, `valid`, `test` and the stretches.
        config: What to draw.
    """
    facts_path = folder / "facts.json"
    wanted = json.loads(json.dumps(asdict(config)))
    if facts_path.is_file():
        facts: dict[str, Any] = json.loads(facts_path.read_text("utf-8"))
        if facts["config"] == wanted:
            return facts
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    truth_seed, *part_seeds = np.random.SeedSequence(config.seed).spawn(4)
    truth = Truth(config, np.random.default_rng(truth_seed))
    facts = {"config": wanted}
    sizes = {"train": config.train, "valid": config.held_out, "test": config.held_out}
    for (name, size), seed in zip(sizes.items(), part_seeds, strict=True):
        columns, logits = draw_rows(truth, size, np.random.default_rng(seed))
        facts[f"true auc, {name}"] = area_under_curve(columns[LABEL], logits)
        _write(folder, name, columns)
        if name == "train":
            for stretch, length in config.stretches:
                _write(folder, stretch, {key: held[:length] for key, held in columns.items()})
    facts_path.write_text(json.dumps(facts, indent=1), "utf-8")
    return facts


def draw_rows(
    truth: Truth, size: int, generator: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], Floats]:
    """Columns of so many rows, and their true logits ``[size]``."""
    config = truth.config
    columns: dict[str, NDArray[Any]] = {
        **{name: np.empty(size, np.int32) for name in CATEGORICAL},
        **{name: np.empty(size, np.float32) for name in (*NUMBERS, LABEL)},
    }
    all_logits = np.empty(size, np.float32)
    for start in range(0, size, CHUNK):
        length = min(CHUNK, size - start)
        ids = draw_ids(config, (len(CATEGORICAL), length), generator)
        numbers = generator.standard_normal((len(NUMBERS), length), np.float32)
        logits = truth.logits(ids, numbers)
        labels = generator.random(length, np.float32) < 1.0 / (1.0 + np.exp(-logits))
        drawn = (*ids, *numbers, labels.astype(np.float32))
        for column, values in zip(columns.values(), drawn, strict=True):
            column[start : start + length] = values
        all_logits[start : start + length] = logits
    return columns, all_logits


def _write(folder: Path, name: str, columns: dict[str, NDArray[Any]]) -> None:
    np.savez(folder / f"{name}.npz", **columns)  # type: ignore[arg-type]
    table = pa.table(columns)
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=CHUNK, compression="snappy")
