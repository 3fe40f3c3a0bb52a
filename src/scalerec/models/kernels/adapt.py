"""Adapt towers to a few examples each, task by task, so that a task's numbers stay in the cache.

Shapes: T tasks, S examples of each, N = T S, L linear layers of a tower, I inputs of the first, C
columns of the logits, D embedding, A numbers of the layers that adapt, P numbers of all layers.

A plan has a row for each layer: how many inputs and outputs it has, how many outputs those before
it have, and where its weight and bias start among the numbers of all layers and among those of the
layers that adapt, which is negative where it does not.
"""

from typing import Any

import numpy as np
from numba import njit

__all__ = ["NUM_PLANNED", "adapt_towers"]

INPUTS, OUTPUTS, BEFORE, SHARED, OWN = range(5)
NUM_PLANNED = 5
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(nogil=True, fastmath=FASTMATH)
def _forward(x: Any, weight: Any, bias: Any, out: Any, relu: Any) -> None:
    """A linear layer; examples go by fives, so that a weight is read once for all of them."""
    num, size = x.shape
    for o in range(len(weight)):
        row, shift = weight[o], bias[o]
        for s in range(0, num - 4, 5):
            x0, x1, x2, x3, x4 = x[s], x[s + 1], x[s + 2], x[s + 3], x[s + 4]
            y0 = y1 = y2 = y3 = y4 = shift
            for i in range(size):
                w = row[i]
                y0 += w * x0[i]
                y1 += w * x1[i]
                y2 += w * x2[i]
                y3 += w * x3[i]
                y4 += w * x4[i]
            out[s, o], out[s + 1, o], out[s + 2, o], out[s + 3, o] = y0, y1, y2, y3
            out[s + 4, o] = y4
        for s in range(num - num % 5, num):
            x0, y0 = x[s], shift
            for i in range(size):
                y0 += row[i] * x0[i]
            out[s, o] = y0
    if relu:
        for s in range(num):
            for o in range(len(weight)):
                out[s, o] = max(out[s, o], out.dtype.type(0))


@njit(nogil=True, fastmath=FASTMATH)
def _move(weight: Any, bias: Any, rates: Any, bias_rates: Any, grads: Any, x: Any) -> None:
    """Move a layer by the gradients at its output; an output that no example reaches stays."""
    num, size = x.shape
    for o in range(len(weight)):
        row, rate = weight[o], rates[o]
        for s in range(0, num - 4, 5):
            g0, g1, g2, g3 = grads[s, o], grads[s + 1, o], grads[s + 2, o], grads[s + 3, o]
            g4 = grads[s + 4, o]
            if g0 == 0 and g1 == 0 and g2 == 0 and g3 == 0 and g4 == 0:
                continue
            x0, x1, x2, x3, x4 = x[s], x[s + 1], x[s + 2], x[s + 3], x[s + 4]
            for i in range(size):
                total = g0 * x0[i] + g1 * x1[i] + g2 * x2[i] + g3 * x3[i] + g4 * x4[i]
                row[i] -= rate[i] * total
            bias[o] -= bias_rates[o] * (g0 + g1 + g2 + g3 + g4)
        for s in range(num - num % 5, num):
            g0, x0 = grads[s, o], x[s]
            if g0 == 0:
                continue
            for i in range(size):
                row[i] -= rate[i] * (g0 * x0[i])
            bias[o] -= bias_rates[o] * g0


@njit(nogil=True, fastmath=FASTMATH)
def _descend(grads: Any, weight: Any, first: Any, last: Any, below: Any) -> None:
    """The gradient of some of a layer's inputs, from that of its outputs, four at a time."""
    num, outputs = len(grads), len(weight)
    size = last - first
    for s in range(num):
        below[s, :] = 0
    for o in range(0, outputs - 3, 4):
        w0, w1 = weight[o, first:last], weight[o + 1, first:last]
        w2, w3 = weight[o + 2, first:last], weight[o + 3, first:last]
        for s in range(num):
            g0, g1, g2, g3 = grads[s, o], grads[s, o + 1], grads[s, o + 2], grads[s, o + 3]
            if g0 == 0 and g1 == 0 and g2 == 0 and g3 == 0:
                continue
            out = below[s]
            for i in range(size):
                out[i] += g0 * w0[i] + g1 * w1[i] + (g2 * w2[i] + g3 * w3[i])
    for o in range(outputs - outputs % 4, outputs):
        w0 = weight[o, first:last]
        for s in range(num):
            g0, out = grads[s, o], below[s]
            for i in range(size):
                out[i] += g0 * w0[i]


