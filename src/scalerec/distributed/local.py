"""Local SGD: each process takes steps of its own, then parameters are averaged.

A round is one of `scalerec.rounds`: the local update is the learner's H steps, the codec is that of
the settings, and the aggregator moves the parameters that all had by the weighted mean of the
displacements, or takes that mean as a gradient for an outer optimiser with momentum.

Papers: Local SGD Converges Fast and Communicates Little, Stich, 2019,
https://arxiv.org/abs/1805.09767; the outer optimiser: DiLoCo, Douillard et al., 2023, algorithm 1,
https://arxiv.org/abs/2311.08105; with a codec: Qsparse-local-SGD, Basu et al., 2019,
https://arxiv.org/abs/1906.02367. Inner optimisers keep their state, each process its own.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.distributed.aggregating import Averager
from scalerec.distributed.cached import Cache
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.group import Group
from scalerec.distributed.tables import ShardedTables
from scalerec.models.tables import Tables
from scalerec.optim import Sgd, sgd
from scalerec.rounds import Aggregator, Parameters, difference, mean_aggregator, optimised_mean
from scalerec.rounds.codecs import CodecName

__all__ = ["LocalRounds", "outer_aggregator"]

DENSE, BUFFERS = "displacements", "buffers"
OUTER = "outer/"


def outer_aggregator(config: DistributedConfig) -> Aggregator:
    """How the mean displacement moves the dense part.

    Nesterov's momentum, as DiLoCo has it: ``m = momentum * m + d; w = w + lr * (d + momentum * m)``
    for the mean displacement d. Rows of tables have no momentum.

    Args:
        config: Gives the outer learning rate and momentum.
    """
    if config.outer_lr == 1.0 and not config.outer_momentum:
        return mean_aggregator("holders")
    momentum = config.outer_momentum
    optimiser = sgd(config.outer_lr, momentum, nesterov=momentum > 0)
    return optimised_mean(optimiser, Sgd(), rows_lr=config.outer_lr, over="holders")


class LocalRounds:
    """The rounds of one process.

    Args:
        group: The processes.
        config: Their settings.
    """

    def __init__(self, group: Group, config: DistributedConfig) -> None:
        self.group, self.config = group, config
        self._codec = CodecName.parse(config.codec)
        self._head = f"{DENSE}/{config.codec}/"
        self._aggregator = outer_aggregator(config)
        self._averager: Averager | None = None
        self._outer: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}
        self._before = self._start = Parameters(dense={}, tables={})
        self._weights: list[float] = []
        self._cache: Cache | None = None

    def begin(
        self, tables: Tables, parameters: Mapping[str, Tensor], batches: Sequence[Batch]
    ) -> None:
        """Note where all start from, and bring the rows of tables here that the steps will read.

        Args:
            tables: Whole ones, which are among the parameters, or spread ones.
            parameters: The dense part by name, live; the same on all processes. What the codec has
                not sent of this one's steps is added in place.
            batches: This process's, one a step; one may be empty.
        """
        rows = [float(sum(len(batch) for batch in batches))]
        weight = torch.tensor(rows, dtype=torch.float64, device=self.group.device)
        parts = self.group.gather(weight, "weights of a round")
        self._weights = [float(part) for part in parts]
        self._before = _copy(parameters)
        if self._averager is None:
            self._make(self._before)
        assert self._averager is not None, "just made"
        for name, missed in self._averager.missed().items():
            parameters[name].data.add_(missed)
        self._start = _copy(parameters)
        if isinstance(tables, ShardedTables):
            self._cache = Cache(tables, batches)

    def end(self, parameters: Mapping[str, Tensor], buffers: Sequence[Tensor]) -> None:
        """Average what the steps changed; all processes then have the same again.

        Args:
            parameters: As in `begin`, after the steps; moved in place.
            buffers: Numbers that no optimiser moves, such as running means; averaged in place.
        """
        after, own = self._before, self._weights[self.group.rank]
        if math.fsum(self._weights) > 0:
            assert self._averager is not None, "made at the first round's begin"
            update = difference(_copy(parameters), self._start, {}, own)
            mean = self._averager.mean(update, self._weights)
            after, self._outer = self._aggregator.apply(self._before, [mean], self._outer)
            self._average(buffers)
        for name, parameter in parameters.items():
            parameter.copy_(after.dense[name])
        if self._cache is not None:
            self._cache.give_back(self._weights, self.config.outer_lr)
            self._cache = None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep: what the codec left out, and the outer momentum."""
        if self._averager is None:
            return dict(self._loaded)
        out = {self._head + name: tensor for name, tensor in self._averager.state.items()}
        return out | {OUTER + name: tensor for name, tensor in self._outer.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; what another codec left out is dropped."""
        self._loaded = dict(state)
        if self._averager is not None:
            self._load()

    def _make(self, before: Parameters) -> None:
        shapes = {name: tensor.shape for name, tensor in before.dense.items()}
        self._averager = Averager(self.group, self._codec, shapes, DENSE)
        self._outer = self._aggregator.init(before)
        self._load()

    def _load(self) -> None:
        assert self._averager is not None, "it holds what is loaded"
        for target, head in ((self._averager.state, self._head), (self._outer, OUTER)):
            found = {n: t for n, t in self._loaded.items() if n.startswith(head)}
            target.update({n.removeprefix(head): t for n, t in found.items()})

    def _average(self, buffers: Sequence[Tensor]) -> None:
        if not buffers:
            return
        share = self._weights[self.group.rank] / math.fsum(self._weights)
        flat = torch.cat([buffer.flatten() for buffer in buffers]) * share
        parts = self.group.sum(flat, BUFFERS).split([buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def _copy(parameters: Mapping[str, Tensor]) -> Parameters:
    dense = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    return Parameters(dense=dense, tables={})
