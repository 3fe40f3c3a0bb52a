"""Local training one party at a time: plain loops that the batched way must equal."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.federated.draws import shuffled
from scalerec.federated.local import Cohort, Local, LocalConfig, Pull
from scalerec.federated.models import PartyModel

__all__ = ["train_alone"]

Tensors = Mapping[str, Tensor]
ROWS = "rows of tables"


def train_alone(
    cohort: Cohort,
    dense: Tensors,
    rows_kw: Tensor,
    config: LocalConfig,
    key: tuple[int, ...],
    pull: Pull | None = None,
) -> Local:
    """Train the parties of a cohort one after the other; takes and gives as `train_cohort`."""
    found = []
    for number in range(len(cohort)):
        rows = slice(int(cohort.offsets[number]), int(cohort.offsets[number + 1]))
        start = {name: t[number if len(t) > 1 else 0] for name, t in dense.items()}
        own = pull.part(number, number + 1, rows) if pull else Pull()
        one = _One(cohort.model, config, own, {**start, ROWS: rows_kw[rows]}, cohort.still[rows])
        party, size = int(cohort.parties[number]), int(cohort.sizes[number])
        first = int(cohort.starts[number])
        one.train(cohort.order[first : first + size], party, key)
        found.append(one)
    return Local(
        {name: torch.stack([one.here[name] for one in found]) for name in dense},
        torch.cat([one.here[ROWS] for one in found]),
        torch.tensor([sum(one.losses) / max(1, len(one.losses)) for one in found]),
        torch.tensor([one.steps for one in found]),
    )


@dataclass(slots=True)
class _One:
    """One party while it trains; its rows stand among its parameters."""

    model: PartyModel
    config: LocalConfig
    pull: Pull
    start: dict[str, Tensor]
    still: Tensor
    here: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    steps: int = 0

    def train(self, examples: NDArray[np.int64], party: int, key: tuple[int, ...]) -> None:
        """Go through the party's examples, batch by batch."""
        self.here = dict(self.start)
        size = self.config.batch_size or len(examples)
        for epoch in range(self.config.epochs):
            order = shuffled((*key, epoch), np.array([party]), np.array([len(examples)]))[0]
            for first in range(0, len(examples), size):
                loss = self._step(torch.from_numpy(examples[order[first : first + size]]))
                if epoch == 0:
                    self.losses.append(loss)

    def _step(self, examples: Tensor) -> float:
        nowhere = torch.zeros(len(examples), dtype=torch.int64)
        batch = self.model.take(examples, nowhere, torch.ones(len(examples), dtype=torch.bool))
        leaves = {name: t.detach().requires_grad_() for name, t in self.here.items()}
        dense = {name: leaf for name, leaf in leaves.items() if name != ROWS}
        loss = self.model.loss_of_one(dense, leaves[ROWS], batch)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        grads = {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(leaves.items(), found, strict=True)
        }
        self._move(self._changed(grads))
        self.steps += 1
        return float(loss.detach())

    def _changed(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients with the pull, L2 and the bound of their norm."""
        out = {}
        for name, grad in grads.items():
            anchor = self._of(self.pull.anchors, self.pull.anchor_rows, name)
            anchor = self.start[name] if anchor is None else anchor
            shift = self._of(self.pull.shift, self.pull.shift_rows, name)
            out[name] = grad + self.pull.strength * (self.here[name] - anchor)
            out[name] = out[name] + self.config.l2 * self.here[name]
            if shift is not None:
                out[name] = out[name] + shift
        out[ROWS] = out[ROWS] * ~self.still[:, None]
        if self.config.max_norm:
            norm = torch.stack([grad.square().sum() for grad in out.values()]).sum().sqrt()
            factor = self.config.max_norm / norm.clamp(min=self.config.max_norm)
            out = {name: grad * factor for name, grad in out.items()}
        return out

    @staticmethod
    def _of(dense: Tensors | None, rows: Tensor | None, name: str) -> Tensor | None:
        if name == ROWS:
            return rows
        return None if dense is None else dense[name][0]

    def _move(self, grads: dict[str, Tensor]) -> None:
        for name, grad in grads.items():
            step = grad
            if self.config.momentum:
                before = self.moments.get(name, torch.zeros_like(grad))
                step = self.moments[name] = self.config.momentum * before + grad
            rate = self.config.rows_lr if name == ROWS else self.config.lr
            self.here[name] = self.here[name] - rate * step
