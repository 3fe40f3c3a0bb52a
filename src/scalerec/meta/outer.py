"""What meta-learning moves: the start of all tasks and the rates of adapting, and how it moves.

Both are `Parameters` of `scalerec.rounds`, by the names that algorithms give their updates; an
`Aggregator` moves them by those of all tasks.

Shapes: K rows of tables, W a row's width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.vocabulary import FIRST_ID, OOV
from scalerec.meta.algorithms import RATES, ROWS, with_own_rows
from scalerec.meta.config import MetaConfig
from scalerec.meta.parts import OWN
from scalerec.meta.personal import PersonalModel, Shared
from scalerec.optim import (
    OPTIMISERS,
    ROW_OPTIMISERS,
    Optimiser,
    add_l2,
    by_group,
    chain,
    clip_by_global_norm,
)
from scalerec.rounds import (
    Aggregator,
    Parameters,
    TableRows,
    Update,
    optimised_mean,
    weighted_mean,
)

__all__ = ["Outer", "first_rates", "full_rates", "meta_aggregator"]


def first_rates(model: PersonalModel, config: MetaConfig) -> dict[str, Tensor]:
    """The rates of adapting before any were learned, by the adapted parameter's name."""
    each = config.rate_kind == "number"
    rates = {n: torch.full(s if each else (), config.rate) for n, s in _shapes(model).items()}
    if config.scaled and OWN in rates:
        start, stop = _rows_of_keys(model)
        known = model.recommender.tables.matrix.detach()[start + FIRST_ID : stop]
        rates[OWN] = config.rate * known.var(0, correction=0)
    return rates


def full_rates(model: PersonalModel, rates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rates that fit a model.

    Args:
        model: The model.
        rates: By the adapted parameter's name.

    Raises:
        ConfigError: If one is missing, or has another shape than its parameter.
    """
    for name, shape in _shapes(model).items():
        rate = rates.get(name)
        found = "none" if rate is None else str(list(rate.shape))
        good = rate is not None and rate.shape in (torch.Size(), shape)
        require(good, f"the rate of {name!r} must be one number or {list(shape)}; got {found}")
    return {name: rates[name] for name in _shapes(model)}


def _shapes(model: PersonalModel) -> dict[str, torch.Size]:
    shapes = {name: model.recommender.get_parameter(name).shape for name in model.parts.names}
    if model.parts.field is not None:
        shapes[OWN] = torch.Size([model.recommender.tables.width])
    return shapes


def _rows_of_keys(model: PersonalModel) -> tuple[int, int]:
    """Where the rows of the tasks' keys lie in the matrix of all tables: the first, and the end."""
    field = model.parts.field
    require(field is not None, "moves=own needs `own` among what adapts")
    assert field is not None, "it was required"
    tables = model.recommender.tables
    start = tables.start[model.layout.ids[field].table]
    later = [first for first in tables.start.values() if first > start]
    return start, min(later, default=len(tables.matrix))


def meta_aggregator(config: MetaConfig) -> Aggregator:
    """Steps the start and the rates along the mean of tasks' updates.

    Reddi et al.'s FedOpt, Adaptive Federated Optimization, 2021, algorithm 1,
    https://arxiv.org/abs/2003.00295, with tasks for clients. The tables move in place. An update
    without a task behind it has no part; without any such, the mean is an error.

    Args:
        config: Which optimisers, and their rates.
    """
    rows = ROW_OPTIMISERS["lazy_adam" if config.optimiser == "adam" else "sgd"]()
    server = optimised_mean(_dense_optimiser(config), rows, rows_lr=config.rows_lr, in_place=True)

    def init(parameters: Parameters) -> dict[str, Tensor]:
        return server.init(parameters if config.rows_lr else replace(parameters, tables={}))

    def apply(
        parameters: Parameters, updates: Sequence[Update], state: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, Tensor]]:
        mean = weighted_mean(updates)
        mean = with_own_rows(mean) if config.rows_lr else replace(mean, tables={})
        return server.apply(parameters, [mean], state)

    return Aggregator(init, apply)


