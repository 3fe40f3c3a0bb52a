"""What processes of a test do: steps of several cases, and what the models then say."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalerec.distributed import Group

__all__ = ["main"]


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Losses of each case's steps, the numbers of its dense part, and scores of validation rows."""
    import torch

    from scalerec.distributed import join_group

    torch.set_num_threads(1)
    with join_group() as group:
        return {name: take_steps(case, group) for name, case in job["cases"].items()}


def take_steps(case: dict[str, Any], group: "Group") -> dict[str, Any]:
    """One case: all epochs, without the loop around them."""
    import torch

    from scalerec.data.dataset import Dataset
    from scalerec.data.loading import read_in_order
    from scalerec.distributed import DistributedConfig, Processes
    from scalerec.models.recommender import ModelSpec, build_recommender
    from scalerec.scoring import score_all
    from scalerec.train import Learner, TrainConfig

    dataset, config = Dataset(case["data"]), TrainConfig.from_dict(case["config"])
    runtime = Processes(group, DistributedConfig.from_dict(case.get("distributed", {})))
    spec = ModelSpec.from_dict(case["spec"])
    make_tables = runtime.make_tables(config.tables)
    recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
    learner = Learner(recommender, dataset, config, runtime)
    loader = runtime.make_loader(dataset, config)
    losses, sizes = [], []
    for epoch in range(config.epochs):
        for batch in loader.epoch(epoch):
            sizes.append(len(batch))
            loss = torch.tensor([learner.step(batch, 1.0)], dtype=torch.float64)
            losses.append(float(group.sum(loss, "losses")))
    dense = {
        name: tensor.double().flatten().tolist()
        for name, tensor in recommender.to_tensors().items()
        if not name.startswith("tables.")
    }
    batches = read_in_order(dataset.split("valid"), 30)
    scores = [logits for _, logits in score_all(recommender, batches, crew=runtime)]
    flat = torch.cat([torch.from_numpy(part).flatten() for part in scores]).tolist()
    return {"losses": losses, "sizes": sizes, "dense": dense, "scores": flat}


def evaluations(job: dict[str, Any]) -> dict[str, Any]:
    """What each case's model is worth before it learned, as this process is told."""
    import torch

    from scalerec.distributed import join_group
    from scalerec.scoring import scores

    torch.set_num_threads(1)
    scores.SCORE_BATCH = job["batch"]
    with join_group() as group:
        found = {name: evaluate_one(case, group) for name, case in job["cases"].items()}
        return {"found": found, "sent": group.traffic.sent, "received": group.traffic.received}


def evaluate_one(case: dict[str, Any], group: "Group") -> dict[str, Any]:
    """One case: its metrics, or why there are none."""
    from dataclasses import asdict

    from scalerec.data.dataset import Dataset
    from scalerec.distributed import Processes
    from scalerec.errors import TrainError
    from scalerec.models.recommender import ModelSpec, build_recommender
    from scalerec.scoring import EvaluateConfig, evaluate
    from scalerec.train import TrainConfig

    dataset, config = Dataset(case["data"]), TrainConfig.from_dict(case["config"])
    runtime = Processes(group)
    make_tables = runtime.make_tables(config.tables)
    spec = ModelSpec.from_dict(case["spec"])
    recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
    if case["spoilt"]:
        for parameter in recommender.dense_parameters().values():
            parameter.data[:] = float("nan")
    how = EvaluateConfig(split=case["split"], ranking=case["ranking"], ks=(3,))
    try:
        return asdict(evaluate(recommender, dataset, how, runtime))
    except TrainError as error:
        return {"error": str(error)}


def shards(job: dict[str, Any]) -> dict[str, Any]:
    """A run on each kind of shards: its curve, the times of the rows seen, and the report."""
    import torch

    from scalerec.distributed import join_group

    torch.set_num_threads(1)
    with join_group() as group:
        return {name: learn_from(job, how, group) for name, how in job["cases"].items()}


def learn_from(job: dict[str, Any], how: dict[str, Any], group: "Group") -> dict[str, Any]:
    """One kind of shards."""
    from scalerec.data.dataset import Dataset
    from scalerec.data.loading import Loader
    from scalerec.distributed import DistributedConfig, Processes
    from scalerec.distributed.skew import shard_report
    from scalerec.models.recommender import ModelSpec
    from scalerec.train import TrainConfig, train

    seen: list[list[list[int]]] = []
    plain = Loader.epoch

    def watched(self: Loader, number: int, first_step: int = 0) -> Any:
        seen.append([])
        for batch in plain(self, number, first_step):
            seen[-1].append(batch.times.tolist())
            yield batch

    Loader.epoch = watched  # type: ignore[method-assign]
    dataset, config = Dataset(job["data"]), TrainConfig.from_dict(job["config"])
    runtime = Processes(group, DistributedConfig.from_dict(how))
    try:
        trained = train(dataset, ModelSpec.from_dict(job["spec"]), config, runtime=runtime)
    finally:
        Loader.epoch = plain  # type: ignore[method-assign]
    report = shard_report(dataset, config, runtime)
    told = {"table": report.table(), "report": report.to_dict()}
    curve = [{k: v for k, v in entry.items() if k != "seconds"} for entry in trained.curve]
    return {"seen": seen, "curve": curve, "steps": trained.num_steps, **told}


TASKS = {"evaluations": evaluations, "shards": shards, "steps": steps}


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
