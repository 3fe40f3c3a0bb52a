"""FuxiCTR's DeepFM on Frappe with the published settings; run in its own environment.

The clock runs from the opening of the files until the first evaluation that reaches the target, and
on to the end of the early stopping; evaluations are timed apart. The test part is read once, with
the weights that were best on the validation part.
"""

import json
import logging
import time
from typing import Any

import torch
from child import area_under_curve, read_columns, report, start
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr_model import DeepFM, feature_map

LABEL = "label"
# BARS, DeepFM on Frappe_x1, the run of its leaderboard: tower 3 x 400 with batch normalisation and
# dropout, Adam at 1e-3 that falls to a tenth when the validation AUC does not rise, patience 2.
PUBLISHED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "embedding_dim": 10,
    "embedding_regularizer": 0.05,
    "net_regularizer": 0,
    "tower": {"hidden_units": [400, 400, 400], "batch_norm": True, "dropout_rates": 0.2},
    "early_stop_patience": 2,
    "reduce_lr_on_plateau": True,
}
BATCH = 4096
EPOCHS = 100


class Watched(DeepFM):
    """Notes when which validation AUC was reached."""

    def begin(self, target: float, stop_at_target: bool) -> None:
        """Start the clock."""
        self.target, self.stop_at_target = target, stop_at_target
        self.began = time.perf_counter()
        self.evaluating = 0.0
        self.curve: list[dict[str, float]] = []

    def evaluate(self, data_generator: Any, metrics: Any = None) -> dict[str, float]:
        """As FuxiCTR does it, timed."""
        before = time.perf_counter()
        found: dict[str, float] = super().evaluate(data_generator, metrics)
        now = time.perf_counter()
        self.evaluating += now - before
        seconds = now - self.began
        entry = {"auc": found["AUC"], "seconds": seconds, "without": seconds - self.evaluating}
        self.curve.append({"step": self._total_steps, **entry})
        return found

    def checkpoint_and_earlystop(self, logs: dict[str, float], min_delta: float = 1e-6) -> None:
        """As FuxiCTR does it; a run for the time alone ends at the target."""
        super().checkpoint_and_earlystop(logs, min_delta)
        if self.stop_at_target and logs["AUC"] >= self.target:
            self._stop_training = True


def main() -> None:
    job = start()
    torch.manual_seed(job["seed"])
    logging.disable(logging.INFO)
    features = feature_map(job["folder"], job["sizes"], (), LABEL, PUBLISHED["embedding_dim"])
    model = Watched(
        features,
        **PUBLISHED,
        eval_steps=job["eval_steps"],
        model_root=job["scratch"],
        metrics=["AUC"],
        verbose=0,
    )
    model.checkpoint = f"{job['scratch']}/best.model"
    model.begin(job["target"], job["stop_at_target"])

    def loaders(stage: str, **files: str) -> Any:
        paths = {name: f"{job['folder']}/{file}.npz" for name, file in files.items()}
        how = {"shuffle": True, "num_workers": job["workers"]}
        return RankDataLoader(features, stage=stage, **paths, batch_size=BATCH, **how)

    train, valid = loaders("train", train_data="train", valid_data="valid")
    model.fit(train, epochs=EPOCHS, validation_data=valid)
    whole = time.perf_counter() - model.began
    reached = [entry for entry in model.curve if entry["auc"] >= job["target"]]
    outcome = {"curve": model.curve, "reached": reached[0] if reached else None, "whole": whole}
    outcome["valid"] = max(entry["auc"] for entry in model.curve)
    if job["judge"]:
        labels = read_columns(f"{job['folder']}/test.npz")[LABEL]
        scores = model.predict(loaders("test", test_data="test"))
        outcome["test"] = area_under_curve(labels, scores)
    print(json.dumps(model.curve))
    report(**outcome)


if __name__ == "__main__":
    main()
