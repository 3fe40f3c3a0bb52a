"""The mean of all processes' updates, through a codec, by the cheapest way the codec allows.

It is what `rounds` does with the updates of its parties, with messages in between: every process
encodes its own update and all get the same mean. What is linear is summed on the way (float32, and
the factors of PowerSGD), what is rounded is summed in float32 between two halves of an all-reduce
(bfloat16), and the rest is brought to all (the largest numbers).

Shapes: N numbers of the dense part, P processes.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scalerec.distributed.group import Group
from scalerec.rounds import Update, pack, unpack, weighted_mean
from scalerec.rounds.codecs import CodecName

__all__ = ["Averager", "Gradients"]

GRADIENTS = "gradients"


class Averager:
    """Averages updates of the dense part over the processes.

    Paper of the sum in two halves: Optimization of Collective Communication Operations in MPICH,
    Thakur et al., 2005, section 4.5, https://doi.org/10.1177/1094342005051521

    Args:
        group: The processes.
        codec: How updates travel.
        shapes: Name to shape of every dense tensor, the same on all.
        purpose: Under which the bytes are counted.
    """

    def __init__(
        self, group: Group, codec: CodecName, shapes: Mapping[str, torch.Size], purpose: str
    ) -> None:
        self.group, self.name, self.purpose, self.shapes = group, codec, purpose, shapes
        self._weights: list[float] = []
        self._codec = codec.build(shapes, self._mean_of)
        # Known to no codec yet, so none draws from it.
        self._generator = torch.Generator()
        self.state = self._codec.init()

    def mean(self, update: Update, weights: Sequence[float]) -> Update:
        """The mean of all processes' updates; all must ask at once.

        A process of weight 0 has no say, and keeps what its codec remembers.

        Args:
            update: This process's; its weight is its own of `weights`.
            weights: What each process counts for, by rank; at least one above 0.
        """
        self._weights = list(weights)
        if self.name.kind in ("none", "bf16"):
            dense = self._mean_of({f"dense/{n}": t for n, t in update.dense.items()})
            named = {n.removeprefix("dense/"): t for n, t in dense.items()}
            return Update(dense=named, tables={}, weight=math.fsum(weights))
        message, after = self._codec.encode(pack(update), self.state, self._generator)
        has_say = update.weight > 0
        # The start of a power iteration is the same on all; what was left out is each one's own.
        kept = {name: t for name, t in after.items() if has_say or not name.startswith("error")}
        self.state = {**self.state, **kept}
        if self.name.kind == "powersgd":
            return unpack(self._codec.decode(message))
        messages = self._gather(message)
        return weighted_mean([unpack(self._codec.decode(one)) for one in messages])

    def missed(self) -> dict[str, Tensor]:
        """What the codec has not sent of this process's updates yet, by name."""
        return self.name.missed(self.state, self.shapes)

    def _mean_of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted mean of named tensors, in one message each way."""
        if not tensors:
            return {}
        flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
        if self.name.half or self.name.kind == "bf16":
            flat = self._mean_of_halves(flat)
        else:
            own, total = self._weights[self.group.rank], math.fsum(self._weights)
            # Weights first: a process that counts for nothing may hold anything.
            flat = flat * (own / total) if own else torch.zeros_like(flat)
            flat = self.group.sum(flat, self.purpose)
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        return {
            name: part.view(tensor.shape)
            for (name, tensor), part in zip(tensors.items(), parts, strict=True)
        }

    def _mean_of_halves(self, flat: Tensor) -> Tensor:
        """The weighted mean of ``[N]`` numbers that travel as bfloat16 and are summed as float32.

        Each process gets a stretch of everybody's, and sends the mean of it to everybody; the mean
        is rounded once more, alike for all.
        """
        world, rank = self.group.world, self.group.rank
        sizes = [len(part) for part in flat.tensor_split(world)]
        arrived = self.group.exchange(flat.bfloat16(), sizes, [sizes[rank]] * world, self.purpose)
        parts = arrived.view(world, -1).float()
        weights = torch.tensor(self._weights, dtype=torch.float32, device=flat.device)
        shares = (weights / weights.sum()).view(-1, 1)
        own = torch.where(shares > 0, parts * shares, 0.0).sum(0).bfloat16()
        sent = own.repeat(world)
        return self.group.exchange(sent, [len(own)] * world, sizes, self.purpose).float()

    def _gather(self, message: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every process's message, by rank; all are of the same names, shapes and types."""
        parts = [_bytes(tensor).to(self.group.device) for tensor in message.values()]
        flat = torch.cat(parts)
        sizes = [len(flat)] * self.group.world
        whole = self.group.exchange(flat.repeat(self.group.world), sizes, sizes, self.purpose)
        found = []
        for own in whole.split(sizes):
            pairs = zip(message.items(), own.split([len(part) for part in parts]), strict=True)
            # A copy begins where its type allows, which a stretch of bytes may not.
            found.append({n: part.clone().view(t.dtype).view(t.shape) for (n, t), part in pairs})
        return [one for one in found if float(one["weight"]) > 0]


class Gradients:
    """Sums the gradients of every step: a round whose local update is one gradient.

    Without a codec it is one sum. With one, each process's update is its gradient, as many times as
    there are processes, so that the mean of all is the sum.

    Args:
        group: The processes.
        codec: How gradients travel; see `CodecName.parse`.
    """

    def __init__(self, group: Group, codec: str) -> None:
        self.group, self.codec = group, CodecName.parse(codec)
        self._head = f"{GRADIENTS}/{codec}/"
        self._averager: Averager | None = None
        self._loaded: dict[str, Tensor] = {}

    def sum(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.group.world == 1 or not parameters:
            return
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        if self.codec.kind == "none":
            found = self.group.sum_all(own, GRADIENTS)
        else:
            found = self._through_codec(own)
        for parameter, part in zip(parameters, found, strict=True):
            parameter.grad = part.view_as(parameter)

    def _through_codec(self, own: list[Tensor]) -> list[Tensor]:
        world = self.group.world
        dense = {str(number): grad * world for number, grad in enumerate(own)}
        if self._averager is None:
            shapes = {name: grad.shape for name, grad in dense.items()}
            self._averager = Averager(self.group, self.codec, shapes, GRADIENTS)
            self._averager.state.update(self._loaded)
        update = Update(dense=dense, tables={}, weight=1.0)
        mean = self._averager.mean(update, [1.0] * world)
        return [mean.dense[name] for name in dense]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep: what the codec left out."""
        own = self._averager.state if self._averager else self._loaded
        return {self._head + name: tensor for name, tensor in own.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; what another codec left out is dropped."""
        head = self._head
        self._loaded = {n.removeprefix(head): t for n, t in state.items() if n.startswith(head)}
        if self._averager is not None:
            self._averager.state.update(self._loaded)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)
