"""What each field adds to the sums from which a net that can be split is computed.

Shapes: B rows, F fields, D embedding, H sums of first layers, T totals (D where pairs of fields
are multiplied, else 0), C columns of the logits, S = H + T + C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.frames import empty_batch
from scalerec.models.inputs import Inputs
from scalerec.models.recommender import Recommender
from scalerec.models.split import Split, SplitNet, affine_of

__all__ = ["FieldSums", "Layers", "layers_of", "split_of"]


def split_of(recommender: Recommender) -> Split | None:
    """The recommender's net as a function of sums over fields, if it is one.

    Args:
        recommender: In evaluation mode.
    """
    net = recommender.net
    if not isinstance(net, SplitNet) or recommender.embedder.reads_items:
        return None
    empty = recommender.read(
        empty_batch(recommender.layout, 1).to(recommender.tables.matrix.device)
    )
    # What is empty on one side must add nothing to the other.
    adds = bool(empty.fields.any()) or bool(empty.linear.any())
    return None if adds else net.split()


class FieldSums:
    """Sums over fields, as rows of a matrix: first layers, totals, and what is added to the logits.

    The sum of the products of all pairs is ``(total^2 - sum of squares) / 2``: the squares go to
    what is added to the logits, so that everything is a sum over fields.

    Args:
        split: What the net makes of its fields.
        num_fields: F.
        dim: D.
        num_outputs: C.
        device: Where the recommender is.
    """

    def __init__(
        self, split: Split, num_fields: int, dim: int, num_outputs: int, device: torch.device
    ) -> None:
        def here(tensor: Tensor | None, *empty: int) -> Tensor:
            own = torch.zeros(empty) if tensor is None else tensor
            return own.detach().to(device, torch.float32)

        self.upper, self.linear, self.num_outputs = split.upper, split.linear, num_outputs
        weight = here(split.weight, 0, num_fields * dim)
        bias = here(split.bias, len(weight))
        self.layers = layers_of(split.upper, len(weight))
        if self.layers is not None:
            scale, shift = here(self.layers.scale), here(self.layers.shift)
            weight, bias = weight * scale.unsqueeze(-1), bias * scale + shift
        self.weight = weight
        self.totals = here(split.totals, num_outputs, dim)
        self.pairs = here(split.pairs, num_outputs, 0)
        self.dim = dim
        self.first, self.num_totals = len(self.weight), self.pairs.shape[1]
        none = torch.zeros(self.num_totals, device=device)
        self.start = torch.cat([bias, none, here(split.constant, num_outputs)])

    @classmethod
    def of(cls, recommender: Recommender) -> "FieldSums | None":
        """Those of a recommender in evaluation mode; none where its net cannot be split."""
        split = split_of(recommender)
        if split is None:
            return None
        layout, device = recommender.embedder.layout, recommender.tables.matrix.device
        dim = recommender.embedder.numbers.shape[1] - 1
        return cls(split, layout.num_fields, dim, layout.num_outputs, device)

    @property
    def width(self) -> int:
        """S."""
        return len(self.start)

    def of_inputs(self, inputs: Inputs, places: Sequence[int]) -> Tensor:
        """What some fields add, ``[B, S]``.

        Args:
            inputs: Of rows in which all other fields are empty.
            places: Numbers of the fields.
        """
        size = len(inputs.linear)
        index = torch.tensor(list(places), dtype=torch.int64, device=inputs.linear.device)
        fields = inputs.fields.index_select(1, index).float()
        weight = self.weight.unflatten(1, (-1, self.dim)).index_select(1, index)
        first = fields.flatten(1) @ weight.flatten(1).T
        total = fields.sum(1)
        wide = total @ self.totals.T
        if self.linear:
            wide = wide + inputs.linear.float().unsqueeze(-1)
        if self.num_totals:
            wide = wide - 0.5 * (fields.square().sum(1) @ self.pairs.T)
        return torch.cat([first, total if self.num_totals else total.new_empty(size, 0), wide], 1)

    def logits(self, first: Tensor, rest: Tensor) -> Tensor:
        """Logits ``[..., C]`` from the sums over all fields and the start.

        Args:
            first: ``[..., H]``.
            rest: ``[..., T + C]``.
        """
        total, wide = rest[..., : self.num_totals], rest[..., self.num_totals :]
        if self.num_totals:
            wide = wide + 0.5 * (total.square() @ self.pairs.T)
        if self.upper is None:
            return wide
        return wide + (self.upper(first) if self.layers is None else self.layers(first))


@dataclass(frozen=True, slots=True)
class Layers:
    """A net that is plain linear layers with a ReLU between them, and one before the first.

    Args:
        scale: What the input's sums are multiplied with before all else, ``[H]``.
        shift: What is then added, ``[H]``.
        weights: ``[O, I]`` each.
        biases: ``[O]`` each.
    """

    scale: Tensor
    shift: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def products(self) -> int:
        """Multiplications a row."""
        return sum(weight.numel() for weight in self.weights)

    def __call__(self, x: Tensor) -> Tensor:
        """Map sums ``[..., H]``, scaled and shifted before, to ``[..., C]``."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = nn.functional.linear(x.relu(), weight, bias)
        return x


def layers_of(upper: object, width: int) -> Layers | None:
    """What follows the first layers as plain layers; none if it is anything else.

    Normalisations over the batch are taken into the layers before them, as in evaluation.

    Args:
        upper: `Split.upper`.
        width: H.
    """
    if not isinstance(upper, nn.Sequential):
        return None
    affine: list[tuple[Tensor, Tensor]] = [(torch.ones(width), torch.zeros(width))]
    bent = [False]
    for layer in upper:
        weight, bias = affine[-1]
        if isinstance(layer, nn.BatchNorm1d) and not bent[-1]:
            scale, shift = _norm(layer)
            own = scale if weight.ndim == 1 else scale.unsqueeze(-1)
            affine[-1] = (weight * own, bias * scale + shift)
        elif isinstance(layer, nn.ReLU) and not bent[-1]:
            bent[-1] = True
        elif type(layer) is nn.Linear and bent[-1]:
            own, at = affine_of(layer, layer.in_features)
            affine.append((own.detach(), torch.zeros(len(own)) if at is None else at.detach()))
            bent.append(False)
        else:
            return None
    if bent[-1]:
        return None
    (scale, shift), *rest = affine
    return Layers(scale, shift, tuple(w for w, _ in rest), tuple(b for _, b in rest))


def _norm(layer: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies with and adds in evaluation."""
    assert layer.running_mean is not None, "normalisations of the zoo keep running means"
    assert layer.running_var is not None, "normalisations of the zoo keep running means"
    scale = (layer.running_var + layer.eps).rsqrt()
    if layer.affine:
        scale = scale * layer.weight.detach()
    shift = -layer.running_mean * scale
    return scale, shift + layer.bias.detach() if layer.affine else shift
