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


TASKS = {"steps": steps}


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
