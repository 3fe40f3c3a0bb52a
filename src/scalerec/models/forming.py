"""Other forms of a trained recommender: pure functions from tensors to tensors, and `formed`.

Whoever compresses a recommender chooses `Forms` and calls `formed`. What it is given no tensors or
layers for, it converts: codes are the nearest, factors those of the singular value decomposition.
What cannot be converted without a choice, such as which neurons are left, must be given.

Shapes: R rows, W columns, N rows of inputs, I inputs, O outputs, K rank.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.errors import ConfigError
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.layers import HalfLinear, IntLinear, LowRankLinear, dense_weight
from scalerec.models.packed import PackedTables, pack_rows, unpack_rows
from scalerec.models.placing import sparse_names
from scalerec.models.recommender import Recommender
from scalerec.models.sparse import join_sparse

__all__ = [
    "factorise",
    "float_names",
    "form_layer",
    "formed",
    "frozen_names",
    "halve_linear",
    "linear_of",
    "quantise_linear",
    "unrounded",
]

LARGEST_CODE = 127.0
Range = tuple[float, float]
Tensors = dict[str, Tensor]


def factorise(weight_oi: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a matrix by two factors (Eckart and Young, 1936).

    Args:
        weight_oi: ``[O, I]``.
        rank: K, from 1 to the smaller side.

    Returns:
        ``down`` ``[K, I]`` and ``up`` ``[O, K]``, of equal norms; ``up @ down`` is the nearest
        matrix of that rank.

    Raises:
        ConfigError: If the rank is out of range.
    """
    most = min(weight_oi.shape)
    require(1 <= rank <= most, f"rank must be from 1 to {most}; got {rank}")
    left, sizes, right = torch.linalg.svd(weight_oi.double(), full_matrices=False)
    roots = sizes[:rank].sqrt()
    down, up = roots.unsqueeze(1) * right[:rank], left[:, :rank] * roots
    return down.to(weight_oi.dtype), up.to(weight_oi.dtype)


def linear_of(weight_oi: Tensor, bias_o: Tensor | None) -> nn.Linear:
    """An `nn.Linear` with these weights; they are copied."""
    outputs, inputs = weight_oi.shape
    layer = nn.Linear(inputs, outputs, bias=bias_o is not None, device=weight_oi.device)
    with torch.no_grad():
        layer.weight.copy_(weight_oi)
        if bias_o is not None:
            layer.bias.copy_(bias_o)
    return layer


def halve_linear(layer: nn.Module) -> HalfLinear:
    """A linear layer of any form with its weights rounded to float16.

    Raises:
        ConfigError: If a weight is too large for float16.
    """
    weight, bias = dense_weight(layer), _bias(layer)
    largest = float(weight.abs().max()) if weight.numel() else 0.0
    limit = torch.finfo(torch.float16).max
    require(largest <= limit, f"weights of 16 bits are at most {limit:.0f}; got {largest:.0f}")
    outputs, inputs = weight.shape
    half = HalfLinear(inputs, outputs, bias=bias is not None)
    half.weight.copy_(weight)
    if half.bias is not None and bias is not None:
        half.bias.copy_(bias)
    return half


def quantise_linear(layer: nn.Module, calibrated: Range | None = None) -> IntLinear:
    """A linear layer of any form with weights of 8 bits, each output's by its largest.

    Args:
        layer: The layer.
        calibrated: Lowest and highest input, as seen in data; none to find them for each row.

    Raises:
        ConfigError: If the range is none.
    """
    if calibrated is not None:
        low, high = calibrated
        fits = low <= high and abs(low) < float("inf") and abs(high) < float("inf")
        require(fits, f"inputs must range from a lowest to a highest; got {low} to {high}")
    weight, bias = dense_weight(layer), _bias(layer)
    outputs, inputs = weight.shape
    whole = IntLinear(inputs, outputs, bias=bias is not None, calibrated=calibrated is not None)
    scales = weight.abs().amax(1) / LARGEST_CODE
    whole.scales.copy_(scales)
    whole.codes.copy_(torch.round(weight / scales.clamp(min=1e-30).unsqueeze(1)))
    if whole.bias is not None and bias is not None:
        whole.bias.copy_(bias)
    if whole.range is not None and calibrated is not None:
        whole.range.copy_(torch.tensor(calibrated))
    return whole


