"""Sum the gradients of equal rows, and move each touched row once, in one pass.

Every thread owns a share of the rows, by a hash of their number, and reads all positions: so no two
threads write to one row, shares are even, and a row's gradients are summed in the order of their
positions however many threads there are.

Shapes: as in `scalerec.models.kernels.assemble`; P positions of one stretch, U distinct rows.
"""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import load, mix, prefetch, prefetch_at, store_rounded

__all__ = ["KINDS", "NUM_SETTINGS", "move_fields", "move_rows", "sum_numbers", "sum_others"]

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
# What is done with a row and its summed gradient; `gradient` adds it to another matrix.
KINDS = {"gradient": 0, "sgd": 1, "rowwise_adagrad": 2, "adagrad": 3, "lazy_adam": 4}
GRADIENT, SGD, ROWWISE, ADAGRAD, ADAM = range(5)
# Places of the settings of a step.
LR, EPS, L2, BETA1, BETA2, CORRECTION1, CORRECTION2, STEP, L2_MISSED, DECAY_MISSED, SEED = range(11)
NUM_SETTINGS = 11


# How many positions ahead the memory is asked for.
AHEAD = 12


@njit(inline="always")
def _owner(bits: Any, num_shares: Any) -> Any:
    """The thread that owns a row, by the well-spread bits of its number."""
    return np.int64(((bits & np.uint64(0xFFFF)) * np.uint64(num_shares)) >> np.uint64(16))


@njit(inline="always")
def _place_of(heads: Any, found: Any, sums: Any, num_found: Any, row: Any, bits: Any) -> Any:
    """The place of a row's sum among those found, made anew if needed, and how many there are."""
    last = len(heads) - 1
    at = np.int64(bits >> np.uint64(20)) & last
    while True:
        place = np.int64(heads[at])
        if place < 0:
            heads[at] = num_found
            found[num_found] = row
            sums[num_found, :] = 0.0
            return num_found, num_found + 1
        if found[place] == row:
            return place, num_found
        at = (at + 1) & last


@njit(inline="always")
def _step_row(
    kind: Any, settings: Any, matrix: Any, state: Any, last: Any, row: Any, grad: Any, noise: Any
) -> None:
    """Move one row by its summed gradient; see `scalerec.optim.rows` for the formulas."""
    width = len(grad)
    one = np.float32(1.0)
    lr, eps = settings[LR], settings[EPS]
    missed = np.float32(0.0)
    if len(last) > 0:
        missed = settings[STEP] - one - last[row, 0]
        last[row, 0] = settings[STEP]
    if settings[L2] > 0:
        strength = settings[L2]
        if settings[L2_MISSED] > 0:
            strength *= one + missed
        for w in range(width):
            grad[w] += strength * load(matrix, row, w)
    if kind == ROWWISE:
        total = np.float32(0.0)
        for w in range(width):
            total += grad[w] * grad[w]
        total = state[row, 0] + total / np.float32(width)
        state[row, 0] = total
        scale = lr / (np.sqrt(total) + eps)
        for w in range(width):
            grad[w] = scale * grad[w]
    elif kind == ADAGRAD:
        for w in range(width):
            total = state[row, w] + grad[w] * grad[w]
            state[row, w] = total
            grad[w] = lr * grad[w] / (np.sqrt(total) + eps)
    elif kind == ADAM:
        beta1, beta2 = settings[BETA1], settings[BETA2]
        decay1, decay2 = beta1, beta2
        if settings[DECAY_MISSED] > 0:
            decay1, decay2 = beta1 * beta1**missed, beta2 * beta2**missed
        for w in range(width):
            mean = decay1 * state[row, w] + (one - beta1) * grad[w]
            square = decay2 * state[row, width + w] + (one - beta2) * grad[w] * grad[w]
            state[row, w] = mean
            state[row, width + w] = square
            root = np.sqrt(square * settings[CORRECTION2])
            grad[w] = lr * (mean * settings[CORRECTION1]) / (root + eps)
    else:
        for w in range(width):
            grad[w] = lr * grad[w]
    bits = mix(np.uint64(row) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(noise))
    for w in range(width):
        own = np.uint32((bits >> np.uint64(17)) * np.uint64(2 * w + 1) >> np.uint64(5))
        store_rounded(matrix, row, w, load(matrix, row, w) - grad[w], own)


