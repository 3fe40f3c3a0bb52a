"""FuxiCTR: its loader, its layers, its `fit`; run in its own environment."""

import logging
from typing import Any

from child import (
    CATEGORICAL,
    LABEL,
    NUMBERS,
    Clock,
    area_under_curve,
    autocast_forward,
    read_columns,
    report,
    start,
)
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr_model import DeepFM, feature_map


class Trained(DeepFM):
    """Trains for one epoch: no validation within, so there is no best checkpoint to load either."""

    def eval_step(self) -> None:
        """Left out of the timing, for all systems alike."""

    def load_weights(self, checkpoint: str) -> None:
        """The last weights stay."""


def to_float(given: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.float() for name, tensor in given.items()}


def main() -> None:
    job = start()
    logging.disable(logging.INFO)
    sizes = dict.fromkeys(CATEGORICAL, job["rows_per_field"])
    features = feature_map(job["folder"], sizes, NUMBERS, LABEL, job["dim"])
    model = Trained(
        features,
        learning_rate=job["lr"],
        embedding_dim=job["dim"],
        tower={"hidden_units": job["hidden"]},
        model_root=job["folder"],
        metrics=["AUC"],
        verbose=0,
    )
    autocast_forward(model, job["autocast"], to_float)

    def loader(name: str, stage: str) -> Any:
        ending = job["loader"]
        found = RankDataLoader(
            features,
            stage=stage,
            **{f"{stage}_data": f"{job['folder']}/{name}.{ending}"},
            batch_size=job["batch_size"],
            shuffle=True,
            data_format=ending,
            num_workers=job["workers"],
        )
        return found[0] if stage == "train" else found

    model.fit(loader("warm", "train"), epochs=1)
    clock = Clock()
    with clock.part("load"):
        batches = loader(job["train"], "train")
    with clock.part("train"):
        model.fit(batches, epochs=1)
    outcome: dict[str, Any] = {"rows": batches.num_samples, "seconds": clock.total}
    if job["judge"]:
        labels = read_columns(f"{job['folder']}/{job['judge']}.npz")[LABEL]
        outcome["auc"] = area_under_curve(labels, model.predict(loader(job["judge"], "test")))
    report(**outcome, **clock.parts)


if __name__ == "__main__":
    main()
