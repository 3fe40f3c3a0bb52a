"""What each field adds to the sums from which a net that can be split is computed.

Shapes: B rows, U users, F fields, D embedding, H sums of first layers, T totals (D where pairs of
fields are multiplied, else 0), C columns of the logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.frames import empty_batch
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import pair_interaction
from scalerec.models.layers import HalfLinear
from scalerec.models.recommender import Recommender
from scalerec.models.split import Split, SplitNet, affine_of

__all__ = ["FieldSums", "Layers", "Sums", "layers_of", "split_of"]


def split_of(recommender: Recommender) -> Split | None:
    """The recommender's net as a function of sums over fields, if it is one.

    Args:
        recommender: In evaluation mode.
    """
    net = recommender.net
    if not isinstance(net, SplitNet) or recommender.embedder.reads_items:
        return None
    nothing = empty_batch(recommender.layout, 1).to(recommender.tables.device)
    empty = recommender.read(nothing)
    # What is empty on one side must add nothing to the other.
    adds = bool(empty.fields.any()) or bool(empty.linear.any())
    return None if adds else net.split()


@dataclass(frozen=True, slots=True)
class Sums:
    """What some fields of rows add.

    Args:
        first: To the first layers, ``[B, H]``.
        totals: Their own sum, ``[B, T]``.
        wide: To the logits, ``[B, C]``, their own pairs included.
    """

    first: Tensor
    totals: Tensor
    wide: Tensor


class FieldSums:
    """A net as sums over the fields of either side of a request, and what follows from them.

    The products of all pairs of fields are those within either side, and the product of the sums
    of both sides.

    Args:
        split: What the net makes of its fields.
        num_fields: F.
        dim: D.
        num_outputs: C.
        device: Where the recommender is.
        calibration: What is done to the logits at the end, if anything.
    """

    def __init__(
        self,
        split: Split,
        num_fields: int,
        dim: int,
        num_outputs: int,
        device: torch.device,
        calibration: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        def here(tensor: Tensor | None, *empty: int) -> Tensor:
            own = torch.zeros(empty) if tensor is None else tensor
            return own.detach().to(device, torch.float32)

        weight = here(split.weight, 0, num_fields * dim)
        bias = here(split.bias, len(weight))
        layers = layers_of(split.upper, len(weight))
        if layers is not None:
            weight, bias = weight * layers.scale.unsqueeze(-1), bias * layers.scale + layers.shift
        self.device, self.num_outputs = device, num_outputs
        self._upper = split.upper if layers is None else layers
        self._calibration = calibration
        self._linear = split.linear
        self._weight_hfd = weight.unflatten(1, (num_fields, dim))
        self._totals = None if split.totals is None else here(split.totals)
        self._pairs = None if split.pairs is None else here(split.pairs)
        self._start = Sums(bias, bias.new_empty(0), here(split.constant, num_outputs))
        self._same = torch.eye(num_outputs, device=device)

    @classmethod
    def of(cls, recommender: Recommender) -> "FieldSums | None":
        """Those of a recommender in evaluation mode; none where its net cannot be split."""
        split = split_of(recommender)
        if split is None:
            return None
        layout, device = recommender.embedder.layout, recommender.tables.device
        dim = recommender.embedder.numbers.shape[1] - 1
        sizes = layout.num_fields, dim, layout.num_outputs
        return cls(split, *sizes, device, recommender.calibration)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """H, T and C."""
        num_totals = 0 if self._pairs is None else self._pairs.shape[1]
        return len(self._weight_hfd), num_totals, self.num_outputs

    def side(self, places: Sequence[int], *, starts: bool) -> Callable[[Inputs], Sums]:
        """How to sum over some fields.

        Args:
            places: Numbers of the fields; in the rows that it gets, all others are empty.
            starts: Whether biases and constants are added.
        """
        index = torch.tensor(list(places), dtype=torch.int64, device=self.device)
        weight_ih = self._weight_hfd.index_select(1, index).flatten(1).T.contiguous()
        start = self._start if starts else None
        constant_c = self._start.wide * starts

        def add(inputs: Inputs) -> Sums:
            fields = inputs.fields.index_select(1, index).float()
            flat = fields.flatten(1)
            first = flat @ weight_ih if start is None else torch.addmm(start.first, flat, weight_ih)
            wide = constant_c.expand(len(flat), -1)
            if self._linear:
                wide = wide + inputs.linear.float().unsqueeze(-1)
            totals = fields.sum(1)
            if self._totals is not None:
                wide = wide + totals @ self._totals.T
            if self._pairs is None:
                return Sums(first, totals[:, :0], wide)
            return Sums(first, totals, wide + pair_interaction(fields) @ self._pairs.T)

        return add

    def meeting(self, asking: Sums) -> Tensor:
        """What an item's ``[T + C]`` is multiplied with to give logits, ``[U, T + C, C]``."""
        same = self._same.expand(len(asking.wide), -1, -1)
        if self._pairs is None:
            return same
        return torch.cat([asking.totals.unsqueeze(-1) * self._pairs.T, same], dim=1)

    def squared(self, totals: Tensor) -> Tensor:
        """Half of the squared sum of fields ``[B, T]``, as the pairs weigh it, ``[B, C]``.

        Less that of each field alone, it is what the products of all pairs add to the logits.
        """
        if self._pairs is None:
            return totals.new_zeros(len(totals), self.num_outputs)
        return 0.5 * (totals.square() @ self._pairs.T)

    def logits(self, first: Tensor, wide: Tensor) -> Tensor:
        """Logits ``[B, C]``.

        Args:
            first: Sums of the first layers over all fields, ``[B, H]``; it may be overwritten.
            wide: What is added to what follows from those, ``[B, C]``.
        """
        if self._upper is not None:
            wide = wide + self._upper(first)
        return wide if self._calibration is None else self._calibration(wide)


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

    def __call__(self, x: Tensor) -> Tensor:
        """Map sums ``[B, H]``, scaled and shifted before, to ``[B, C]``; they are overwritten."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = nn.functional.linear(x.relu_(), weight, bias)
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
        elif isinstance(layer, nn.Linear | HalfLinear) and bent[-1]:
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