def form_layer(layer: nn.Module, form: LayerForm, calibrated: Range | None = None) -> nn.Module:
    """Convert a linear layer of any form to another one of the same sizes.

    Args:
        layer: The layer; it is not changed.
        form: Its new form.
        calibrated: Range of the inputs, for a calibrated layer without factors.

    Raises:
        ConfigError: If the form has other sizes, or the range is missing.
    """
    weight, bias = dense_weight(layer), _bias(layer)
    outputs, inputs = weight.shape
    same = form.inputs in (0, inputs) and form.outputs in (0, outputs)
    require(same, f"a layer {inputs} to {outputs} cannot be converted to other sizes; got {form}")
    needs = form.calibrated and (calibrated is None or form.rank > 0)
    require(not needs, "a calibrated layer needs the range of its inputs; with factors, give it")
    if form.rank:
        down, up = factorise(weight, form.rank)
        return LowRankLinear(
            _stored(linear_of(down, None), form), _stored(linear_of(up, bias), form)
        )
    return _stored(linear_of(weight, bias), form, calibrated)


def _stored(layer: nn.Linear, form: LayerForm, calibrated: Range | None = None) -> nn.Module:
    if form.bits == 16:
        return halve_linear(layer)
    if form.bits == 8:
        return quantise_linear(layer, calibrated)
    return layer


def _bias(layer: nn.Module) -> Tensor | None:
    if isinstance(layer, LowRankLinear):
        return _bias(layer.up)
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return None if bias is None else bias.detach()


@torch.no_grad()
def formed(
    recommender: Recommender,
    forms: Forms,
    tensors: Mapping[str, Tensor] | None = None,
    layers: Mapping[str, nn.Module] | None = None,
) -> Recommender:
    """Build a recommender of the same layout and net with other forms, and fill it.

    Each tensor is taken from `layers` or `tensors` if it is there, else from the recommender, as it
    is or converted to its new form.

    Args:
        recommender: Stays as it is.
        forms: All forms of the new one, those that the recommender has already included.
        tensors: By the name that `Recommender.to_tensors` of the new one gives.
        layers: Name of a layer to a module of its form.

    Returns:
        The new recommender, in evaluation mode.

    Raises:
        ConfigError: If forms do not fit the recommender, or what must be given is missing.
    """
    spec = replace(recommender.spec, forms=forms)
    generator = torch.Generator().manual_seed(0)
    new = Recommender(recommender.layout, spec, generator, draw_tables=False)
    given = {**(tensors or {})}
    for name, layer in (layers or {}).items():
        given |= {f"{name}.{part}": tensor for part, tensor in layer.state_dict().items()}
    sparse = [name for name in sparse_names(forms.layers) if f"{name}.mask" in given]
    given = join_sparse(given, {name: _outside(new)[name].shape for name in sparse})
    _check_names(new, given)
    found = _tables(recommender, new, given)
    found |= _dense(recommender, new, given)
    new.load_tensors(found)
    return new.eval()


def unrounded(recommender: Recommender) -> Recommender:
    """A recommender with float32 in the places of few bits, which gradients can pass.

    Its scores differ from the recommender's by the rounding of inputs of 8-bit layers.

    Args:
        recommender: Stays as it is; it is given back where nothing of it has few bits.
    """
    forms = recommender.spec.forms
    layers = {n: replace(own, bits=32, calibrated=False) for n, own in forms.layers.items()}
    tables = {n: replace(own, bits=32) for n, own in forms.tables.items()}
    whole = replace(
        forms,
        layers={name: own for name, own in layers.items() if own != LayerForm()},
        tables={name: own for name, own in tables.items() if own != TableForm()},
    )
    if whole == forms:
        return recommender
    parts = {
        name: form_layer(recommender.get_submodule(name), layers[name])
        for name, own in forms.layers.items()
        if own.bits < 32
    }
    return formed(recommender, whole, layers=parts)


def float_names(recommender: Recommender) -> list[str]:
    """Names of the tensors of a bundle that can still be trained: floats that are no codes'.

    They are what a bundle of the recommender may call adaptable.
    """
    frozen = tuple(f"{name}." for name in frozen_names(recommender))
    return sorted(
        name
        for name, tensor in recommender.to_tensors().items()
        if tensor.is_floating_point() and not name.startswith(frozen)
    )


def frozen_names(recommender: Recommender) -> list[str]:
    """Names of the parts that hold few bits a number, and cannot be trained any more."""
    return [
        name
        for name, part in recommender.named_modules()
        if isinstance(part, HalfLinear | IntLinear | PackedTables)
    ]


