"""Aggregators: how the updates of a round become one step of the server's parameters.

Shapes: K touched rows, W a table's width, R a table's rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.optim import Optimiser, RowOptimiser
from scalerec.rounds.parties import Parameters
from scalerec.rounds.update import TableRows, Update, apply_update, check_update, sum_rows

__all__ = [
    "Aggregator",
    "Over",
    "mean_aggregator",
    "optimised_mean",
    "put_rows",
    "weighted_mean",
]

Over = Literal["all", "holders"]
"""Whose weight a mean divides by: every party's, or that of the parties that hold the row."""


class Aggregator(NamedTuple):
    """Two pure functions that move the server's parameters by a round's updates.

    Args:
        init: Parameters -> the first state, a flat dict of tensors.
        apply: Parameters, updates of a round, state -> new parameters, new state.
    """

    init: Callable[[Parameters], dict[str, Tensor]]
    apply: Callable[
        [Parameters, Sequence[Update], Mapping[str, Tensor]], tuple[Parameters, dict[str, Tensor]]
    ]


def weighted_mean(updates: Sequence[Update], over: Over = "all") -> Update:
    """The mean of updates, each as heavy as its weight.

    Args:
        updates: At least one, with weights of at least 0.
        over: `all` divides each row by the weight of all parties, as if those without it had sent
            zero; `holders` by the weight of those that sent it, so a rare row moves as far as a
            frequent one. A dense tensor that some parties left out is treated alike.

    Returns:
        The mean, whose weight is the sum of the weights. A row that only parties of weight 0 hold
        stays where it is.

    Raises:
        ConfigError: If `over` is unknown.
        RoundError: If there is no update, a weight is below 0 or not finite, the weights sum to 0,
            or tensors of one name differ in shape.
    """
    require(over in ("all", "holders"), f"over must be one of all, holders; got {over!r}")
    if not updates:
        raise RoundError("a mean needs at least one update; got none")
    for update in updates:
        if not (math.isfinite(update.weight) and update.weight >= 0):
            raise RoundError(f"weights must be finite and at least 0; got {update.weight}")
    total = math.fsum(update.weight for update in updates)
    if total <= 0:
        raise RoundError(f"the weights of {len(updates)} updates sum to 0; one must be above 0")
    if len(updates) == 1:
        return updates[0]
    dense_names = dict.fromkeys(name for update in updates for name in update.dense)
    table_names = dict.fromkeys(name for update in updates for name in update.tables)
    return Update(
        dense={name: _mean_dense(name, updates, total, over) for name in dense_names},
        tables={name: _mean_rows(name, updates, total, over) for name in table_names},
        weight=total,
    )


def mean_aggregator(over: Over = "all", *, in_place: bool = False) -> Aggregator:
    """Move the parameters by the weighted mean of the updates (FedAvg, local SGD, Reptile).

    Paper: Communication-Efficient Learning of Deep Networks from Decentralized Data, McMahan et
    al., 2017, algorithm 1, https://arxiv.org/abs/1602.05629

    Args:
        over: As in `weighted_mean`.
        in_place: Whether the tables themselves move, so that a round costs what it touches; the
            caller must own them.
    """

    def init(_: Parameters) -> dict[str, Tensor]:
        return {}

    def apply(
        parameters: Parameters, updates: Sequence[Update], _: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, Tensor]]:
        mean = weighted_mean(updates, over)
        if not in_place:
            return apply_update(parameters, mean), {}
        after = apply_update(
            Parameters(dense=parameters.dense, tables={}), replace(mean, tables={})
        )
        check_update(replace(mean, dense={}), parameters)
        for name, part in mean.tables.items():
            parameters.tables[name].index_add_(0, part.rows, part.values)
        return Parameters(dense=after.dense, tables=parameters.tables), {}

    return Aggregator(init, apply)


