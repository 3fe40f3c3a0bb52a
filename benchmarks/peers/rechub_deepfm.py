"""torch-rechub: its loaders, its DeepFM, its `CTRTrainer.fit`; run in its own environment."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
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
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.ranking import DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator


class Streamed:
    """Its Parquet stream, in the form its trainer asks for: features, and labels."""

    def __init__(self, path: str, batch_size: int, workers: int) -> None:
        from torch.utils.data import DataLoader
        from torch_rechub.data.dataset import ParquetIterableDataset

        stream = ParquetIterableDataset([path], batch_size=batch_size)
        self.batches = DataLoader(stream, batch_size=None, num_workers=workers)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            labels = batch.pop(LABEL)
            yield batch, labels


def main() -> None:
    job = start()
    sparse = [SparseFeature(n, job["rows_per_field"], job["dim"]) for n in CATEGORICAL]
    model = DeepFM(
        deep_features=sparse + [DenseFeature(name) for name in NUMBERS],
        fm_features=sparse,
        mlp_params={"dims": job["hidden"]},
    )
    autocast_forward(model, job["autocast"], torch.Tensor.float)

    def loader(name: str, place: int) -> Any:
        path = f"{job['folder']}/{name}"
        if job["loader"] == "parquet":
            return Streamed(f"{path}.parquet", job["batch_size"], job["workers"])
        columns = read_columns(f"{path}.npz")
        labels = columns.pop(LABEL)
        data = DataGenerator(columns, labels)
        held = {"x_val": columns, "y_val": labels, "x_test": columns, "y_test": labels}
        sizes = {"batch_size": job["batch_size"], "num_workers": job["workers"]}
        return data.generate_dataloader(**held, **sizes)[place]

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = CTRTrainer(
            model,
            optimizer_params={"lr": job["lr"], "weight_decay": 0.0},
            n_epoch=1,
            model_path=folder,
        )
        # Its fit writes the weights at the end, gigabytes at R = 1,000,000: not counted.
        trainer.train_one_epoch(loader("warm", 0))
        clock = Clock()
        with clock.part("load"):
            batches = loader(job["train"], 0)
        with clock.part("train"):
            trainer.train_one_epoch(batches)
    labels = read_columns(f"{job['folder']}/{job['train']}.npz")[LABEL]
    outcome: dict[str, Any] = {"rows": len(labels), "seconds": clock.total}
    if job["judge"]:
        labels = read_columns(f"{job['folder']}/{job['judge']}.npz")[LABEL]
        scores = np.asarray(trainer.predict(model, loader(job["judge"], 2)))
        outcome["auc"] = area_under_curve(labels, scores)
    report(**outcome, **clock.parts)


if __name__ == "__main__":
    main()
