"""scalerec: its data set and its `train`; run in the environment of the script that asks.

The data set was prepared before, once, as the peers' files were encoded. Its tables get R rows a
field (and two for padding and unknown ids), as the peers' do, also where not all ids were met.
"""

from dataclasses import replace
from typing import Any

from child import Clock, report, start

from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import TrainConfig, train

__all__ = ["open_dataset"]


def open_dataset(path: str, rows_per_field: int) -> Dataset:
    """The data set, with tables of R rows each."""
    dataset = Dataset(path)
    tables = dict.fromkeys(dataset.layout.tables, rows_per_field + 2)
    dataset.layout = replace(dataset.layout, tables=tables)
    return dataset


def main() -> None:
    job = start()
    settings = {"model": "deepfm", "settings": {"dim": job["dim"], "hidden": job["hidden"]}}
    spec = ModelSpec.from_dict({**settings, "init_std": job["init_std"]})
    config = TrainConfig.from_dict(
        {
            **job["settings"],
            "epochs": 1,
            "batch_size": job["batch_size"],
            "seed": job["seed"],
            "patience": -1,
            "precision": job["precision"],
        }
    )

    def opened(name: str) -> Dataset:
        path = f"{job['folder']}/{name}-{job['judge'] or 'test'}.scalerec"
        return open_dataset(path, job["rows_per_field"])

    # Compiles kernels and warms the processor, as the first steps do for the peers.
    train(opened("warm"), spec, config)
    clock = Clock()
    with clock.part("load"):
        dataset = opened(job["train"])
    trained = train(dataset, spec, config)
    # From the first batch's loading to the last step; the model's making is not in it, as for all.
    clock.parts["train"] = trained.seconds
    outcome: dict[str, Any] = {"rows": dataset.num_rows("train"), "seconds": clock.total}
    if job["judge"]:
        config_judge = EvaluateConfig(split="test", ranking="no")
        outcome["auc"] = evaluate(trained.recommender, dataset, config_judge).metrics["auc"]
    report(**outcome, **clock.parts)


if __name__ == "__main__":
    main()
