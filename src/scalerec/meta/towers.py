"""Adapting by one compiled kernel, for nets that are a tower beside first-order weights and pairs.

Most of what a few steps on a few examples cost is to call thousands of small operations, and to
write what each leaves for the next. Here a task takes all its steps in one call, and its numbers
stay in the processor's cache.

Shapes: T tasks, S examples of each, E = T S, C columns of the logits, D embedding, W = D + 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalerec.data.schema import TaskKind
from scalerec.meta.parts import OWN
from scalerec.meta.personal import Examples, Fast, Pass, PersonalModel, Shared
from scalerec.models.interactions import pair_interaction
from scalerec.models.kernels.adapt import NUM_PLANNED, adapt_towers
from scalerec.models.kernels.adapt import OWN as OWN_PLACE
from scalerec.models.kernels.threads import run_shares
from scalerec.models.split import Split, SplitNet

__all__ = ["Towers", "towers_of"]

KINDS = (TaskKind.BINARY, TaskKind.REGRESSION)


@dataclass(frozen=True, slots=True)
class Towers:
    """A model whose tasks adapt by the kernel.

    Args:
        model: The model.
        layers: The names of weight and bias of each linear layer, from the first one on.
        plan: Of the layers, as the kernel has it; one adapts whole, by rates of 0 where a part of
            it does not.
        rates: Of the numbers of the layers that adapt, flat.
        own_rates: Of a task's own row, ``[W]``; none where it has none.
        linear: Whether first-order weights are added.
        pairs: Weighs the products of pairs, ``[C, D]``.
        squared: Whether a column's loss is squared, ``[C]``.
    """

    model: PersonalModel
    layers: tuple[tuple[str, str], ...]
    plan: NDArray[np.int64]
    rates: Tensor
    own_rates: Tensor
    linear: bool
    pairs: Tensor
    squared: NDArray[np.bool_]

    @torch.no_grad()
    def adapt(self, shared: Shared, support: Examples, steps: int, prior: float = 0.0) -> Fast:
        """As `scalerec.meta.adapting.adapt`, in the first order; the result has no history.

        Args:
            shared: Where tasks start.
            support: What each adapts on.
            steps: At least 0.
            prior: Examples that the start is worth.
        """
        model, num = self.model, support.num_tasks
        seen = Pass(model, shared, support, remember=False).others()
        base = float(self.linear) * seen.linear.unsqueeze(1)
        base = base + pair_interaction(seen.fields) @ self.pairs.T
        parts = model.label_parts(support.batch, num, prior).to(base)
        labels = support.batch.labels.to(base)
        examples = seen.fields.flatten(1), base, seen.fields.sum(1), labels, parts
        start = torch.cat([shared.dense[name].flatten() for pair in self.layers for name in pair])
        field, own = model.parts.field, base.new_empty(num, 0)
        column = -1 if field is None else field * seen.fields.shape[2]
        if (rows := model.own_rows(support)) is not None:
            own = shared.rows.index_select(0, rows)
        moved = base.new_empty(num, len(self.rates))
        run_shares(
            adapt_towers,
            *(tensor.contiguous().numpy() for tensor in examples),
            self.squared,
            self.plan,
            start.numpy(),
            self.rates.numpy(),
            int(self.linear),
            self.pairs.numpy(),
            column,
            self.own_rates.numpy(),
            steps,
            moved.numpy(),
            own.numpy(),
            most=num,
        )
        return Fast(num, self._named(shared, moved, own))

    def _named(self, shared: Shared, moved: Tensor, own: Tensor) -> dict[str, Tensor]:
        """What adapted by its name; views of what the kernel filled."""
        views: dict[str, Tensor] = {}
        for place, pair in zip(self.plan[:, OWN_PLACE].tolist(), self.layers, strict=True):
            first = place
            for name in pair if place >= 0 else ():
                shape = shared.dense[name].shape
                last = first + shape.numel()
                views[name] = moved[:, first:last].view(len(moved), *shape)
                first = last
        tensors = {name: views[name] for name in self.model.parts.names}
        return {**tensors, OWN: own} if own.shape[1] else tensors


def towers_of(model: PersonalModel, shared: Shared, rates: Mapping[str, Tensor]) -> Towers | None:
    """The model for the kernel, or None where it is no tower, or other parts of it adapt.

    Args:
        model: The model.
        shared: Where tasks start.
        rates: Of each adapted parameter: one number, or one for each of its numbers.
    """
    layout, net = model.layout, model.head.net
    if not all(task.kind in KINDS for task in layout.tasks) or not _fits(shared):
        return None
    split = net.split() if isinstance(net, SplitNet) else None
    names = {id(parameter): name for name, parameter in model.recommender.named_parameters()}
    layers = None if split is None else _layers(net, split, names)
    if split is None or layers is None:
        return None
    known = {name for pair in layers for name in pair}
    if not set(model.parts.names) <= known:
        return None
    plan, flat = _plan(layers, shared, rates)
    width = shared.rows.shape[1]
    nothing = shared.rows.new_zeros(0)
    own_rates = nothing if OWN not in rates else rates[OWN].to(nothing).expand(width).contiguous()
    pairs = nothing.new_zeros(layout.num_outputs, width - 1)
    return Towers(
        model, layers, plan, flat, own_rates, split.linear,
        pairs if split.pairs is None else split.pairs.to(pairs).expand_as(pairs).contiguous(),
        np.array([task.kind is TaskKind.REGRESSION for task in layout.tasks]),
    )  # fmt: skip


def _plan(
    layers: tuple[tuple[str, str], ...], shared: Shared, rates: Mapping[str, Tensor]
) -> tuple[NDArray[np.int64], Tensor]:
    """The kernel's plan of the layers, and the rates of those that adapt, flat."""
    plan, flat = np.zeros((len(layers), NUM_PLANNED), np.int64), [shared.rows.new_zeros(0)]
    before = place = own_place = 0
    for row, pair in zip(plan, layers, strict=True):
        (outputs, inputs), size = shared.dense[pair[0]].shape, 0
        adapts = any(name in rates for name in pair)
        row[:] = inputs, outputs, before, place, own_place if adapts else -1
        for name in pair:
            own = shared.dense[name]
            size += own.numel()
            if adapts:
                rate = rates.get(name, torch.zeros(())).to(own)
                flat.append(rate.expand(own.shape).flatten())
        before, place, own_place = before + outputs, place + size, own_place + adapts * size
    return plan, torch.cat(flat)


def _fits(shared: Shared) -> bool:
    """Whether the kernel reads such numbers."""
    tensors = [shared.rows, *shared.dense.values()]
    types = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    return types in ({("cpu", torch.float32)}, {("cpu", torch.float64)})


def _layers(
    net: nn.Module, split: Split, names: Mapping[int, str]
) -> tuple[tuple[str, str], ...] | None:
    """The names of a tower's weights and biases, or None if the net is anything else."""
    if split.totals is not None or split.constant is not None or id(split.pairs) in names:
        return None
    if not isinstance(split.upper, nn.Sequential):
        return None
    tensors = [(split.weight, split.bias)]
    after = list(split.upper)
    for relu, linear in zip(after[::2], after[1::2], strict=False):
        if type(relu) is not nn.ReLU or type(linear) is not nn.Linear:
            return None
        tensors.append((linear.weight, linear.bias))
    pairs = tuple((names.get(id(weight), ""), names.get(id(bias), "")) for weight, bias in tensors)
    if len(after) % 2 or not all(name for pair in pairs for name in pair):
        return None
    # Whatever else the net has would be left out.
    num = sum(1 for _ in net.parameters())
    return pairs if num == 2 * len(pairs) else None