def optimised_mean(
    optimiser: Optimiser,
    row_optimiser: RowOptimiser,
    *,
    rows_lr: float,
    over: Over = "all",
    in_place: bool = False,
) -> Aggregator:
    """Treat the negative mean as a gradient for the server's own optimisers.

    Only rows that the round touched are stepped, with their state; no table becomes a dense
    gradient. A dense tensor that no party sent has gradient 0.

    Paper: Adaptive Federated Optimization, Reddi et al., 2021, algorithm 1,
    https://arxiv.org/abs/2003.00295

    Args:
        optimiser: Steps the dense part.
        row_optimiser: Steps the rows of tables.
        rows_lr: The rows' learning rate, at least 0.
        over: As in `weighted_mean`.
        in_place: As in `mean_aggregator`; the rows' state moves likewise.

    Raises:
        ConfigError: If `rows_lr` is below 0.
    """
    require(rows_lr >= 0, f"rows_lr must be at least 0; got {rows_lr}")

    def init(parameters: Parameters) -> dict[str, Tensor]:
        state = {f"dense/{k}": v for k, v in optimiser.init(parameters.dense).items()}
        for name, table in parameters.tables.items():
            for part, width in row_optimiser.state_widths(table.shape[1]).items():
                state[f"tables/{name}/{part}"] = table.new_zeros(len(table), width)
        return state | {"round": torch.zeros((), dtype=torch.int64)}

    def apply(
        parameters: Parameters, updates: Sequence[Update], state: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, Tensor]]:
        mean = weighted_mean(updates, over)
        check_update(mean, parameters)
        after = {**state, "round": state["round"] + 1}
        gradients = {
            name: -mean.dense[name] if name in mean.dense else torch.zeros_like(tensor)
            for name, tensor in parameters.dense.items()
        }
        own = {k.removeprefix("dense/"): v for k, v in state.items() if k.startswith("dense/")}
        dense, changed = optimiser.apply(parameters.dense, gradients, own)
        after |= {f"dense/{k}": v for k, v in changed.items()}
        tables = dict(parameters.tables)
        for name, part in mean.tables.items():
            table = tables[name]
            keys = {k: f"tables/{name}/{k}" for k in row_optimiser.state_widths(table.shape[1])}
            own = {k: state[key][part.rows] for k, key in keys.items()}
            moved, changed = row_optimiser.apply(
                table[part.rows], -part.values, own, int(after["round"]), rows_lr
            )
            tables[name] = put_rows(table, part.rows, moved, in_place)
            for k, key in keys.items():
                after[key] = put_rows(state[key], part.rows, changed[k], in_place)
        return Parameters(dense=dense, tables=tables), after

    return Aggregator(init, apply)


def put_rows(table: Tensor, rows: Tensor, values: Tensor, in_place: bool) -> Tensor:
    """A table with some rows replaced: itself, or a copy.

    Args:
        table: ``[R, W]``.
        rows: Row numbers, each once, ``[K]`` int64.
        values: ``[K, W]``.
        in_place: Whether the table itself changes.
    """
    put = table.index_copy_ if in_place else table.index_copy
    return put(0, rows, values)


def _mean_dense(name: str, updates: Sequence[Update], total: float, over: Over) -> Tensor:
    holders = [update for update in updates if name in update.dense]
    first = holders[0].dense[name]
    sums = torch.zeros_like(first)
    for update in holders:
        tensor = update.dense[name]
        if tensor.shape != first.shape or tensor.dtype != first.dtype:
            raise RoundError(
                f"dense tensor {name!r} must be {list(first.shape)} of {first.dtype} in all "
                f"updates; got {list(tensor.shape)} of {tensor.dtype}"
            )
        sums = sums + tensor * update.weight
    held = total if over == "all" else math.fsum(update.weight for update in holders)
    return sums / held if held else sums


def _mean_rows(name: str, updates: Sequence[Update], total: float, over: Over) -> TableRows:
    holders = [update for update in updates if name in update.tables]
    parts = [update.tables[name] for update in holders]
    sums = sum_rows(
        name,
        [
            TableRows(rows=part.rows, values=part.values * update.weight)
            for part, update in zip(parts, holders, strict=True)
        ],
    )
    if over == "all":
        return TableRows(rows=sums.rows, values=sums.values / total)
    weights = [
        TableRows(rows=part.rows, values=part.values.new_full((len(part.rows), 1), update.weight))
        for part, update in zip(parts, holders, strict=True)
    ]
    held_k1 = sum_rows(name, weights).values
    return TableRows(rows=sums.rows, values=sums.values / torch.where(held_k1 > 0, held_k1, 1.0))
