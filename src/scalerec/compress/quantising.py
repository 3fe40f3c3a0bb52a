"""Which forms few bits ask for, ranges of inputs, and training that knows of the rounding.

Shapes: O outputs, I inputs, R rows, D embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scalerec.data.dataset import Dataset
from scalerec.data.loading import read_in_order
from scalerec.models.forming import Range, formed, quantise_linear
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.layers import dense_weight
from scalerec.models.packed import pack_rows, unpack_rows
from scalerec.models.recommender import Recommender
from scalerec.scoring.scores import SCORE_BATCH

__all__ = ["Grid", "few_bits", "formable_linears", "input_ranges", "quantised"]

# Rows of data in which ranges of inputs are looked for.
LOOKED_AT = 20_000


def formable_linears(recommender: Recommender) -> dict[str, nn.Linear]:
    """The linear layers of float32 that a recommender has, by name."""
    found = recommender.named_modules()
    return {name: layer for name, layer in found if type(layer) is nn.Linear}


def few_bits(recommender: Recommender, tables: int, layers: int, kept: frozenset[str]) -> Forms:
    """The forms of a recommender whose tables and linear layers have so many bits.

    Args:
        recommender: Says which forms there are so far; those keep their sizes.
        tables: 32, 16, 8 or 4.
        layers: 32, 16 or 8.
        kept: Names of tables and layers that stay as they are.
    """
    forms = recommender.spec.forms
    of_tables, of_layers = dict(forms.tables), dict(forms.layers)
    for name in recommender.tables.num_rows:
        if name not in kept and tables < 32:
            of_tables[name] = replace(of_tables.get(name, TableForm()), bits=tables)
    for name in formable_linears(recommender):
        if name not in kept and layers < 32:
            # Codes of 8 bits are stored as they are; a mask would tell of zeros that are codes.
            own = of_layers.get(name, LayerForm())
            of_layers[name] = replace(own, bits=layers, sparse=own.sparse and layers == 16)
    return replace(forms, tables=of_tables, layers=of_layers)


class _Listening(TorchFunctionMode):
    """Notes the inputs of products with known weights.

    Hooks would not do: towers compute their layers without calling them.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self.names = {id(layer.weight): name for name, layer in layers.items()}
        self.found: dict[str, Range] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func is nn.functional.linear and id(args[1]) in self.names:
            name = self.names[id(args[1])]
            low, high = (float(value) for value in args[0].aminmax())
            before = self.found.get(name, (low, high))
            self.found[name] = min(low, before[0]), max(high, before[1])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def input_ranges(recommender: Recommender, dataset: Dataset) -> dict[str, Range]:
    """The lowest and the highest input of each linear layer in training rows, by name.

    A first layer that reads numbers folded into its weights has none: its inputs are not those that
    its codes will see.
    """
    listening, seen = _Listening(formable_linears(recommender)), 0
    was_training = recommender.training
    recommender.eval()
    try:
        with listening:
            for batch in read_in_order(dataset.split("train"), SCORE_BATCH):
                recommender(batch)
                seen += len(batch)
                if seen >= LOOKED_AT:
                    break
    finally:
        recommender.train(was_training)
    return listening.found


def quantised(
    recommender: Recommender, forms: Forms, ranges: Mapping[str, Range] | None = None
) -> Recommender:
    """A recommender whose parts have the bits that forms say.

    Args:
        recommender: Stays as it is.
        forms: From `few_bits`.
        ranges: Of inputs, for layers whose scale is fixed beforehand; none for scales by row.
    """
    layers: dict[str, nn.Module] = {}
    of_layers = dict(forms.layers)
    for name, span in (ranges or {}).items():
        form = of_layers.get(name)
        if form is not None and form.bits == 8 and not form.rank:
            of_layers[name] = replace(form, calibrated=True)
            layers[name] = quantise_linear(recommender.get_submodule(name), span)
    return formed(recommender, replace(forms, layers=of_layers), layers=layers)


@dataclass(slots=True)
class Grid:
    """Training that knows of the rounding: an `after_step` for `scalerec.compress.fine_tune`.

    The model computes with rounded weights, and its gradients are those of rounded weights; what a
    step moves them is added to the exact ones, which are rounded anew (the straight-through
    estimator: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013,
    https://arxiv.org/abs/1308.3432; with integer products: Jacob et al., Quantization and Training
    of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2017,
    https://arxiv.org/abs/1712.05877, section 3). Of tables those are rounded that are small enough
    to be gone through in every step.

    Args:
        recommender: Of float32; its weights are rounded at once, and changed after each step.
        forms: What it is to become.
        most_rows: Tables with more rows are left exact while training goes on.
    """

    recommender: Recommender
    forms: Forms
    most_rows: int = 50_000
    exact: dict[str, Tensor] | None = None
    rounded: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.exact = {name: live.clone() for name, live in self._live().items()}
        self._round()

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Take over what a step moved, and round anew."""
        del step
        assert self.exact is not None, "made by __post_init__"
        assert self.rounded is not None, "made by __post_init__"
        for name, live in self._live().items():
            self.exact[name] += live - self.rounded[name]
        self._round()

    @torch.no_grad()
    def restore(self) -> None:
        """Put the exact weights back, to be quantised from."""
        assert self.exact is not None, "made by __post_init__"
        for name, live in self._live().items():
            live.copy_(self.exact[name])

    def _live(self) -> dict[str, Tensor]:
        """What is rounded, live."""
        tables, forms = self.recommender.tables, self.forms
        found = {}
        for name in formable_linears(self.recommender):
            if forms.layers.get(name, LayerForm()).bits < 32:
                found[name] = self.recommender.get_submodule(name).get_parameter("weight").data
        for name, num in tables.num_rows.items():
            if forms.tables.get(name, TableForm()).bits < 32 and num <= self.most_rows:
                found[f"tables.{name}"] = tables.table(name)
        return found

    @torch.no_grad()
    def _round(self) -> None:
        assert self.exact is not None, "made by __post_init__"
        self.rounded = {}
        for name, live in self._live().items():
            live.copy_(self._near(name, self.exact[name]))
            self.rounded[name] = live.clone()

    def _near(self, name: str, exact: Tensor) -> Tensor:
        table = name.removeprefix("tables.")
        if table != name:
            bits = self.forms.tables[table].bits
            return unpack_rows(pack_rows(exact, bits), bits, exact.shape[1] - 1)
        if self.forms.layers[name].bits == 16:
            return exact.half().float()
        layer = nn.Linear(exact.shape[1], exact.shape[0], bias=False)
        layer.weight.copy_(exact)
        return dense_weight(quantise_linear(layer))