@njit(nogil=True)
def _layer(plan: Any, first: Any, numbers: Any) -> Any:
    """The weight ``[O, I]`` and bias ``[O]`` of a layer that starts at `first` of some numbers."""
    middle = first + plan[INPUTS] * plan[OUTPUTS]
    weight = numbers[first:middle].reshape(plan[OUTPUTS], plan[INPUTS])
    return weight, numbers[middle : middle + plan[OUTPUTS]]


@njit(nogil=True)
def _used(plan: Any, start: Any, moved: Any) -> Any:
    """The weight and bias that a task has in a layer: its own, or what all share."""
    own = plan[OWN] >= 0
    return _layer(plan, plan[OWN] if own else plan[SHARED], moved if own else start)


@njit(nogil=True)
def _outputs(plan: Any, num: Any, numbers: Any) -> Any:
    """A layer's part, ``[S, O]``, of numbers for all layers' outputs."""
    first = num * plan[BEFORE]
    return numbers[first : first + num * plan[OUTPUTS]].reshape(num, plan[OUTPUTS])


@njit(nogil=True)
def _up(plan: Any, first: Any, start: Any, moved: Any, x: Any, values: Any) -> None:
    """The outputs of all layers from `first` on."""
    num, last = len(x), len(plan) - 1
    for n in range(first, len(plan)):
        given = x if n == 0 else _outputs(plan[n - 1], num, values)
        weight, bias = _used(plan[n], start, moved)
        _forward(given, weight, bias, _outputs(plan[n], num, values), n < last)


@njit(nogil=True, fastmath=FASTMATH)
def _find_grads(
    logits: Any, base: Any, totals: Any, labels: Any, parts: Any, squared: Any, wide: Any, own: Any
) -> None:
    """Put, in the place of the tower's logits, the gradient of the task's loss by the logits."""
    linear, pairs = wide
    num, outputs = logits.shape
    for s in range(num):
        for c in range(outputs):
            logit = logits[s, c] + base[s, c]
            if len(own):
                dim = len(own) - 1
                logit += linear * own[dim]
                for d in range(dim):
                    logit += pairs[c, d] * own[d] * totals[s, d]
            if squared[c]:
                grad = 2 * (logit - labels[s, c])
            else:
                grad = 1 / (1 + np.exp(-logit)) - labels[s, c]
            logits[s, c] = parts[s, c] * grad


@njit(nogil=True)
def _down(
    plan: Any, first: Any, start: Any, moved: Any, rates: Any, x: Any, values: Any, grads: Any,
    column: Any, below_own: Any,
) -> None:  # fmt: skip
    """Move all layers from the last to `first`, each when what is below it knows its gradient."""
    num = len(x)
    for n in range(len(plan) - 1, first - 1, -1):
        grad = _outputs(plan[n], num, grads)
        given = x if n == 0 else _outputs(plan[n - 1], num, values)
        weight, bias = _used(plan[n], start, moved)
        if n > first:
            below = _outputs(plan[n - 1], num, grads)
            _descend(grad, weight, 0, plan[n, INPUTS], below)
            _stop(given, below)
        elif column >= 0:
            _descend(grad, weight, column, column + below_own.shape[1], below_own)
        if plan[n, OWN] >= 0:
            rate, bias_rate = _layer(plan[n], plan[n, OWN], rates)
            _move(weight, bias, rate, bias_rate, grad, given)


@njit(nogil=True)
def _stop(values: Any, grads: Any) -> None:
    """No gradient passes a ReLU that gave zero."""
    for s in range(len(values)):
        for i in range(values.shape[1]):
            if values[s, i] <= 0:
                grads[s, i] = 0


