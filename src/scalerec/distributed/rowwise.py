"""Row optimisers that look at a whole row, where each process keeps some of its columns."""

from dataclasses import dataclass

from torch import Tensor

from scalerec.distributed.group import Group
from scalerec.models.engines import RowOptimiser
from scalerec.optim import RowwiseAdagrad

__all__ = ["spread_optimiser"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadRowwiseAdagrad(RowwiseAdagrad):
    """Row-wise Adagrad on some columns: the squares of all of them are added up.

    Every process must step the same rows in the same order, as `ColumnKeeper` has it.

    Args:
        group: The processes, each with other columns.
        width: W, the columns of all.
    """

    group: Group | None = None
    width: int = 0

    def mean_square(self, grad_kw: Tensor) -> Tensor:
        """The mean over all columns of a row, ``[K, 1]``."""
        assert self.group is not None, "made by `spread_optimiser`"
        own = grad_kw.square().sum(dim=-1, keepdim=True)
        return self.group.sum(own, "squares of gradients") / self.width


def spread_optimiser(optimiser: RowOptimiser, group: Group, width: int) -> RowOptimiser:
    """The optimiser as it moves some columns of rows: itself unless it looks at whole rows.

    Args:
        optimiser: Of whole rows.
        group: The processes, each with other columns.
        width: W, the columns of all.
    """
    if not isinstance(optimiser, RowwiseAdagrad):
        return optimiser
    eps, l2, l2_missed = optimiser.eps, optimiser.l2, optimiser.l2_missed
    return SpreadRowwiseAdagrad(eps=eps, l2=l2, l2_missed=l2_missed, group=group, width=width)
