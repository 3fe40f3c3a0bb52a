"""TorchRec and scalerec: steps of two processes (or more) on the same global batches, in turns.

Copies of this script run at once, each on one thread. Ways of a step:

- `scalerec`: this package, its own exchange of rows, through memory that the processes share;
- `scalerec over sockets`: the same by gloo alone, as between hosts, and as TorchRec sends;
- `scalerec, TorchRec's tables`: the same loop and the same dense part, the rows in TorchRec's hands
  (`distributed.engine = torchrec`);
- `TorchRec KIND ...`: TorchRec as its users write it: DistributedModelParallel over the whole
  model, tables by a fused optimiser, the dense part in DistributedDataParallel, with or without
  TrainPipelineSparseDist, which sends the next batch's ids while this one is computed.

All batches lie in memory before, in each system's own form. A turn is timed from all being ready
to all being done; processor time, of all processes together, says what other users of a machine
do not disturb.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import torch
from child import report, start
from scalerec_deepfm import open_dataset
from torch import Tensor, nn

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.distributed import DistributedConfig, Group, Processes, join_group
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.optim import build_optimiser
from scalerec.train import Learner, TrainConfig

warnings.simplefilter("ignore")
import torchrec  # noqa: E402
from fbgemm_gpu.split_embedding_configs import EmbOptimType  # noqa: E402
from torchrec.distributed.comm_ops import set_gradient_division  # noqa: E402
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder  # noqa: E402
from torchrec.distributed.model_parallel import DistributedModelParallel  # noqa: E402
from torchrec.distributed.sharding_plan import (  # noqa: E402
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist  # noqa: E402
from torchrec.distributed.types import ShardingEnv, ShardingPlan  # noqa: E402
from torchrec.streamable import Pipelineable  # noqa: E402

NUM_BATCHES = 16
Step = Callable[[], float]


class Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """TorchRec's own, which offers row-wise sharding on the CPU too."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """What is asked for here."""
        return ["row_wise", "table_wise"]


@dataclass
class PeerBatch(Pipelineable):  # type: ignore[misc]
    """A batch as TorchRec has it.

    Args:
        ids: One id a field and row.
        dense: ``[B, N]``.
        labels: ``[B]``.
    """

    ids: Any
    dense: Tensor
    labels: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "PeerBatch":  # noqa: ARG002
        """Itself: all is on the CPU."""
        return self

    def record_stream(self, stream: Any) -> None:
        """Nothing to do on the CPU."""

    def pin_memory(self) -> "PeerBatch":
        """Itself."""
        return self


