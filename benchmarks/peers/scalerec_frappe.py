"""scalerec's DeepFM on Frappe; run in the environment of the script that asks.

The clock runs from the opening of the data set until the first evaluation that reaches the target,
and on to the end. The test part is read once, with the weights that were best on the validation
part.
"""

import time

from child import report, start

from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import TrainConfig, train


def main() -> None:
    job = start()
    spec = ModelSpec.from_dict(job["model"])
    config = TrainConfig.from_dict({**job["settings"], "seed": job["seed"]})
    began = time.perf_counter()
    dataset = Dataset(job["folder"])
    opened = time.perf_counter() - began
    trained = train(dataset, spec, config)
    whole = time.perf_counter() - began
    making = whole - opened - trained.seconds
    # Our clock takes the making of the model in, which the peer's leaves out.
    curve = [
        {
            "step": entry["step"],
            "auc": entry["valid/auc"],
            "seconds": opened + making + entry["seconds"],
        }
        for entry in trained.curve
    ]
    reached = [entry for entry in curve if entry["auc"] >= job["target"]]
    outcome = {"curve": curve, "reached": reached[0] if reached else None, "whole": whole}
    outcome["valid"] = max(entry["auc"] for entry in curve)
    if job["judge"]:
        judge = EvaluateConfig(split="test", ranking="no")
        outcome["test"] = evaluate(trained.recommender, dataset, judge).metrics["auc"]
    report(**outcome)


if __name__ == "__main__":
    main()
