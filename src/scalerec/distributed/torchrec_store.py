"""Tables of a plan in the hands of TorchRec's DistributedModelParallel.

FBGEMM looks rows up, and moves them in the backward pass by an optimiser fused into it; TorchRec
brings ids, rows and gradients to where they belong.

Shapes: N looked-up rows, W columns, P processes.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scalerec.distributed.group import Group
from scalerec.distributed.placement import TablePlan
from scalerec.distributed.torchrec_layout import COPIES, Collection, aligned, collections_of
from scalerec.errors import MissingExtraError
from scalerec.models.engines import RowOptimiser

__all__ = ["Store", "torchrec_is_available"]

# What fits torch 2.13. Its metadata ask for the CUDA build of FBGEMM, hence `--no-deps`.
VERSION = "1.8"
INSTALL = f"pip install --no-deps 'torchrec=={VERSION}.*'"
SHARDING = {
    "row": "row_wise",
    "table": "table_wise",
    "column": "column_wise",
    "replicated": "data_parallel",
}


@dataclass(frozen=True, slots=True)
class Held:
    """What a kernel holds here of one table.

    Args:
        weight: ``[rows, columns]``, live, unused rows and columns with it.
        sums: What the fused optimiser remembers, ``[rows]`` or as `weight`; none if nothing.
    """

    weight: Tensor
    sums: Tensor | None


class Copies:
    """Moves the tables that every process keeps, by the gradients that TorchRec has averaged.

    TorchRec has no fused optimiser for them: a gradient of each whole table goes through
    DistributedDataParallel, so only small tables should be kept so.

    Args:
        weights: All copies in one parameter, flat.
        plan: Where tables are kept.
        optimiser: Moves the rows.
    """

    def __init__(self, weights: nn.Parameter, plan: TablePlan, optimiser: RowOptimiser) -> None:
        self.weights, self.plan, self.optimiser = weights, plan, optimiser
        num = weights.numel() // aligned(plan.width)
        widths = optimiser.state_widths(plan.width)
        self.state = {name: torch.zeros(num, width) for name, width in widths.items()}

    @property
    def rows(self) -> Tensor:
        """All copies, live, ``[R, W]``."""
        whole = self.weights.detach().view(-1, aligned(self.plan.width))
        return whole[:, : self.plan.width]

    @torch.no_grad()
    def move(self, step: int, lr: float) -> None:
        """Move all rows; those without a gradient stay where they are."""
        if self.weights.grad is None:
            return
        whole, used = aligned(self.plan.width), self.plan.width
        grads = self.weights.grad.view(-1, whole)[:, :used] * self.plan.world
        moved, state = self.optimiser.apply(self.rows, grads, self.state, step, lr)
        self.rows.copy_(moved)
        for name, tensor in state.items():
            self.state[name].copy_(tensor)
        self.weights.grad = None


class Store:
    """The tables of a plan, held and moved by TorchRec; their rows are zero at first.

    Args:
        plan: Where each is kept.
        group: The processes.
        optimiser: Moves rows.
        name: Its name: `rowwise_adagrad`, `adagrad` or `sgd`.

    Raises:
        MissingExtraError: If TorchRec or FBGEMM is not installed, or does not fit this torch.
    """

    def __init__(self, plan: TablePlan, group: Group, optimiser: RowOptimiser, name: str) -> None:
        self.plan, self.rank = plan, group.rank
        self.collections = collections_of(plan)
        # State of row-wise Adagrad is 1 / `excess` of what it is without the unused columns.
        self.excess = aligned(plan.width) / plan.width if name == "rowwise_adagrad" else 1.0
        eps = float(getattr(optimiser, "eps", 0.0)) / math.sqrt(self.excess)
        with warnings.catch_warnings():
            # TorchRec and the CPU build of FBGEMM warn of the GPU parts that they lack.
            warnings.simplefilter("ignore")
            _quieten()
            self._api = _api()
            fused = {"optimizer": self._api.kinds[name], "learning_rate": 0.0, "eps": eps}
            self._model = _parallel(self._api, self.collections, fused)
        self._held: dict[int, Held] = {}
        self._fused: list[Any] = []
        self._num_lent = 0
        self.copies: Copies | None = None
        for kernel in self._kernels():
            self._take(kernel, optimiser)

    def _kernels(self) -> Iterator[Any]:
        """The kernels here; TorchRec 1.8 tells of them by private attributes only."""
        for collection in self._model.children():
            lookups: Any = collection._lookups
            for lookup in lookups:
                yield from getattr(lookup, "module", lookup)._emb_modules

    def _take(self, kernel: Any, optimiser: RowOptimiser) -> None:
        """Note what a kernel holds."""
        names = [table.name for table in kernel.config.embedding_tables]
        if names == [COPIES]:
            self.copies = Copies(kernel.emb_module.weights, self.plan, optimiser)
            kernel.emb_module.weights.detach().zero_()
            return
        self._fused.append(kernel.emb_module)
        kernel.emb_module.register_forward_pre_hook(self._count, with_kwargs=True)
        states = kernel.emb_module.split_optimizer_states()
        for place, weight in enumerate(kernel.emb_module.split_embedding_weights()):
            sums = states[place][0] if states and states[place] else None
            self._held[int(names[place][1:])] = Held(weight.detach().zero_(), sums)

    def _count(self, _: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._num_lent += len(named["indices"] if "indices" in named else args[0])

    def weight(self, number: int) -> Tensor:
        """What is kept here of a table, live, ``[rows, columns]``."""
        if self.plan.kinds[number] == "replicated":
            assert self.copies is not None, "copies of tables that are kept so"
            return self.copies.rows[self._among_copies(number)]
        part = self.plan.part(number, self.rank)
        held = self._held.get(number)
        if held is None:
            return torch.empty(0, part.high - part.low)
        return held.weight[: part.size, : part.high - part.low]

    def state(self, number: int) -> dict[str, Tensor]:
        """What the optimiser remembers of it; a copy in float64 where it is scaled."""
        if self.plan.kinds[number] == "replicated":
            assert self.copies is not None, "copies of tables that are kept so"
            own = self._among_copies(number)
            return {name: tensor[own] for name, tensor in self.copies.state.items()}
        sums = self._sums(number)
        if sums is None:
            return {}
        return {"sum": sums if self.excess == 1.0 else sums.double() * self.excess}

    def load_state(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Copy what `state` gave back in."""
        if self.plan.kinds[number] == "replicated":
            for name, tensor in self.state(number).items():
                tensor.copy_(state[name])
            return
        sums = self._sums(number)
        if sums is not None:
            sums.copy_(state["sum"].double() / self.excess)

    def _among_copies(self, number: int) -> slice:
        start = int(self.plan.bases()[number, self.rank])
        return slice(start, start + self.plan.part(number, self.rank).size)

    def _sums(self, number: int) -> Tensor | None:
        held = self._held.get(number)
        if held is None or held.sums is None:
            return None
        part = self.plan.part(number, self.rank)
        sums = held.sums[: part.size]
        return sums.view(-1, 1) if sums.ndim == 1 else sums[:, : part.high - part.low]

    def set_lr(self, lr: float) -> None:
        """The learning rate by which the rows of the next lookup move."""
        for kernel in self._fused:
            kernel.set_learning_rate(lr / math.sqrt(self.excess))

    def lookup(self, place: int, wanted: Tensor, counts: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Look rows up; all processes must at once.

        Args:
            place: Of the collection.
            wanted: Numbers of the rows in their tables, ``[N]`` int64, by table as it has them.
            counts: How many of each table, int64.

        Returns:
            The rows, ``[N, W]``, tied to a backward pass that moves them; and how many were asked
            of other processes, and how many they asked here.
        """
        own = self.collections[place]
        numbered, lengths, asked = own.renumber(wanted, counts)
        self._num_lent = 0
        jagged = self._api.KeyedJaggedTensor(own.keys, numbered, lengths=lengths)
        found = self._model.get_submodule(_name(place))(jagged)
        rows = torch.cat([found[key].values() for key in own.keys])
        here = int(asked[self.rank])
        moved = int(asked.sum()) - here, self._num_lent - here
        if own.columns is not None:
            return rows.index_select(1, own.columns), moved
        return rows[: len(wanted), : self.plan.width], moved


def torchrec_is_available() -> bool:
    """Whether TorchRec can be imported; a build for another torch fails with an OSError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import fbgemm_gpu  # noqa: F401
            import torchrec  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def _quieten() -> None:
    """What TorchRec and FBGEMM tell at each start, and nobody can do anything about."""
    for name in ("torchrec.distributed.utils", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _name(place: int) -> str:
    return f"held{place}"


def _parallel(api: Any, collections: list[Collection], fused: dict[str, Any]) -> nn.Module:
    """TorchRec's sharded module of these collections, each process with its pieces alone."""
    if not dist.is_initialized():
        # TorchRec wants a group, also of one process.
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    # Gradients are summed, not averaged: each process's loss is its share of the whole.
    api.set_gradient_division(False)
    model, plans = nn.Module(), {}
    for place, own in enumerate(collections):
        tables = [
            api.EmbeddingConfig(
                name=key, num_embeddings=size, embedding_dim=own.width, feature_names=[key]
            )
            for key, size in zip(own.keys, own.sizes, strict=True)
        ]
        meta = torch.device("meta")
        model.add_module(_name(place), api.EmbeddingCollection(tables=tables, device=meta))
        shardings = {key: _sharding(api, own, i) for i, key in enumerate(own.keys)}
        plans[_name(place)] = api.EmbeddingModuleShardingPlan(shardings)
    whole = dist.group.WORLD
    parallel = api.DistributedModelParallel(
        model,
        env=api.ShardingEnv.from_process_group(whole),
        device=torch.device("cpu"),
        plan=api.ShardingPlan(plans),
        sharders=[api.EmbeddingCollectionSharder(fused_params=fused)],
        init_data_parallel=False,
    )
    module: nn.Module = parallel.module
    return module


def _sharding(api: Any, own: Collection, place: int) -> Any:
    """TorchRec's word for where a table is kept."""
    kind, pieces = own.plan.kinds[own.numbers[place]], own.pieces(place)
    whole = kind == "replicated"
    shards = [
        api.ShardMetadata(shard_offsets=offsets, shard_sizes=sizes, placement=f"rank:{p}/cpu")
        for p, sizes, offsets in pieces
    ]
    return api.ParameterSharding(
        sharding_type=SHARDING[kind],
        compute_kernel="dense" if whole else "fused",
        ranks=[p for p, _, _ in pieces],
        sharding_spec=None if whole else api.EnumerableShardingSpec(shards),
    )


def _api() -> Any:
    """What is used of TorchRec and FBGEMM."""
    try:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
        from torchrec.distributed import types
        from torchrec.distributed.comm_ops import set_gradient_division
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.model_parallel import DistributedModelParallel
    except (ImportError, OSError) as error:
        raise MissingExtraError(f"torchrec {VERSION}", "fused", INSTALL) from error
    return SimpleNamespace(
        kinds={
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
            "sgd": EmbOptimType.EXACT_SGD,
        },
        EmbeddingCollection=EmbeddingCollection,
        EmbeddingConfig=EmbeddingConfig,
        KeyedJaggedTensor=KeyedJaggedTensor,
        EmbeddingModuleShardingPlan=types.EmbeddingModuleShardingPlan,
        EnumerableShardingSpec=types.EnumerableShardingSpec,
        ParameterSharding=types.ParameterSharding,
        ShardingEnv=types.ShardingEnv,
        ShardingPlan=types.ShardingPlan,
        ShardMetadata=types.ShardMetadata,
        set_gradient_division=set_gradient_division,
        EmbeddingCollectionSharder=EmbeddingCollectionSharder,
        DistributedModelParallel=DistributedModelParallel,
    )