class PeerDeepFM(nn.Module):
    """DeepFM over TorchRec's embedding bags: 16 columns, the first-order weight, three unused."""

    def __init__(self, job: dict[str, Any], fields: list[str], rows: int, num_numbers: int) -> None:
        super().__init__()
        self.dim, self.num_fields, self.bf16 = job["dim"], len(fields), job["precision"] == "bf16"
        self.width = -(-(self.dim + 1) // 4) * 4
        std = job["init_std"]
        self.bags = torchrec.EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                torchrec.EmbeddingBagConfig(
                    name=f"t_{name}",
                    num_embeddings=rows,
                    embedding_dim=self.width,
                    feature_names=[name],
                    weight_init_min=-std,
                    weight_init_max=std,
                )
                for name in fields
            ],
        )
        self.numbers = nn.Parameter(torch.randn(num_numbers, self.dim + 1) * std)
        sizes = [(len(fields) + num_numbers) * self.dim, *job["hidden"]]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.tower = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, batch: PeerBatch) -> tuple[Tensor, Tensor]:
        """The loss, twice: TorchRec's pipelines want what they step by, and what they give."""
        rows = self.bags(batch.ids).values().view(-1, self.num_fields, self.width)
        numbers = batch.dense.unsqueeze(-1) * self.numbers
        fields = torch.cat([rows[:, :, : self.dim], numbers[:, :, : self.dim]], 1)
        linear = rows[:, :, self.dim].sum(1) + numbers[:, :, self.dim].sum(1)
        pairs = 0.5 * (fields.sum(1).square() - fields.square().sum(1)).sum(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            deep = self.tower(fields.flatten(1)).squeeze(1)
        logits = linear + pairs + deep.float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return loss, loss.detach()


def ours(
    job: dict[str, Any], group: Group, dataset: Dataset, engine: str, held: list[Batch]
) -> Step:
    """A step of this package."""
    own = {"batch_size": job["batch_size"], "seed": job["seed"], "precision": job["precision"]}
    config = TrainConfig.from_dict({**job["settings"], **own})
    runtime = Processes(group, DistributedConfig.from_dict({"engine": engine, "sharding": "row"}))
    settings = {"model": "deepfm", "settings": {"dim": job["dim"], "hidden": job["hidden"]}}
    spec = ModelSpec.from_dict({**settings, "init_std": job["init_std"]})
    make_tables = runtime.make_tables(config.tables)
    recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
    learner, batches = Learner(recommender, dataset, config, runtime), cycle(held)

    def step() -> float:
        set_gradient_division(False)
        return learner.step(next(batches), 1.0) * group.world

    return step


def theirs(
    job: dict[str, Any], dataset: Dataset, kind: str, piped: bool, held: list[PeerBatch]
) -> Step:
    """A step of TorchRec."""
    fields = [field.name for field in dataset.layout.ids]
    rows = max(dataset.layout.tables.values())
    config = TrainConfig.from_dict(job["settings"])
    torch.manual_seed(job["seed"])
    model = PeerDeepFM(job, fields, rows, len(dataset.layout.numbers))
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD}
    fused |= {"learning_rate": config.tables.lr, "eps": config.tables.eps}
    sharder, env = (
        Sharder(fused_params=fused),
        ShardingEnv.from_process_group(torch.distributed.group.WORLD),
    )
    world = env.world_size
    placed = {
        f"t_{name}": row_wise(compute_kernel="fused")
        if kind == "row"
        else table_wise(rank=i % world, compute_kernel="fused")
        for i, name in enumerate(fields)
    }
    plan = construct_module_sharding_plan(
        model.bags, placed, sharder, local_size=world, world_size=world, device_type="cpu"
    )
    device = torch.device("cpu")
    parallel = DistributedModelParallel(
        model, env=env, device=device, plan=ShardingPlan({"bags": plan}), sharders=[sharder]
    )
    dense = [p for name, p in parallel.named_parameters() if ".bags." not in f".{name}"]
    optimiser = build_optimiser(config.dense, dense)
    batches = cycle(held)
    if piped:
        pipeline = TrainPipelineSparseDist(parallel, optimiser, device)

        def step() -> float:
            set_gradient_division(True)
            return float(pipeline.progress(batches))
    else:

        def step() -> float:
            set_gradient_division(True)
            optimiser.zero_grad(set_to_none=True)
            loss, given = parallel(next(batches))
            loss.backward()
            optimiser.step()
            return float(given)

    return step


def peer_batches(dataset: Dataset, held: list[Batch]) -> Iterator[PeerBatch]:
    """The same batches in TorchRec's form."""
    keys = [field.name for field in dataset.layout.ids]
    for batch in held:
        ids = batch.ids.flatten().to(torch.int64)
        lengths = torch.ones(len(ids), dtype=torch.int64)
        jagged = torchrec.KeyedJaggedTensor(keys, ids, lengths=lengths)
        yield PeerBatch(jagged, batch.dense, batch.labels[:, 0].contiguous())


def main() -> None:
    job = start()
    with join_group() as group:
        path = f"{job['folder']}/{job['train']}-test.scalerec"
        dataset = open_dataset(path, job["rows_per_field"])
        share = (group.rank, group.world)
        loader = Loader(dataset.split("train"), job["batch_size"], job["seed"], share=share)
        held = [batch for batch, _ in zip(loader.epoch(0), range(NUM_BATCHES), strict=False)]
        peers = list(peer_batches(dataset, held))
        sockets = Group(group.rank, group.world, group.device)
        steps: dict[str, Step] = {}
        for way in job["ways"]:
            if way.startswith("scalerec"):
                engine = "torchrec" if "TorchRec" in way else "scalerec"
                crew = sockets if "sockets" in way else group
                steps[way] = ours(job, crew, dataset, engine, held)
            else:
                _, kind, *rest = way.split()
                steps[way] = theirs(job, dataset, kind, "pipelined" in rest, peers)
        times: dict[str, list[float]] = {way: [] for way in steps}
        worked: dict[str, list[float]] = {way: [] for way in steps}
        losses: dict[str, list[float]] = {way: [] for way in steps}
        for turn in range(job["turns"] + 1):
            for way, step in steps.items():
                group.wait()
                begun, work = time.perf_counter(), time.process_time()
                losses[way] += [step() for _ in range(job["steps"])]
                group.wait()
                taken, work = time.perf_counter() - begun, time.process_time() - work
                work = float(group.sum(torch.tensor([work], dtype=torch.float64), "work"))
                # The first turn compiles kernels and fills caches.
                if turn:
                    times[way].append(taken / job["steps"])
                    worked[way].append(work / job["steps"])
        if group.rank == 0:
            report(seconds=times, worked=worked, losses=losses)


if __name__ == "__main__":
    main()
