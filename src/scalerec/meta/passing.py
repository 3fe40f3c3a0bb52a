"""Nets under the parameters of many tasks at once, of which only some differ between tasks.

Like `scalerec.train.cohort.stacked`, with two savings. What a net computes before it meets the
first adapted parameter is the same at every step of adapting, so it is computed at the first and
remembered (`Memo`). And a linear layer that moved by plain gradient steps need not be written down:
each example moved it by an outer product of its input and of the gradient at its output, so its
output is the shared layer's plus a few small products (`Products`). Both give what the plain way
gives; only sums are in another order.

Shapes: T tasks, S examples of each, E = T S, I inputs, O outputs, R examples that moved a layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from scalerec.train.cohort.products import LinearMode

__all__ = ["Memo", "Products", "Read", "Running"]


@dataclass(frozen=True, slots=True)
class Products:
    """How far the linear layers of many tasks have moved.

    The weight of a layer moved by the sum over R examples of ``moves^T inputs``.

    Args:
        inputs: What the layer read, ``[T, R, I]``.
        moves: Minus the rate times the gradients at its output, ``[T, R, O]``.
        bias: How far its bias moved, ``[T, 1, O]``; None where it did not.
    """

    inputs: Tensor
    moves: Tensor
    bias: Tensor | None

    def take(self, tasks: Tensor) -> "Products":
        """The moves of some tasks, by their places or a mask."""
        bias = None if self.bias is None else self.bias[tasks]
        return Products(self.inputs[tasks], self.moves[tasks], bias)

    def weight(self) -> Tensor:
        """How far the weight of each task moved, ``[T, O, I]``."""
        return self.moves.mT @ self.inputs

    def mean_weight(self) -> Tensor:
        """The mean of that over tasks, ``[O, I]``; no task's own is written."""
        return self.moves.flatten(0, 1).T @ self.inputs.flatten(0, 1) / len(self.inputs)

    def apply(self, x_tsi: Tensor) -> Tensor:
        """What the moves add to the layer's output, ``[T, S, O]``."""
        out = (x_tsi @ self.inputs.mT) @ self.moves
        return out if self.bias is None else out + self.bias


@dataclass(frozen=True, slots=True)
class Read:
    """One linear layer met on the way: its input ``[T, S, I]`` and its output ``[T, S, O]``."""

    name: str
    inputs: Tensor
    output: Tensor


@dataclass(slots=True)
class Memo:
    """What a net computed, call by call, as long as no adapted parameter had a part in it.

    It belongs to one net, one batch and one set of shared parameters.
    """

    results: list[Any] = field(default_factory=list)


class Running(LinearMode):
    """Runs a net whose adapted linear layers are computed for all tasks.

    Args:
        own: Adapted parameters outside `linear`, as the net is called with: tensors that no memo
            may take for shared.
        linear: Weights of linear layers by name, as the net is called with: ``[T, O, I]``, or the
            shared one where the layer moves by products.
        products: How far layers have moved, by the weight's name.
        num_tasks: T.
        memo: Remembers what does not depend on tasks; None to compute everything.
        reads: Is told of every layer that moves by products; None if nobody asks.
    """

    def __init__(
        self,
        own: list[Tensor],
        linear: Mapping[str, Tensor],
        products: Mapping[str, Products | None],
        num_tasks: int,
        memo: Memo | None,
        reads: list[Read] | None,
    ) -> None:
        super().__init__(linear.items(), num_tasks)
        self._products, self._memo, self._reads = products, memo, reads
        # Whoever reads these otherwise would not see that they moved.
        self._bare = {id(weight) for name, weight in linear.items() if name in products}
        # Tensors that differ between tasks; kept, so that no other object gets the place of one.
        self._kept = list(own)
        self._own = {id(tensor) for tensor in own} | set(self.names)
        self._calls = 0

    def after(self, out: Tensor) -> Tensor:
        """What an adapted layer gives differs between tasks."""
        self._mark(out)
        return out

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one call, or give what it gave before."""
        given = (*args, *kwargs.values())
        if any(id(value) in self._bare for value in given):
            raise RuntimeError("a layer that moves by products is read otherwise too")
        if self._depends(given):
            return self._mark(func(*args, **kwargs))
        return self._remember(lambda: func(*args, **kwargs))

    def _remember(self, compute: Callable[[], Any]) -> Any:
        memo, call = self._memo, self._calls
        if memo is None:
            return compute()
        self._calls += 1
        if call == len(memo.results):
            memo.results.append(compute())
        return memo.results[call]

    def _depends(self, values: tuple[Any, ...] | list[Any]) -> bool:
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self._own:
                    return True
            elif isinstance(value, (tuple, list)) and self._depends(value):
                return True
        return False

    def _mark(self, out: Any) -> Any:
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self._own.add(id(value))
                self._kept.append(value)
        return out

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What an adapted layer gives, ``[T, S, O]``; its input is remembered if it was shared."""
        if name not in self._products:
            return super().product(name, x, weight, bias)
        x_tsi, shared = self.parted(x), id(x) not in self._own

        def base() -> Tensor:
            return nn.functional.linear(x_tsi, weight, bias)

        out = self._remember(base) if shared else base()
        moved = self._products[name]
        if moved is not None:
            out = out + moved.apply(x_tsi)
        if self._reads is not None:
            if not out.requires_grad:
                out = out.detach().requires_grad_()
            self._reads.append(Read(name, x_tsi, out))
        return out