@njit(inline="always")
def _finish(
    kind: Any,
    settings: Any,
    matrix: Any,
    state: Any,
    last: Any,
    found: Any,
    sums: Any,
    num_found: Any,
    padding: Any,
    noise: Any,
) -> None:
    for u in range(num_found):
        if u + AHEAD < num_found:
            prefetch(matrix, found[u + AHEAD])
            if len(state) > 0:
                prefetch(state, found[u + AHEAD])
        row = found[u]
        if row == padding:
            continue
        if kind == GRADIENT:
            for w in range(sums.shape[1]):
                state[row, w] += sums[u, w]
        else:
            _step_row(kind, settings, matrix, state, last, row, sums[u], noise)


@njit(inline="always")
def _scratch(most: Any, width: int) -> Any:
    """Room to group `most` positions: heads of a hash table, rows found, their sums."""
    size = 16
    while size < 2 * most:
        size *= 2
    found = np.empty(most, np.int64)
    return np.empty(size, np.int32), found, np.empty((most, width), np.float32)


@njit(inline="always")
def _heads_for(heads: Any, most: Any) -> Any:
    """The part of a hash table that is needed for `most` positions, emptied."""
    size = 16
    while size < 2 * most:
        size *= 2
    own = heads[:size]
    own[:] = -1
    return own


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def move_rows(
    rows: Any,
    grads: Any,
    segments: Any,
    padding: Any,
    kind: Any,
    settings: Any,
    matrix: Any,
    state: Any,
    last: Any,
    noise: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """Move the touched rows by the gradients of all places that looked them up.

    Args:
        rows: Rows of the matrix, ``[K]`` int64.
        grads: The gradient of each, ``[K, W]``, float32 or bfloat16 as uint16.
        segments: Stretches of `rows`, ``[S, 3]`` int64: number of the table, first, last + 1;
            those of one table follow each other, and no two tables share rows.
        padding: The padding row of each table, ``[T]`` int64; it is not moved.
        kind: One of `KINDS`.
        settings: Of this step, ``[NUM_SETTINGS]`` float32.
        matrix: ``[R, W]``, float32 or float16 as int16; moved in place.
        state: The optimiser's, ``[R, columns]`` float32; the gradient, for kind `gradient`.
        last: Step at which a row was last touched, ``[R, 1]`` float32, or no rows.
        noise: Random bits of this step, for rounding by chance.
        share: Number of this thread.
        num_shares: Number of threads.
    """
    width = matrix.shape[1]
    heads_all, found, sums = _scratch(_largest(segments), width)
    s = 0
    while s < len(segments):
        table = segments[s, 0]
        end, most = _table_end(segments, s)
        heads = _heads_for(heads_all, most)
        num_found = 0
        while s < end:
            for k in range(segments[s, 1], segments[s, 2]):
                row = rows[k]
                bits = mix(row)
                if _owner(bits, num_shares) != share:
                    continue
                place, num_found = _place_of(heads, found, sums, num_found, row, bits)
                for w in range(width):
                    sums[place, w] += load(grads, k, w)
            s += 1
        _finish(kind, settings, matrix, state, last, found, sums, num_found, padding[table], noise)


@njit(inline="always")
def _table_end(segments: Any, first: Any) -> Any:
    """The first stretch of the next table, and the positions of this one."""
    end, most = first, 0
    while end < len(segments) and segments[end, 0] == segments[first, 0]:
        most += segments[end, 2] - segments[end, 1]
        end += 1
    return end, most


@njit(inline="always")
def _largest(segments: Any) -> Any:
    """The most positions of one table."""
    largest, s = 1, 0
    while s < len(segments):
        s, most = _table_end(segments, s)
        largest = max(largest, most)
    return largest


@njit(inline="always")
def _add_id(sums: Any, grads: Any, b: Any, at: Any, matrix: Any, row: Any) -> None:
    """Add the gradient that one row of the batch has for a row of the matrix."""
    grad_fields, grad_linear, grad_pairs, totals = grads
    dim = len(sums) - 1
    for d in range(dim):
        sums[d] += load(grad_fields, b, at + d)
    if len(grad_pairs) > 0:
        # The derivative of all pairs by a field is the sum of the other fields.
        for d in range(dim):
            sums[d] += grad_pairs[b, d] * (totals[b, d] - load(matrix, row, d))
    sums[dim] += grad_linear[b]


@njit(inline="always")
def _add_bag(sums: Any, grads: Any, b: Any, at: Any, fields: Any, part: Any) -> None:
    """As `_add_id`, for one of a bag's values: `part` of the gradient of their mean."""
    grad_fields, grad_linear, grad_pairs, totals = grads
    dim = len(sums) - 1
    for d in range(dim):
        grad = load(grad_fields, b, at + d)
        if len(grad_pairs) > 0:
            grad += grad_pairs[b, d] * (totals[b, d] - load(fields, b, at + d))
        sums[d] += part * grad
    sums[dim] += part * grad_linear[b]


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def move_fields(
    rows: Any,
    grad_fields: Any,
    grad_linear: Any,
    grad_pairs: Any,
    totals: Any,
    fields: Any,
    offsets: Any,
    first_bag: Any,
    segments: Any,
    padding: Any,
    kind: Any,
    settings: Any,
    matrix: Any,
    state: Any,
    last: Any,
    noise: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """As `move_rows`, with the gradients of what `assemble` gave.

    Args:
        rows: As `assemble` had them.
        grad_fields: Of its `fields`, ``[B, F * D]``.
        grad_linear: ``[B]`` float32.
        grad_pairs: ``[B, D]`` float32, or no rows if nothing read the pairs.
        totals: As it gave them.
        fields: As it gave them; the mean of a bag is read here.
        offsets: As it had them.
        first_bag: Number of the field of the first bag.
        segments: As in `move_rows`, with the number of the field or, negative and less one, of the
            bag as a fourth column.
        padding: This and all that follow: see `move_rows`.
    """
    width = matrix.shape[1]
    dim, has_pairs = width - 1, len(grad_pairs) > 0
    grads = grad_fields, grad_linear, grad_pairs, totals
    # A gradient is added up where it belongs; rows that move need the sum first.
    is_gradient = kind == GRADIENT
    heads_all, found, sums = _scratch(0 if is_gradient else _largest(segments), width)
    target = state if is_gradient else sums
    s = 0
    while s < len(segments):
        table = segments[s, 0]
        end, most = _table_end(segments, s)
        heads = _heads_for(heads_all, 0 if is_gradient else most)
        num_found = 0
        while s < end:
            first, which = segments[s, 1], segments[s, 3]
            bag, b = -1 - which, 0
            for k in range(first, segments[s, 2]):
                row = rows[k]
                if k + AHEAD < segments[s, 2]:
                    if has_pairs:
                        prefetch(matrix, rows[k + AHEAD])
                    if which >= 0:
                        prefetch_at(grad_fields, k + AHEAD - first, which * dim)
                if which >= 0:
                    b = k - first
                else:
                    while offsets[bag, b + 1] <= k:
                        b += 1
                bits = mix(row)
                if _owner(bits, num_shares) != share:
                    continue
                if is_gradient:
                    if row == padding[table]:
                        continue
                    place = row
                else:
                    place, num_found = _place_of(heads, found, sums, num_found, row, bits)
                if which >= 0:
                    _add_id(target[place], grads, b, which * dim, matrix, row)
                else:
                    part = np.float32(1.0) / np.float32(offsets[bag, b + 1] - offsets[bag, b])
                    _add_bag(target[place], grads, b, (first_bag + bag) * dim, fields, part)
            s += 1
        _finish(kind, settings, matrix, state, last, found, sums, num_found, padding[table], noise)


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def sum_numbers(
    dense: Any,
    numbers: Any,
    grad_fields: Any,
    grad_linear: Any,
    grad_pairs: Any,
    totals: Any,
    num_ids: Any,
    folded: Any,
    grad_numbers: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """Fill the gradient of `numbers`, ``[N, W]``, for the share's numbers.

    Folded, the fields' part of it comes from elsewhere.
    """
    size, dim = totals.shape
    has_pairs = len(grad_pairs) > 0
    for n in range(share, len(numbers), num_shares):
        at = (num_ids + n) * dim
        grad_numbers[n, :] = 0.0
        for b in range(size):
            x = dense[b, n]
            for d in range(dim):
                grad = np.float32(0.0) if folded else load(grad_fields, b, at + d)
                if has_pairs:
                    grad += grad_pairs[b, d] * (totals[b, d] - x * numbers[n, d])
                grad_numbers[n, d] += x * grad
            grad_numbers[n, dim] += x * grad_linear[b]


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def sum_others(
    others: Any,
    grad_fields: Any,
    grad_linear: Any,
    grad_pairs: Any,
    totals: Any,
    first_other: Any,
    grad_others: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """Fill the gradient of `others`, ``[B, X, W]``, for the share's rows of the batch."""
    size, dim = totals.shape
    has_pairs = len(grad_pairs) > 0
    for b in range(size * share // num_shares, size * (share + 1) // num_shares):
        for x in range(others.shape[1]):
            at = (first_other + x) * dim
            for d in range(dim):
                grad = load(grad_fields, b, at + d)
                if has_pairs:
                    grad += grad_pairs[b, d] * (totals[b, d] - others[b, x, d])
                grad_others[b, x, d] = grad
            grad_others[b, x, dim] = grad_linear[b]
