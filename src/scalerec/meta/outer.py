"""What meta-learning moves: the start of all tasks and the rates of adapting, and how it moves.

Shapes: K rows of tables, W a row's width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.meta.algorithms import MetaGradient
from scalerec.meta.config import MetaConfig
from scalerec.meta.parts import OWN
from scalerec.meta.personal import PersonalModel, Shared
from scalerec.optim import OPTIMISERS, ROW_OPTIMISERS, add_l2, chain, clip_by_global_norm

__all__ = ["Outer", "first_rates", "full_rates"]


def first_rates(model: PersonalModel, config: MetaConfig) -> dict[str, Tensor]:
    """The rates of adapting before any were learned, by the adapted parameter's name."""
    each = config.rate_kind == "number"
    return {n: torch.full(s if each else (), config.rate) for n, s in _shapes(model).items()}


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


class Outer:
    """The start, the rates, and the optimisers that move them.

    Args:
        model: The recommender whose parameters are the start; they are moved.
        config: How.
    """

    def __init__(self, model: PersonalModel, config: MetaConfig) -> None:
        self.model, self.config = model, config
        self.tables = model.recommender.tables
        self.dense = {n: t.detach().clone() for n, t in model.shared().dense.items()}
        self.rates = first_rates(model, config)
        self.learns_rates = config.rate_kind != "fixed"
        own = OPTIMISERS[config.optimiser](config.lr)
        bounds = [clip_by_global_norm(config.max_norm)] if config.max_norm else []
        self._dense = chain(*bounds, add_l2(config.l2), then=own)
        self._rates = OPTIMISERS[config.optimiser](config.rates_lr)
        self._rows = ROW_OPTIMISERS["lazy_adam" if config.optimiser == "adam" else "sgd"]()
        self._dense_state = self._dense.init(self.dense)
        self._rates_state = self._rates.init(self.rates)
        num_rows, width = self.tables.matrix.shape
        self._rows_state = {
            name: torch.zeros(num_rows, size)
            for name, size in self._rows.state_widths(width).items()
        }
        self.updates = 0

    def leaves(self, numbers: Tensor) -> tuple[Shared, dict[str, Tensor]]:
        """The start and the rates, as leaves whose gradients are wanted.

        Args:
            numbers: Rows of the tables that are read, ``[K]``.
        """
        dense = {name: tensor.detach().requires_grad_() for name, tensor in self.dense.items()}
        rows = self.tables.read(numbers).requires_grad_()
        rates = {
            n: rate.detach().requires_grad_(self.learns_rates) for n, rate in self.rates.items()
        }
        return Shared(dense, rows), rates

    def whole(self) -> Shared:
        """The start with all rows, without gradients."""
        return Shared(self.dense, self.tables.matrix.detach())

    @torch.no_grad()
    def step(self, gradient: MetaGradient, numbers: Tensor) -> None:
        """Move everything against a gradient.

        Args:
            gradient: What an algorithm found.
            numbers: The rows that its `rows` belong to, ``[K]``.
        """
        self.updates += 1
        grads = _filled(gradient.dense, self.dense)
        self.dense, self._dense_state = self._dense.apply(self.dense, grads, self._dense_state)
        if self.learns_rates:
            grads = _filled(gradient.rates, self.rates)
            self.rates, self._rates_state = self._rates.apply(self.rates, grads, self._rates_state)
        if gradient.rows is None or not self.config.rows_lr:
            return
        state = {name: tensor[numbers] for name, tensor in self._rows_state.items()}
        values, after = self._rows.apply(
            self.tables.read(numbers), gradient.rows, state, self.updates, self.config.rows_lr
        )
        self.tables.write(numbers, values)
        for name, tensor in after.items():
            self._rows_state[name][numbers] = tensor

    @torch.no_grad()
    def settle(self) -> None:
        """Write the start into the recommender."""
        for name, parameter in self.model.recommender.dense_parameters().items():
            parameter.copy_(self.dense[name])

    def start_tensors(self) -> dict[str, Tensor]:
        """A copy of the start and the rates, to go back to."""
        return {name: tensor.clone() for name, tensor in self._start().items()}

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything, optimisers' states included, for a checkpoint."""
        states = {"dense": self._dense_state, "rates": self._rates_state, "rows": self._rows_state}
        named = {f"{kind}/{n}": t for kind, state in states.items() for n, t in state.items()}
        return {**self._start(), **{f"state.{name}": tensor for name, tensor in named.items()}}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `start_tensors` or `to_tensors` gave."""
        self.dense = {name: tensors[f"start.{name}"] for name in self.dense}
        self.rates = {name: tensors[f"rates.{name}"] for name in self.rates}
        self.tables.matrix.copy_(tensors["rows"])
        for kind, state in (
            ("dense", self._dense_state), ("rates", self._rates_state), ("rows", self._rows_state),
        ):  # fmt: skip
            held = {n: tensors.get(f"state.{kind}/{n}") for n in state}
            state.update({n: tensor for n, tensor in held.items() if tensor is not None})

    def _start(self) -> dict[str, Tensor]:
        return {
            **{f"start.{name}": tensor for name, tensor in self.dense.items()},
            **{f"rates.{name}": tensor for name, tensor in self.rates.items()},
            "rows": self.tables.matrix.detach(),
        }


def _filled(grads: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: grads[n] if n in grads else torch.zeros_like(t) for n, t in like.items()}
