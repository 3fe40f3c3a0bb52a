"""Any module without tables, as a model of many parties.

Shapes: P parties, B examples of each in a step, E = P B.
"""

from collections.abc import Callable, Mapping
from copy import copy, deepcopy

from torch import Tensor, nn
from torch.func import functional_call, vmap

from scalerec.train.cohort.moves import Moves
from scalerec.train.cohort.stacked import (
    TRIED,
    call_stacked,
    fits,
    linear_parameters,
    spread_examples,
    tried_parameters,
)

__all__ = ["ModuleModel", "class_losses"]

Tensors = Mapping[str, Tensor]


def class_losses(logits_bc: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of each example, ``[B]``.

    What ``torch.nn.functional.cross_entropy(..., reduction="none")`` gives. That one takes four
    times as long on ten classes, which is more than all products of a small net together.

    Args:
        logits_bc: A logit for each class, ``[B, C]``.
        labels: The right class of each, ``[B]`` int64.
    """
    return logits_bc.logsumexp(1) - logits_bc.gather(1, labels.unsqueeze(1)).squeeze(1)


class ModuleModel:
    """A module without tables, and the examples of all parties.

    Args:
        module: Maps ``[B, ...]`` to ``[B, ...]``; without buffers.
        inputs: ``[n, ...]``.
        labels: ``[n, ...]``.
        loss: Outputs and labels of some examples -> the loss of each, ``[B]``.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.module, self.inputs, self.labels, self.loss = module, inputs, labels, loss
        self.num_examples = len(inputs)
        self.draws = any(getattr(m, "p", 0.0) > 0 for m in module.modules() if _drops(m))
        self._modules: dict[int, nn.Module] = {}
        self.dense = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
        self._linear = linear_parameters(module)
        self.stacked = self._fits()

    def _fits(self) -> bool:
        """Whether the module computes many parties by its own code; tried on a few examples."""
        if not self.num_examples:
            return False
        inputs, dense = (
            self.inputs[spread_examples(self.num_examples)],
            tried_parameters(self.dense),
        )
        training = self.module.training
        self.module.eval()
        try:
            return fits(
                lambda: self._outputs(dense, inputs, TRIED, None, stacked=False),
                lambda: self._outputs(dense, inputs, TRIED, None, stacked=True),
            )
        finally:
            self.module.train(training)

    def for_worker(self, number: int) -> "ModuleModel":
        """The same model with a module of its own; see `PartyModel`."""
        other = copy(self)
        if number not in self._modules:
            self._modules[number] = deepcopy(self.module)
        other.module = self._modules[number]
        return other

    def take(self, examples: Tensor, shift: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels, and whether each counts."""
        del shift
        inputs = self.inputs.index_select(0, examples)
        return inputs, self.labels.index_select(0, examples), mask

    def losses(
        self,
        dense: Tensors,
        rows_kw: Tensor,
        batch: tuple[Tensor, Tensor, Tensor],
        num_parties: int,
        *,
        moves: Moves | None = None,
    ) -> Tensor:
        """Each party's mean loss."""
        del rows_kw
        inputs, labels, mask = batch
        outputs = self._outputs(dense, inputs, num_parties, moves, stacked=self.stacked)
        losses = self.loss(outputs, labels) * mask
        counts = mask.view(num_parties, -1).sum(1)
        return losses.view(num_parties, -1).sum(1) / counts.clamp(min=1)

    def _outputs(
        self,
        dense: Tensors,
        inputs: Tensor,
        num_parties: int,
        moves: Moves | None,
        *,
        stacked: bool,
    ) -> Tensor:
        if stacked:
            size = len(inputs) // num_parties
            args = (self.module, dense, (inputs,), num_parties, size, moves, self._linear)
            return call_stacked(*args)

        def one(parameters: Tensors, own: Tensor) -> Tensor:
            out: Tensor = functional_call(self.module, dict(parameters), (own,))
            return out

        parted = inputs.unflatten(0, (num_parties, -1))
        found: Tensor = vmap(one, randomness="different")(dict(dense), parted)
        return found.flatten(0, 1)

    def loss_of_one(
        self, dense: Tensors, rows_kw: Tensor, batch: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The mean loss of one party."""
        del rows_kw
        inputs, labels, mask = batch
        losses = self.loss(functional_call(self.module, dict(dense), (inputs,)), labels) * mask
        return losses.sum() / mask.sum().clamp(min=1)


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd)
