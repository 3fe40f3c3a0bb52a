"""Parties, their examples and where a model starts: the same files for all systems.

Two kinds of work. An MLP: every party has rows of numbers and the class that a linear teacher
gives, with noise. A recommender for one user a party: every party has items and whether its user
liked them, by vectors of users and items that are not known; the model is DeepFM over a user
vector and an item's row.

It runs in every environment, so it needs NumPy and torch alone.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["HELD", "RecommenderNet", "Work", "generate_parties", "make_net", "read_parties"]

HELD = 64
"""Rows of each party."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is trained.

    Args:
        sizes: Of the MLP's layers; empty for a recommender.
        dim: Length of the recommender's vectors.
        hidden: Of its tower.
        items: It knows.
        parties: How many there are.
        batch_size: Of a local step.
        lr: Of a local step.
        seed: Of everything.
    """

    parties: int
    sizes: tuple[int, ...] = ()
    dim: int = 16
    hidden: int = 32
    items: int = 2000
    batch_size: int = 16
    lr: float = 0.1
    seed: int = 7

    @staticmethod
    def from_job(job: dict[str, Any]) -> "Work":
        """As a job names it."""
        found = Work(**job["work"])
        return replace(found, sizes=tuple(found.sizes))


class RecommenderNet(nn.Module):
    """DeepFM of one user: the module that one writes where tables are ordinary embeddings.

    Args:
        work: Its sizes.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.items = nn.Embedding(work.items, work.dim)
        self.first = nn.Embedding(work.items, 1)
        self.user = nn.Parameter(torch.zeros(work.dim + 1))
        self.tower = nn.Sequential(
            nn.Linear(2 * work.dim, work.hidden), nn.ReLU(), nn.Linear(work.hidden, 1)
        )
        nn.init.normal_(self.items.weight, std=0.1)
        nn.init.zeros_(self.first.weight)
        nn.init.normal_(self.user[:-1].data, std=0.1)

    def forward(self, items: Tensor) -> Tensor:
        """Logits ``[B]`` of item numbers ``[B]``."""
        item, user = self.items(items), self.user[:-1]
        both = torch.cat([user.expand(len(items), -1), item], 1)
        linear = self.first(items)[:, 0] + self.user[-1]
        return linear + item @ user + self.tower(both)[:, 0]  # type: ignore[no-any-return]


def make_net(work: Work) -> nn.Module:
    """The model as an ordinary module, freshly drawn from torch's own generator."""
    if not work.sizes:
        return RecommenderNet(work)
    layers: list[nn.Module] = []
    for inner, outer in pairwise(work.sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def generate_parties(folder: Path, work: Work) -> None:
    """Write `inputs.npy`, `labels.npy` and `start.pt`, unless they are there already.

    Args:
        folder: Gets them.
        work: What is trained.
    """
    facts, wanted = folder / "facts.json", json.loads(json.dumps(asdict(work)))
    if facts.is_file() and json.loads(facts.read_text("utf-8")) == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(work.seed)
    draw = _draw_numbers if work.sizes else _draw_items
    inputs, labels = draw(work, generator)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "labels.npy", labels)
    torch.manual_seed(work.seed)
    start = make_net(work).state_dict()
    np.savez(folder / "start.npz", **{name: tensor.numpy() for name, tensor in start.items()})
    facts.write_text(json.dumps(wanted), "utf-8")


def read_parties(folder: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Inputs ``[n, ...]`` and labels ``[n]``, party after party, and the model's start."""
    inputs, labels = (torch.from_numpy(np.load(f"{folder}/{n}.npy")) for n in ("inputs", "labels"))
    with np.load(f"{folder}/start.npz") as file:
        start = {name: torch.from_numpy(file[name]) for name in file.files}
    return inputs, labels, start


def _draw_numbers(
    work: Work, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    num = work.parties * HELD
    inputs = generator.standard_normal((num, work.sizes[0]), np.float32)
    teacher = generator.standard_normal((work.sizes[0], work.sizes[-1]), np.float32)
    scores = inputs @ teacher / np.float32(work.sizes[0] ** 0.5)
    scores += np.float32(0.5) * generator.standard_normal(scores.shape, np.float32)
    return inputs, scores.argmax(1)


def _draw_items(
    work: Work, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    num, rank = work.parties * HELD, 4
    # Squares of uniform numbers: the first items are met far more often than the last.
    items = (work.items * generator.random(num) ** 2).astype(np.int64)
    users = generator.standard_normal((work.parties, rank), np.float32)
    tastes = generator.standard_normal((work.items, rank + 1), np.float32)
    owners = np.repeat(np.arange(work.parties), HELD)
    logits = (users[owners] * tastes[items, :rank]).sum(1) / 2 + tastes[items, rank]
    chance = 1.0 / (1.0 + np.exp(-logits))
    return items, (generator.random(num) < chance).astype(np.float32)