@njit(nogil=True, fastmath=FASTMATH)
def _move_own(own: Any, rates: Any, grads: Any, below: Any, totals: Any, wide: Any) -> None:
    """Move a task's own row, by the gradients of its part in the tower and beside it."""
    linear, pairs = wide
    dim = len(own) - 1
    for s in range(len(grads)):
        for c in range(grads.shape[1]):
            own[dim] -= rates[dim] * linear * grads[s, c]
            for d in range(dim):
                own[d] -= rates[d] * grads[s, c] * pairs[c, d] * totals[s, d]
        for d in range(dim):
            own[d] -= rates[d] * below[s, d]


@njit(nogil=True)
def _begin(plan: Any, start: Any, moved: Any) -> None:
    """Put a task's own layers where all tasks start."""
    for n in range(len(plan)):
        size = (plan[n, INPUTS] + 1) * plan[n, OUTPUTS]
        first, from_first = plan[n, OWN], plan[n, SHARED]
        if first >= 0:
            moved[first : first + size] = start[from_first : from_first + size]


@njit(nogil=True, cache=True)
def adapt_towers(
    fields: Any,
    base: Any,
    totals: Any,
    labels: Any,
    parts: Any,
    squared: Any,
    plan: Any,
    start: Any,
    rates: Any,
    linear: Any,
    pairs: Any,
    column: Any,
    own_rates: Any,
    steps: Any,
    out: Any,
    own: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """Steps of gradient descent on each task's loss, of one share of the tasks.

    A tower is linear layers with ReLU between them. To its logits is added what is beside it:
    first-order weights, and products of all pairs of fields, weighed.

    Args:
        fields: What towers read, ``[N, I]``; a task's own row is written into its columns.
        base: What is beside the towers without the tasks' own rows, ``[N, C]``.
        totals: The sum of all fields but a task's own, ``[N, D]``.
        labels: ``[N, C]``.
        parts: How much each label counts in its task's loss, ``[N, C]``; 0 where there is none.
        squared: Whether a column's loss is squared and not logistic, ``[C]`` bool.
        plan: Of the layers, ``[L, NUM_PLANNED]`` int64; see the module.
        start: Weight and bias of each layer in turn, ``[P]``.
        rates: Of the numbers of `out`, ``[A]``.
        linear: 1 if first-order weights are added, else 0.
        pairs: Weighs the products of pairs, ``[C, D]``.
        column: The first column of the tasks' own rows in `fields`; -1 if they have none.
        own_rates: Of an own row, ``[D+1]``, or ``[0]``.
        steps: How many.
        out: To be filled with the layers that adapt, ``[T, A]``.
        own: The tasks' own rows, ``[T, D+1]``, moved in place, or ``[T, 0]``.
        share: Number of this share.
        num_shares: Number of shares.
    """
    num_tasks, last, dim = len(out), len(plan) - 1, max(0, own.shape[1] - 1)
    num, wide = len(fields) // max(1, num_tasks), (linear, pairs)
    # Below the first layer whose inputs or weights move, what is computed stays.
    first = 0
    while column < 0 and first < last and plan[first, OWN] < 0:
        first += 1
    numbers = num * (plan[last, BEFORE] + plan[last, OUTPUTS])
    values, grads = np.empty(numbers, start.dtype), np.empty(numbers, start.dtype)
    below_own = np.empty((num, dim), start.dtype)
    for t in range(num_tasks * share // num_shares, num_tasks * (share + 1) // num_shares):
        at, end = t * num, (t + 1) * num
        x, moved = fields[at:end], out[t]
        _begin(plan, start, moved)
        for step in range(steps):
            if column >= 0:
                for s in range(num):
                    x[s, column : column + dim] = own[t, :dim]
            _up(plan, first if step else 0, start, moved, x, values)
            top = _outputs(plan[last], num, grads)
            top[:] = _outputs(plan[last], num, values)
            _find_grads(
                top, base[at:end], totals[at:end], labels[at:end], parts[at:end], squared, wide,
                own[t],
            )  # fmt: skip
            _down(plan, first, start, moved, rates, x, values, grads, column, below_own)
            if column >= 0:
                _move_own(own[t], own_rates, top, below_own, totals[at:end], wide)
