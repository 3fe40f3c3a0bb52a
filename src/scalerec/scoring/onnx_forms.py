"""Parts of a recommender as an exporter can trace them: tables of few bits, integer layers.

What is stored in few bits stays so in the file: rows are looked up as codes and then made float,
and layers of whole numbers are products of whole numbers.

Shapes: R rows, d stored columns of an embedding, D embedding, N rows of inputs, I inputs,
O outputs.
"""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.fusion import fuse_linear_bn_eval

from scalerec.models.dropout import Dropout
from scalerec.models.layers import IntLinear
from scalerec.models.packed import HALVES, PackedTables
from scalerec.models.products import LARGEST, bounds
from scalerec.models.sharing import ShapedRows
from scalerec.models.tables import Tables

__all__ = ["TableLookup", "table_lookups", "traceable"]


class FloatRows(nn.Module):
    """Rows of float32 or float16.

    Args:
        weight: Embedding and, last, first-order weight, ``[R, d + 1]``.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """The rows ``[...]``, ``[..., d + 1]`` float32."""
        return embedding(rows, self.weight).float()


class ByteRows(nn.Module):
    """Rows of codes with a scale.

    Args:
        codes: ``[R, d]`` int8.
        halves: Scale and first-order weight, ``[R, 2]`` float16.
    """

    def __init__(self, codes: Tensor, halves: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("halves", halves)

    def forward(self, rows: Tensor) -> Tensor:
        """As `FloatRows.forward`."""
        halves = embedding(rows, self.get_buffer("halves")).float()
        codes = embedding(rows, self.get_buffer("codes")).float()
        return torch.cat([codes * halves[..., :1], halves[..., 1:]], -1)


class NibbleRows(nn.Module):
    """Rows of two codes a byte with a scale and an offset.

    Args:
        codes: ``[R, d]`` uint8 up to 15.
        halves: Scale, offset and first-order weight, ``[R, 3]`` float16.
    """

    def __init__(self, codes: Tensor, halves: Tensor) -> None:
        super().__init__()
        self.dim = codes.shape[1]
        even = nn.functional.pad(codes, (0, self.dim % 2))
        # The first half of the columns below, the second above: put side by side again, they are
        # in order.
        low, high = even.chunk(2, 1)
        self.register_buffer("codes", low | high << 4)
        self.register_buffer("halves", halves)

    def forward(self, rows: Tensor) -> Tensor:
        """As `FloatRows.forward`."""
        halves = embedding(rows, self.get_buffer("halves")).float()
        # Exact in float32, and not every runtime shifts bytes.
        both = embedding(rows, self.get_buffer("codes")).float()
        high = torch.floor(both / 16)
        codes = torch.cat([both - 16 * high, high], -1)[..., : self.dim]
        return torch.cat([codes * halves[..., :1] + halves[..., 1:2], halves[..., 2:]], -1)


class TableLookup(nn.Module):
    """From ids of a table to its embeddings.

    Args:
        stored: Gives stored rows.
        rows: The row of each id, ``[ids]``, or none where row i is that of id i.
        shaped: What combines and maps rows, or none.
        name: The table's.
    """

    def __init__(
        self, stored: nn.Module, rows: Tensor | None, shaped: ShapedRows | None, name: str
    ) -> None:
        super().__init__()
        self.stored = stored
        # Half the bytes of int64; a table of two thousand million rows fits no file.
        self.register_buffer("rows", None if rows is None else rows.to(torch.int32).unsqueeze(1))
        self.shares = None if shaped is None else shaped.shares.get(name)
        basis = None if shaped is None else shaped.basis(name)
        self.register_buffer("basis", None if basis is None else basis.detach())

    def forward(self, ids: Tensor) -> Tensor:
        """The embeddings and first-order weights of ids ``[...]``, ``[..., D + 1]`` float32."""
        if self.rows is not None:
            ids = embedding(ids, self.get_buffer("rows")).squeeze(-1).long()
        if self.shares is None:
            found: Tensor = self.stored(ids)
        else:
            first, second = self.shares.first(ids), self.shares.second(ids)
            found = self.shares.join(self.stored(first), self.stored(second))
        if self.basis is None:
            return found
        basis = self.get_buffer("basis")
        return torch.cat([found[..., : len(basis)] @ basis, found[..., -1:]], -1)


def table_lookups(tables: Tables, shaped: ShapedRows | None) -> dict[str, TableLookup]:
    """Every table of a recommender, by name; rows are shared with it where they can be."""
    held = tables.to_tensors()
    bits = tables.bits if isinstance(tables, PackedTables) else {}
    found = {}
    for name in tables.layout.tables:
        stored = _stored(held, name, bits.get(name, 32))
        found[name] = TableLookup(stored, tables.maps[name].rows, shaped, name)
    return found


def _stored(held: Mapping[str, Tensor], name: str, bits: int) -> nn.Module:
    if bits == 32:
        return FloatRows(held[f"tables.{name}.weight"])
    # A copy lies at an even address, which the view as float16 needs.
    packed = held[f"tables.{name}.codes"].clone()
    if bits == 16:
        return FloatRows(packed.view(torch.float16))
    size = 2 * HALVES[bits]
    halves, codes = packed[:, :size].clone().view(torch.float16), packed[:, size:].clone()
    if bits == 8:
        return ByteRows(codes.view(torch.int8), halves)
    return NibbleRows(torch.stack([codes & 15, codes >> 4], -1).flatten(1), halves)


class TracedIntLinear(IntLinear):
    """A layer of whole numbers that is traced as one, and elsewhere computes as its twin does.

    Args:
        layer: Its buffers are shared.
        positive: Whether no input is below zero, as after a ReLU.
    """

    def __init__(self, layer: IntLinear, *, positive: bool) -> None:
        calibrated, bias = layer.range is not None, layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias=bias, calibrated=calibrated)
        self.load_state_dict(layer.state_dict())
        self.positive = positive
        self.register_buffer("columns", layer.codes.t().contiguous(), persistent=False)
        self.register_buffer("sums", layer.codes.sum(1, dtype=torch.float32), persistent=False)

    def multiply(self, rows_ni: Tensor, *, relu: bool = False) -> Tensor:
        """As `IntLinear.multiply`."""
        if not torch.onnx.is_in_onnx_export():
            return super().multiply(rows_ni, relu=relu)
        low, high = bounds(rows_ni, self.range)
        if self.positive:
            low = torch.zeros_like(high)
        scale = (high - low) / LARGEST
        divisor = torch.where(scale > 0, scale, 1.0)
        zero = torch.round(-low / divisor)
        codes = self._encode(rows_ni, divisor, zero)
        products = self._products(codes)
        if not self.positive:
            products = products - zero * self.get_buffer("sums")
        # One after the other: ONNX Runtime would fuse a product with both at once to an operator
        # that takes the first row's scale for all rows.
        out = products * scale * self.scales
        if self.bias is not None:
            out = out + self.bias
        return torch.relu(out) if relu else out

    def _encode(self, rows_ni: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes from 0 to 255, ``[N, I]`` uint8; one scale and zero a row, or for all."""
        ends = scale.flatten(), zero.flatten().to(torch.uint8)
        if scale.dim() == 0:
            ends = scale, zero.to(torch.uint8)
        attributes: dict[str, Any] = {"axis": 0} if scale.dim() else {}
        return torch.onnx.ops.symbolic(
            "QuantizeLinear", (rows_ni, *ends), attributes, dtype=torch.uint8, shape=rows_ni.shape
        )

    def _products(self, codes_ni: Tensor) -> Tensor:
        """Sums of products of whole numbers, ``[N, O]`` float32."""
        shape = (codes_ni.shape[0], self.out_features)
        inputs = codes_ni, self.get_buffer("columns")
        return torch.onnx.ops.symbolic(
            "MatMulInteger", inputs, dtype=torch.int32, shape=shape
        ).float()


