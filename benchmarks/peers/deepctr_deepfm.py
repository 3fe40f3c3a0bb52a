"""DeepCTR-Torch: its DeepFM and its `fit` on arrays in memory; run in its own environment."""

from typing import Any

import numpy as np
import torch
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
from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DeepFM


def main() -> None:
    job = start()
    columns = [SparseFeat(n, job["rows_per_field"], embedding_dim=job["dim"]) for n in CATEGORICAL]
    columns += [DenseFeat(name) for name in NUMBERS]
    model = DeepFM(
        columns,
        columns,
        dnn_hidden_units=job["hidden"],
        l2_reg_linear=0.0,
        l2_reg_embedding=0.0,
        seed=job["seed"],
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=job["lr"])
    model.compile(optimiser, "binary_crossentropy")
    autocast_forward(model, job["autocast"], torch.Tensor.float)

    def load(name: str) -> tuple[dict[str, Any], Any]:
        held = read_columns(f"{job['folder']}/{name}.npz")
        labels = held.pop(LABEL)
        # One type, so that its own joining of the columns copies less; ids fit fp32 exactly.
        return {key: values.astype(np.float32) for key, values in held.items()}, labels

    def fit(data: tuple[dict[str, Any], Any]) -> None:
        model.fit(*data, batch_size=job["batch_size"], epochs=1, verbose=0)

    fit(load("warm"))
    clock = Clock()
    with clock.part("load"):
        data = load(job["train"])
    with clock.part("train"):
        fit(data)
    outcome: dict[str, Any] = {"rows": len(data[1]), "seconds": clock.total}
    if job["judge"]:
        held, labels = load(job["judge"])
        scores = model.predict(held, batch_size=job["batch_size"]).reshape(-1)
        outcome["auc"] = area_under_curve(labels, scores)
    report(**outcome, **clock.parts)


if __name__ == "__main__":
    main()
