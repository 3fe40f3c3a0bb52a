"""What a step of local training follows: plain gradients, or those that a method puts instead.

Shapes: P parties, K rows of all of them, W a row's width.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from scalerec.federated.batches import Step
from scalerec.train.cohort.moves import Moves

__all__ = ["Gradients", "PlainGradients", "filled"]

Tensors = Mapping[str, Tensor]
Found = tuple[Tensor, Sequence[Tensor | None]]
ROWS = "rows of tables"


class Gradients(Protocol):
    """Gives the gradients of a step, twice: for a cohort at once, and for one party, plainly.

    Both give each party's loss, ``[P]``, without a graph; and a gradient for each dense parameter
    in their order, then for the rows if there are any. The tensors are the caller's to change. That
    of the rows may be sparse, with a row more than once; None stands for what is moved already.
    """

    def of_cohort(self, step: Step, dense: Tensors, rows_kw: Tensor) -> Found:
        """Of all parties that take a step.

        Args:
            step: Their examples.
            dense: Their parameters, ``[P, ...]``.
            rows_kw: Their rows.
        """
        ...

    def of_one(self, step: Step, dense: Tensors, rows_kw: Tensor) -> Found:
        """Of one party, without batching over parties: the reference.

        Args:
            step: Its examples; it is the only party.
            dense: Its parameters.
            rows_kw: Its rows.
        """
        ...


class PlainGradients:
    """Those of the mean loss over a step's examples.

    Args:
        lr: Whoever asks will move dense parameters so many times their gradients and nothing else:
            weights of linear layers are moved at once, and have None for their gradient; that of
            the rows is sparse. None to move nothing.
    """

    def __init__(self, lr: float | None = None) -> None:
        self.lr = lr

    def of_cohort(self, step: Step, dense: Tensors, rows_kw: Tensor) -> Found:
        """Of all parties that take a step; see `Gradients`."""
        leaves = {name: t.detach().requires_grad_() for name, t in dense.items()}
        rows = rows_kw.detach().requires_grad_()
        moves = None if self.lr is None else Moves(self.lr)
        losses = step.cohort.model.losses(leaves, rows, step.take(), step.active, moves=moves)
        wanted = {**leaves, ROWS: rows} if len(rows) else leaves
        found = torch.autograd.grad(losses.sum(), list(wanted.values()), allow_unused=True)
        done = moves.done if moves else frozenset()
        return losses.detach(), [
            torch.zeros_like(tensor) if grad is None and name not in done else grad
            for (name, tensor), grad in zip(wanted.items(), found, strict=True)
        ]

    def of_one(self, step: Step, dense: Tensors, rows_kw: Tensor) -> Found:
        """Of one party; see `Gradients`."""
        leaves = {name: t.detach().requires_grad_() for name, t in dense.items()}
        rows = rows_kw.detach().requires_grad_()
        loss = step.cohort.model.loss_of_one(leaves, rows, step.take())
        wanted = [*leaves.values(), rows] if len(rows) else list(leaves.values())
        return loss.detach()[None], filled(loss, wanted)


def filled(loss: Tensor, wanted: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """The gradients of a loss; zeros where it does not depend on a tensor.

    A parameter may have no numbers, or none that a batch's losses depend on.

    Args:
        loss: Without dimensions.
        wanted: With respect to which tensors.
        create_graph: Whether the gradients can be differentiated again.
    """
    found = torch.autograd.grad(loss, wanted, allow_unused=True, create_graph=create_graph)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)]