def traceable(net: nn.Module) -> nn.Module:
    """A copy of a net for an exporter.

    Batch normalisation becomes part of the linear layer before it, and layers of whole numbers
    become products of whole numbers.

    Args:
        net: In evaluation mode, in which a normalisation is a fixed linear map.
    """
    own = copy.deepcopy(net).eval()
    for module in [part for part in own.modules() if isinstance(part, nn.Sequential)]:
        _fold_norms(module)
    bent = _after_relu(own)
    for name, module in list(own.named_modules()):
        if type(module) is IntLinear:
            own.set_submodule(name, TracedIntLinear(module, positive=name in bent))
    return own


def _fold_norms(module: nn.Sequential) -> None:
    for name, after in pairwise(list(module._modules)):
        layer, norm = module._modules.get(name), module._modules[after]
        if type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d:
            module._modules[name] = fuse_linear_bn_eval(layer, norm)
            del module._modules[after]


def _after_relu(net: nn.Module) -> set[str]:
    """Names of the layers that directly follow a ReLU, dropout aside."""
    found = set()
    for head, module in net.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        parts = [(n, p) for n, p in module.named_children() if not isinstance(p, Dropout)]
        for (_, part), (name, _) in pairwise(parts):
            if type(part) is nn.ReLU:
                found.add(f"{head}.{name}" if head else name)
    return found