def _dense(old: Recommender, new: Recommender, given: Tensors) -> Tensors:
    """Every tensor of the new recommender outside its tables."""
    found: Tensors = {}
    before, after = _outside(old), _outside(new)
    forms, start = new.spec.forms.layers, old.spec.forms.layers
    for name, form in forms.items():
        own = [part for part in after if part.startswith(f"{name}.")]
        held = all(part in given for part in own)
        if not held and form != start.get(name, LayerForm()):
            found |= _converted(old, name, form)
    missing = []
    for name, tensor in after.items():
        if name in given:
            found[name] = given[name]
        elif name not in found and name in before and before[name].shape == tensor.shape:
            found[name] = before[name]
        elif name not in found and name.startswith("calibration."):
            found[name] = tensor
        elif name not in found and not name.startswith("shaped."):
            missing.append(name)
    found |= _bases(old, new, given)
    if missing:
        raise ConfigError(f"the new forms need tensors that cannot be converted: {missing}")
    return found


def _check_names(new: Recommender, given: Tensors) -> None:
    tables = {f"tables.{name}" for name in new.tables.layout.tables}
    known = _outside(new).keys()
    odd = [name for name in given if name not in known and name.rpartition(".")[0] not in tables]
    if odd:
        raise ConfigError(f"the recommender with the new forms has no tensors {odd}")


def _outside(recommender: Recommender) -> Tensors:
    state = recommender.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("tables.")}


def _converted(old: Recommender, name: str, form: LayerForm) -> Tensors:
    layer = old.get_submodule(name)
    if isinstance(layer, nn.BatchNorm1d):
        return {}
    outputs, inputs = dense_weight(layer).shape
    if form.inputs not in (0, inputs) or form.outputs not in (0, outputs) or form.calibrated:
        # Other sizes and ranges are a choice, which is missing where it is not given.
        return {}
    made = form_layer(layer, form)
    return {f"{name}.{part}": tensor for part, tensor in made.state_dict().items()}


def _bases(old: Recommender, new: Recommender, given: Tensors) -> Tensors:
    """The bases of tables, which are numbered."""
    found: Tensors = {}
    if new.shaped is None:
        return found
    for name, number in new.shaped.base_of.items():
        own = f"shaped.bases.{number}"
        if own in given:
            found[own] = given[own]
            continue
        basis = None if old.shaped is None else old.shaped.basis(name)
        wanted = new.shaped.bases[number].shape
        if basis is None:
            # The table is converted too; see `_tables`.
            found[own] = _factors(old, name, wanted[0])[1]
        elif basis.shape == wanted:
            found[own] = basis.detach()
        else:
            raise ConfigError(f"table {name!r} has another basis; give its rows and {own}")
    return found


def _factors(old: Recommender, name: str, dim: int) -> tuple[Tensor, Tensor]:
    """A table's rows of `dim` columns and the first-order weight, and their basis."""
    rows = old.tables.to_tensors()[f"tables.{name}.weight"]
    basis, scores = factorise(rows[:, :-1], dim)
    return torch.cat([scores, rows[:, -1:]], 1), basis


def _tables(old: Recommender, new: Recommender, given: Tensors) -> Tensors:
    """Every tensor of the new recommender's tables."""
    found: Tensors = {}
    held = old.tables.to_tensors()
    for name in new.tables.layout.tables:
        form = new.spec.forms.tables.get(name, TableForm())
        before = old.spec.forms.tables.get(name, TableForm())
        head = f"tables.{name}"
        if (rows := given.get(f"{head}.rows", held.get(f"{head}.rows"))) is not None:
            found[f"{head}.rows"] = rows
        if form.bits < 32 and (codes := given.get(f"{head}.codes")) is not None:
            found[f"{head}.codes"] = codes
            continue
        weight = given.get(f"{head}.weight")
        if weight is None and form == before:
            own = f"{head}.{'weight' if form.bits == 32 else 'codes'}"
            found[own] = held[own]
            continue
        if weight is None:
            weight = _weight(old, name, form, before)
        part = "weight" if form.bits == 32 else "codes"
        found[f"{head}.{part}"] = weight if form.bits == 32 else pack_rows(weight, form.bits)
    return found


def _weight(old: Recommender, name: str, form: TableForm, before: TableForm) -> Tensor:
    """The rows that a table of another form stores, as float32."""
    if (form.rows, form.sharing) != (before.rows, before.sharing):
        raise ConfigError(f"table {name!r}: the rows that ids are to share must be given")
    dim = old.spec.net_config().dim
    if form.dim != before.dim:
        if before.dim or before.bits < 32:
            raise ConfigError(f"table {name!r}: rows of dim {form.dim} must be given")
        return _factors(old, name, form.dim)[0]
    if before.bits == 32:
        return old.tables.to_tensors()[f"tables.{name}.weight"]
    return unpack_rows(
        old.tables.to_tensors()[f"tables.{name}.codes"], before.bits, form.dim or dim
    )
