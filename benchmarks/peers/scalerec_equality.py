"""scalerec: losses of steps on the same global batches, and an AUC, for one number of processes.

Each copy of this script is one process of a group. For every way of keeping tables it trains from
the same start, then scores the test part together with the others and compares the AUC that
`evaluate` gives with that of all scores, computed here in another way.
"""

from typing import Any

import numpy as np
import torch
from child import area_under_curve, report, start
from scalerec_deepfm import open_dataset

from scalerec.data.loading import Loader, read_in_order
from scalerec.distributed import DistributedConfig, Group, Processes, join_group
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.scoring.scores import score_all
from scalerec.train import Learner, TrainConfig


def run(job: dict[str, Any], group: Group, distributed: dict[str, Any]) -> dict[str, Any]:
    """Losses of all processes together, and the two AUCs."""
    path = f"{job['folder']}/{job['train']}-test.scalerec"
    dataset = open_dataset(path, job["rows_per_field"])
    own = {"batch_size": job["batch_size"], "seed": job["seed"], "precision": job["precision"]}
    config = TrainConfig.from_dict({**job["settings"], **own})
    settings = {"model": "deepfm", "settings": {"dim": job["dim"], "hidden": job["hidden"]}}
    spec = ModelSpec.from_dict({**settings, "init_std": job["init_std"]})
    runtime = Processes(group, DistributedConfig.from_dict(distributed))
    tables = runtime.make_tables(config.tables)
    recommender = build_recommender(dataset.layout, spec, config.seed, tables)
    learner = Learner(recommender, dataset, config, runtime)
    share = (group.rank, group.world)
    loader = Loader(dataset.split("train"), config.batch_size, config.seed, share=share)
    losses: list[float] = []
    epoch = 0
    while len(losses) < job["steps"]:
        for batch in loader.epoch(epoch):
            loss = torch.tensor([learner.step(batch, 1.0)], dtype=torch.float64)
            losses.append(float(group.sum(loss, "losses")))
        epoch += 1
    judge = EvaluateConfig(split="test", ranking="no")
    found = evaluate(recommender, dataset, judge, runtime).metrics["auc"]
    batches = read_in_order(dataset.split("test"), 1000)
    scored = list(score_all(recommender, batches, crew=runtime))
    labels = np.concatenate([batch.labels[:, 0].numpy() for batch, _ in scored])
    scores = np.concatenate([logits[:, 0] for _, logits in scored])
    return {
        "losses": losses[: job["steps"]],
        "auc": found,
        "auc of all scores": area_under_curve(labels, scores),
    }


def main() -> None:
    job = start()
    with join_group() as group:
        found = {name: run(job, group, how) for name, how in job["ways"].items()}
        if group.rank == 0:
            report(ways=found)


if __name__ == "__main__":
    main()
