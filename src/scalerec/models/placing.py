"""Layers of other forms in the places of those that a net of the zoo was built with."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.errors import ConfigError
from scalerec.models.forms import LayerForm
from scalerec.models.heads import init_linear
from scalerec.models.layers import HalfLinear, IntLinear, LowRankLinear

__all__ = ["Calibration", "formable_layers", "make_layer", "place_layers", "sparse_names"]


class Calibration(nn.Module):
    """Scales and shifts each column of the logits; found on data after training, and then fixed.

    Args:
        num_outputs: C.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(num_outputs))
        self.register_buffer("shift", torch.zeros(num_outputs))

    def forward(self, logits_bc: Tensor) -> Tensor:
        """Map ``[B, C]`` to the same shape."""
        return logits_bc * self.scale + self.shift


def formable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module that may have another form, by name: linear layers and normalisations."""
    kinds = (nn.Linear, nn.BatchNorm1d)
    return {name: layer for name, layer in model.named_modules() if type(layer) in kinds}


def place_layers(
    model: nn.Module, forms: Mapping[str, LayerForm], generator: torch.Generator
) -> None:
    """Put layers of other forms in the places of a model's own.

    Args:
        model: As the zoo builds it; it is changed.
        forms: Name of a layer to its form.
        generator: Draws the initial weights of layers that can be trained.

    Raises:
        ConfigError: If there is no such layer, or it cannot have the form.
    """
    known = formable_layers(model)
    for name, form in forms.items():
        if name not in known:
            raise ConfigError(
                f"forms.layers: must name linear layers or normalisations of the model: "
                f"{', '.join(known) or 'it has none'}; got {name!r}"
            )
        model.set_submodule(name, make_layer(known[name], form, generator, f"layer {name!r}"))


def make_layer(
    layer: nn.Module, form: LayerForm, generator: torch.Generator, place: str = "layer"
) -> nn.Module:
    """A layer of another form, for the place of a given one; its weights are drawn, or zero.

    Args:
        layer: An `nn.Linear` or `nn.BatchNorm1d`, as the zoo has it.
        form: The form.
        generator: Draws initial weights.
        place: Heads messages.

    Raises:
        ConfigError: If a normalisation is given more than another size.
    """
    if isinstance(layer, nn.BatchNorm1d):
        only_size = form == LayerForm(outputs=form.outputs)
        require(only_size, f"{place}: a normalisation has no setting but outputs; got {form}")
        return nn.BatchNorm1d(form.outputs or layer.num_features)
    assert isinstance(layer, nn.Linear), "the caller names linear layers"
    inputs, outputs = form.inputs or layer.in_features, form.outputs or layer.out_features
    bias = layer.bias is not None
    if not form.rank:
        return _one(inputs, outputs, bias, form, generator)
    most = min(inputs, outputs)
    require(form.rank <= most, f"{place}: rank must be at most {most}; got {form.rank}")
    down = _one(inputs, form.rank, False, form, generator)
    return LowRankLinear(down, _one(form.rank, outputs, bias, form, generator))


def _one(
    inputs: int, outputs: int, bias: bool, form: LayerForm, generator: torch.Generator
) -> nn.Module:
    if form.bits == 16:
        return HalfLinear(inputs, outputs, bias=bias)
    if form.bits == 8:
        return IntLinear(inputs, outputs, bias=bias, calibrated=form.calibrated)
    return init_linear(nn.Linear(inputs, outputs, bias=bias), generator)


def sparse_names(forms: Mapping[str, LayerForm]) -> list[str]:
    """Names of the tensors that are stored as a mask and the numbers that are not zero."""
    found = []
    for name, form in forms.items():
        if form.sparse:
            heads = [f"{name}.down", f"{name}.up"] if form.rank else [name]
            found += [f"{head}.{'codes' if form.bits == 8 else 'weight'}" for head in heads]
    return found
