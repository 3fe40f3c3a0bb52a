"""Towers and heads: the dense parts that nets of the zoo are built from.

Shapes: B rows, F fields, D embedding, E experts, T tasks, C columns of the logits, I and O the
input and output size of a layer.
"""

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from scalerec.models.dropout import Dropout
from scalerec.models.inputs import Folded, Inputs
from scalerec.models.layers import IntLinear
from scalerec.models.linear import linear_relu

__all__ = [
    "ExpertGate",
    "Experts",
    "FirstOrder",
    "Mlp",
    "TaskTowers",
    "init_linear",
    "init_stacked",
    "pick_fields",
]


def init_linear(layer: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """Fill a linear layer: Xavier-normal weights (Glorot and Bengio, 2010), zero bias."""
    nn.init.xavier_normal_(layer.weight, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def init_stacked(num: int, in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Parameter:
    """Draw the weights of `num` linear layers as one tensor ``[num, in_dim, out_dim]``.

    Each layer is Xavier-normal by its own sizes; torch's initialiser would take the stack for a
    convolution.
    """
    scale = (2.0 / (in_dim + out_dim)) ** 0.5
    return nn.Parameter(torch.randn(num, in_dim, out_dim, generator=generator) * scale)


def pick_fields(fields_bfd: Tensor, places: Sequence[int]) -> Tensor:
    """Put some fields side by side.

    It needs no index tensor, so nothing goes to a device in the step, and its gradient is a plain
    stack and not a scatter.

    Args:
        fields_bfd: ``[B, F, D]``.
        places: Numbers of K fields, at least one.

    Returns:
        ``[B, K D]``.
    """
    fields = fields_bfd.unbind(1)
    return torch.cat([fields[place] for place in places], dim=-1)


class Mlp(nn.Sequential):
    """Linear layers with ReLU and dropout after each, and an optional linear output.

    Args:
        in_dim: Size of the input's last dimension.
        hidden: Sizes of the hidden layers; may be empty.
        generator: Draws the initial weights.
        out_dim: Size of the output layer, which has no ReLU and no dropout; None for no such layer.
        dropout: Chance of dropping an activation of a hidden layer, in [0, 1).
        batch_norm: Whether each hidden layer is normalised over the batch before its ReLU.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        out_dim: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        size = in_dim
        for next_size in hidden:
            layers.append(init_linear(nn.Linear(size, next_size), generator))
            if batch_norm:
                layers.append(nn.BatchNorm1d(next_size))
            layers.append(nn.ReLU())
            if dropout > 0:
                layers.append(Dropout(dropout))
            size = next_size
        if out_dim is not None:
            layers.append(init_linear(nn.Linear(size, out_dim), generator))
            size = out_dim
        super().__init__(*layers)
        self.out_dim = size

    def forward(self, x: Tensor | Folded) -> Tensor:
        """Map ``[..., in_dim]``, or all fields folded, to ``[..., out_dim]``."""
        out: Any = x
        done = None
        for layer, after in zip_longest(self, list(self)[1:]):
            if layer is done:
                continue
            if type(layer) is nn.Linear or isinstance(layer, IntLinear):
                # A ReLU that somebody listens to is called as a module.
                fused = type(after) is nn.ReLU and not after._forward_hooks
                done = after if fused else None
                out = _linear(out, layer, relu=done is not None)
            else:
                out = layer(out)
        return out.unfold() if isinstance(out, Folded) else out


def _linear(x: Tensor | Folded, layer: nn.Linear | IntLinear, *, relu: bool) -> Tensor:
    if isinstance(layer, IntLinear):
        return layer(x, relu=relu)  # type: ignore[no-any-return]
    weight: Tensor = layer.weight
    if isinstance(x, Folded):
        weight = x.fold(weight)
        x = x.values
    if relu:
        return linear_relu(x, weight, layer.bias)
    return nn.functional.linear(x, weight, layer.bias)


class FirstOrder(nn.Module):
    """The first-order term of a linear or factorised model: a weight a value, and a bias an output.

    A table row holds one first-order weight. One output is therefore exactly the linear model of
    the papers. Several outputs share that weight, and each adds its own linear map of the summed
    embeddings: still linear in the one-hot input, with weights of rank D.

    Args:
        dim: D, the embedding's size.
        num_outputs: C.
        generator: Draws the initial weights.
    """

    def __init__(self, dim: int, num_outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        several = num_outputs > 1
        self.own = nn.Linear(dim, num_outputs, bias=False) if several else None
        if self.own is not None:
            init_linear(self.own, generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        shared_bc = inputs.linear.unsqueeze(-1) + self.bias
        return shared_bc if self.own is None else shared_bc + self.own(inputs.fields.sum(1))


class Experts(nn.Module):
    """Several multi-layer perceptrons of equal sizes, computed as one batched product a layer.

    Each is linear, ReLU, dropout, and so on; the weights of a layer are one tensor ``[E, I, O]``.

    Args:
        num: E, the number of perceptrons.
        in_dim: Size of the input's last dimension.
        hidden: Sizes of the layers; may be empty.
        generator: Draws the initial weights.
        dropout: Chance of dropping an activation, in [0, 1).
    """

    def __init__(
        self,
        num: int,
        in_dim: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *hidden]
        self.num = num
        self.out_dim = sizes[-1]
        self.weights = nn.ParameterList(
            init_stacked(num, i, o, generator) for i, o in pairwise(sizes)
        )
        # [E, 1, O] adds to [E, B, O] without a reshape in the step.
        self.biases = nn.ParameterList(torch.zeros(num, 1, size) for size in sizes[1:])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Run every expert.

        Args:
            x: ``[B, I]`` for all experts, or each its own, ``[E, B, I]``.

        Returns:
            ``[E, B, O]``.
        """
        return self.onward(x, 0)

    def onward(self, x: Tensor, start: int) -> Tensor:
        """Run the layers from number `start` on; see `forward`."""
        layers = list(zip(self.weights, self.biases, strict=True))
        for weight_eio, bias_e1o in layers[start:]:
            product = torch.bmm if x.dim() == 3 else _shared_product
            x = self.dropout(torch.relu(product(x, weight_eio) + bias_e1o))
        return x if x.dim() == 3 else x.expand(self.num, *x.shape)


def _shared_product(x_bi: Tensor, weight_eio: Tensor) -> Tensor:
    """Multiply one input by every matrix, ``[E, B, O]``.

    One wide product runs a sixth to a third faster on a CPU than a batch of copies of the input.
    """
    wide_bo = x_bi @ weight_eio.transpose(0, 1).flatten(1)
    return wide_bo.unflatten(-1, (len(weight_eio), -1)).transpose(0, 1)  # type: ignore[no-any-return]


class ExpertGate(nn.Module):
    """Softmax gates that mix experts, one gate a group.

    Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (Ma et
    al., 2018), https://doi.org/10.1145/3219819.3220007, section "Multi-gate Mixture-of-Experts":
    ``softmax(W_k x)``, no bias.

    Args:
        num_groups: G, the number of gates.
        in_dim: Size of the input's last dimension.
        num_experts: How many experts each gate weighs.
        generator: Draws the initial weights.
    """

    def __init__(
        self, num_groups: int, in_dim: int, num_experts: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight = init_stacked(num_groups, in_dim, num_experts, generator)

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        """Mix experts by gates that see `x`.

        Args:
            x: ``[B, I]`` for all gates, or each its own, ``[G, B, I]``.
            experts: ``[E, B, O]`` for all gates, or each its own, ``[G, E, B, O]``.

        Returns:
            ``[G, B, O]``.
        """
        return self.mix(torch.matmul(x, self.weight), experts)

    def mix(self, gates_gbe: Tensor, experts: Tensor) -> Tensor:
        """Mix experts by the gates' logits ``[G, B, E]``; see `forward`."""
        share_gbe = torch.softmax(gates_gbe, dim=-1)
        which = "gbe,ebo->gbo" if experts.dim() == 3 else "gbe,gebo->gbo"
        return torch.einsum(which, share_gbe, experts)


class TaskTowers(nn.Module):
    """A tower a task, all in one batched product a layer, and a linear read-out a column.

    Args:
        outputs: How many columns of the logits belong to each task.
        in_dim: Size of the input's last dimension.
        hidden: Sizes of each tower's layers; may be empty.
        generator: Draws the initial weights.
        dropout: Chance of dropping an activation, in [0, 1).
    """

    def __init__(
        self,
        outputs: Sequence[int],
        in_dim: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.towers = Experts(len(outputs), in_dim, hidden, generator, dropout=dropout)
        self.outputs = tuple(outputs)
        self.weight = init_stacked(sum(outputs), self.towers.out_dim, 1, generator)
        self.bias = nn.Parameter(torch.zeros(sum(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]``.

        Args:
            x: ``[B, I]`` for all tasks, or each its own, ``[T, B, I]``.
        """
        return self.read_out(self.towers(x))

    def read_out(self, top_tbo: Tensor) -> Tensor:
        """Logits ``[B, C]`` from the towers' top layers ``[T, B, O]``."""
        if max(self.outputs) > 1:
            tops = zip(top_tbo.unbind(0), self.outputs, strict=True)
            top_tbo = torch.cat([top.expand(num, *top.shape) for top, num in tops])
        return torch.bmm(top_tbo, self.weight).squeeze(-1).transpose(0, 1) + self.bias
