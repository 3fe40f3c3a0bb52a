"""What of a model a run moves; all else stays as it is, to the last bit.

Shapes: R rows of all tables, W columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.models.adapters import LowRankShifts
from scalerec.models.engines import DenseEngine
from scalerec.models.recommender import Recommender

__all__ = ["Mover", "Moving"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moving:
    """What a run moves.

    Running means of a normalisation follow its weight: where that stays, so do they, and are used.

    Args:
        whole: Parameters outside the tables that move as they are.
        factored: Weights that move by two factors; see `scalerec.models.adapters`.
        rank: Of the factors.
        scale: Of their product.
        parts: Parameters of which some numbers move: name to a mask of the parameter's shape. They
            are neither in `whole` nor in `factored`.
        rows: Which rows of the tables' matrix move, ``[R]`` bool; None for all.
    """

    whole: tuple[str, ...] = ()
    factored: tuple[str, ...] = ()
    rank: int = 1
    scale: float = 1.0
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """It as JSON, for checkpoints and lineages; masks by how many numbers or rows move."""
        return {
            "whole": list(self.whole),
            "factored": {name: [self.rank, self.scale] for name in self.factored},
            "parts": {name: int(mask.sum()) for name, mask in self.parts.items()},
            "rows": None if self.rows is None else int(self.rows.sum()),
        }


class Mover:
    """Lets a learner move parts of a recommender.

    A step goes so: `begin`, a backward pass, `pull`, the optimisers, `settle`.

    Args:
        recommender: Its tables are in the engine in which they are trained.
        moving: What moves; None for everything.
        seed: Of the factors.
        world: Number of processes; several move everything.

    Attributes:
        dense: What an optimiser of the dense part moves.
        moves_rows: Whether any row of the tables moves.

    Raises:
        ConfigError: If a name is unknown or named twice, a mask has another shape, or nothing
            moves.
    """

    def __init__(
        self, recommender: Recommender, moving: Moving | None, seed: int, world: int
    ) -> None:
        alone = moving is None or world == 1
        require(alone, f"parts of a model are trained in one process; got {world}")
        self.recommender = recommender
        known = recommender.dense_parameters()
        self.moving = moving or Moving(whole=tuple(known))
        own = self.moving
        # Of several processes none has the whole matrix.
        _check(own, known, 0 if own.rows is None else len(recommender.tables.matrix))
        weights = {name: known[name] for name in own.factored}
        generator = torch.Generator().manual_seed(seed)
        self.shifts = LowRankShifts(weights, own.rank, own.scale, generator)
        moved = [known[name] for name in known if name in own.whole or name in own.parts]
        self.dense: list[nn.Parameter] = [*moved, *self.shifts.parameters()]
        masked = [(known[name], mask.to(known[name].device)) for name, mask in own.parts.items()]
        self._still = [p for name, p in known.items() if name not in {*own.whole, *own.parts}]
        self.moves_rows = own.rows is None or bool(own.rows.any())
        self._rows = None if own.rows is None else own.rows.to(recommender.tables.matrix.device)
        engine = recommender.tables.engine
        self._is_dense = isinstance(engine, DenseEngine)
        if isinstance(engine, DenseEngine) and self._rows is not None:
            masked.append((engine.weight, self._rows.unsqueeze(1)))
        self._masked = [(tensor, mask, tensor.detach().clone()) for tensor, mask in masked]
        self._norms = [
            part
            for name, part in recommender.named_modules()
            if isinstance(part, nn.BatchNorm1d) and f"{name}.weight" not in own.whole
        ]
        self._kept: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def begin(self, batch: Batch) -> None:
        """Note what a fused engine will move and is not to.

        Args:
            batch: What the step learns from.
        """
        for norm in self._norms:
            norm.eval()
        if self._rows is None or self._is_dense:
            return
        tables = self.recommender.tables
        read = tables.rows_of(batch).unique()
        still = read[~self._rows[read]]
        self._kept = still, tables.matrix[still]

    @torch.no_grad()
    def pull(self) -> None:
        """Leave no gradient but of what moves."""
        with torch.enable_grad():
            self.shifts.pull()
        for tensor, mask, _ in self._masked:
            if tensor.grad is not None:
                tensor.grad.mul_(mask)
        for parameter in self._still:
            parameter.grad = None

    @torch.no_grad()
    def settle(self) -> None:
        """Put what moved where it belongs, and all else back."""
        self.shifts.put()
        for tensor, mask, start in self._masked:
            tensor.copy_(torch.where(mask, tensor, start))
        if self._kept is not None:
            rows, values = self._kept
            self.recommender.tables.matrix[rows] = values
            self._kept = None


def _check(moving: Moving, known: Mapping[str, nn.Parameter], num_rows: int) -> None:
    names = [*moving.whole, *moving.factored, *moving.parts]
    odd = sorted(set(names) - set(known))
    require(not odd, f"moving: the model has no parameters {', '.join(odd)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"moving: named twice: {', '.join(twice)}")
    for name, mask in moving.parts.items():
        shape = list(known[name].shape)
        fits = list(mask.shape) == shape
        require(fits, f"moving: the mask of {name} must be {shape}; got {list(mask.shape)}")
    rows = moving.rows
    if rows is not None:
        fits = tuple(rows.shape) == (num_rows,)
        require(fits, f"moving: rows must be [{num_rows}]; got {list(rows.shape)}")
    some = bool(names) or rows is None or bool(rows.any())
    require(some, "moving: nothing moves")
