"""Local updates: what a party does with its own data.

A local update is two pure functions. `draw` takes everything random from a party's generator (the
order of its examples, say) and gives it as tensors; `apply` computes with tensors alone, so the
same function runs one party at a time, vectorised over many, in another process, or inside a
meta-gradient. It never touches its input in place and never calls a fused table.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.optim import Optimiser
from scalerec.rounds.parties import Parameters, Party
from scalerec.rounds.update import Update, difference

__all__ = ["LocalUpdate", "LossFunction", "local_steps"]

LossFunction = Callable[[Parameters, Mapping[str, Tensor]], Tensor]
"""Parameters and a batch -> a loss without dimensions; pure, in operations that `vmap` knows."""


class LocalUpdate(NamedTuple):
    """What a party does with its data, in two pure functions.

    Args:
        draw: Party, generator -> everything random that the work needs, as named tensors of shapes
            that depend on the party's shapes alone.
        apply: The party's parameters (tables gathered), party, draws -> its update, whose weight is
            the party's. It must run under `torch.func.vmap`: no branch on a tensor's value.
    """

    draw: Callable[[Party, torch.Generator], dict[str, Tensor]]
    apply: Callable[[Parameters, Party, Mapping[str, Tensor]], Update]

    def __call__(self, parameters: Parameters, party: Party, generator: torch.Generator) -> Update:
        """Draw, then compute.

        Args:
            parameters: With the tables' rows gathered for the party.
            party: Its rows and data.
            generator: The party's own.
        """
        return self.apply(parameters, party, self.draw(party, generator))


def local_steps(
    loss: LossFunction, optimiser: Optimiser, *, num_steps: int, batch_size: int | None = None
) -> LocalUpdate:
    """Several steps of a pure optimiser on a party's own examples, from a fresh state.

    Batches run through shuffled epochs: no example is seen twice before all were seen once. Where a
    party has fewer examples than `batch_size`, each batch holds them all.

    Paper: Communication-Efficient Learning of Deep Networks from Decentralized Data, McMahan et
    al., 2017, algorithm 1, https://arxiv.org/abs/1602.05629; steps are given by
    number here, not by epochs.

    Args:
        loss: Loss of a batch; a mean over its examples as a rule.
        optimiser: Steps the dense part and the gathered rows alike.
        num_steps: Number of steps, at least 1.
        batch_size: Examples in a step, at least 1; None for all, which draws nothing.

    Raises:
        ConfigError: If a size is below 1.
    """
    require(num_steps >= 1, f"num_steps must be at least 1; got {num_steps}")
    fits = batch_size is None or batch_size >= 1
    require(fits, f"batch_size must be at least 1; got {batch_size}")

    def draw(party: Party, generator: torch.Generator) -> dict[str, Tensor]:
        if batch_size is None:
            return {}
        num = party.num_examples
        if num == 0:
            raise RoundError(f"party {party.name!r} has no examples to draw a batch from")
        size = min(batch_size, num)
        num_epochs = -(-num_steps * size // num)
        orders = [torch.randperm(num, generator=generator) for _ in range(num_epochs)]
        return {"batches": torch.cat(orders)[: num_steps * size].reshape(num_steps, size)}

    def apply(parameters: Parameters, party: Party, draws: Mapping[str, Tensor]) -> Update:
        def loss_of(tensors: dict[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
            return loss(Parameters.from_flat(tensors), batch)

        gradient = torch.func.grad(loss_of)
        tensors = parameters.flat()
        state = optimiser.init(tensors)
        for step in range(num_steps):
            batch = party.data
            if "batches" in draws:
                index = draws["batches"][step]
                batch = {name: values[index] for name, values in party.data.items()}
            tensors, state = optimiser.apply(tensors, gradient(tensors, batch), state)
        return difference(Parameters.from_flat(tensors), parameters, party.rows, party.weight)

    return LocalUpdate(draw, apply)