def _dense_optimiser(config: MetaConfig) -> Optimiser:
    """One for the start, and one for rates."""
    own = OPTIMISERS[config.optimiser](config.lr if config.moves == "all" else 0.0)
    bounds = [clip_by_global_norm(config.max_norm)] if config.max_norm else []
    start = chain(*bounds, add_l2(config.l2), then=own)
    rates = OPTIMISERS[config.optimiser](config.rates_lr)
    return by_group(
        lambda name: "rates" if name.startswith(RATES) else "start",
        {"start": start, "rates": rates},
    )


class Outer:
    """The start, the rates, and the aggregator that moves them.

    Args:
        model: The recommender whose parameters are the start; its tables are moved.
        config: How.
    """

    def __init__(self, model: PersonalModel, config: MetaConfig) -> None:
        self.model, self.tables = model, model.recommender.tables
        self.learns_rates = config.rate_kind != "fixed"
        self._fixed = {} if self.learns_rates else first_rates(model, config)
        learned = first_rates(model, config) if self.learns_rates else {}
        start = {n: t.detach().clone() for n, t in model.shared().dense.items()}
        self.parameters = Parameters(
            dense=start | {RATES + name: rate for name, rate in learned.items()},
            tables={ROWS: self.tables.matrix.detach()},
        )
        self._aggregator = meta_aggregator(config)
        self._state = self._aggregator.init(self.parameters)
        self._new = None if config.moves == "all" else _rows_of_keys(model)[0] + OOV
        self.updates = 0

    @property
    def rates(self) -> dict[str, Tensor]:
        """The rates of adapting, by the adapted parameter's name."""
        return self._fixed or _rates(self.parameters.dense)

    def leaves(self, numbers: Tensor) -> tuple[Shared, dict[str, Tensor]]:
        """The start and the rates, as leaves whose gradients are wanted.

        Args:
            numbers: Rows of the tables that are read, ``[K]``.
        """
        given = self.parameters.gather({ROWS: numbers})
        dense = {name: t.detach().requires_grad_() for name, t in given.dense.items()}
        shared = Shared(_start(dense), given.tables[ROWS].requires_grad_())
        return shared, self._fixed or _rates(dense)

    def whole(self) -> Shared:
        """The start with all rows, without gradients."""
        return Shared(_start(self.parameters.dense), self.parameters.tables[ROWS])

    @torch.no_grad()
    def step(self, updates: Sequence[Update]) -> None:
        """Move everything by the updates of all tasks.

        Args:
            updates: Of parts of them; without any task that is judged, nothing moves.
        """
        self.updates += 1
        if not any(update.weight for update in updates):
            return
        if self._new is not None:
            updates = [_of_row(update, self._new) for update in updates]
        found = self._aggregator.apply(self.parameters, updates, self._state)
        self.parameters, self._state = found
        self.tables.keep_padding_zero()

    @torch.no_grad()
    def settle(self) -> None:
        """Write the start into the recommender."""
        for name, parameter in self.model.recommender.dense_parameters().items():
            parameter.copy_(self.parameters.dense[name])

    def start_tensors(self) -> dict[str, Tensor]:
        """A copy of the start and the rates, to go back to."""
        return {name: tensor.clone() for name, tensor in self.parameters.flat().items()}

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything, optimisers' states included, for a checkpoint."""
        state = {f"state/{name}": tensor for name, tensor in self._state.items()}
        return {**self.parameters.flat(), **state}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `start_tensors` or `to_tensors` gave; the former leaves states alone."""
        held = {name: tensors[name] for name in self.parameters.flat()}
        found = Parameters.from_flat(held)
        # The recommender's own matrix moves.
        matrix = self.parameters.tables[ROWS].copy_(found.tables[ROWS])
        self.parameters = Parameters(dense=found.dense, tables={ROWS: matrix})
        self._state = {n: tensors.get(f"state/{n}", t) for n, t in self._state.items()}


def _of_row(update: Update, number: int) -> Update:
    """What an update says of rates and of one row."""
    dense = {name: t for name, t in update.dense.items() if name.startswith(RATES)}
    tables = {}
    for name, part in update.tables.items():
        kept = part.rows == number
        tables[name] = TableRows(rows=part.rows[kept], values=part.values[kept])
    return replace(update, dense=dense, tables=tables)


def _start(dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in dense.items() if not name.startswith(RATES)}


def _rates(dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(RATES): t for n, t in dense.items() if n.startswith(RATES)}
