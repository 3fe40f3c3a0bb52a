"""The effect of a step: the model is written as a bundle, opened again, and measured as it is."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scalerec.bundle import Bundle, write_bundle
from scalerec.bundle.recommenders import RECOMMENDER, open_recommender
from scalerec.compress.effects import CANDIDATES, Effect
from scalerec.data.dataset import Dataset
from scalerec.data.schema import TaskKind
from scalerec.models.recommender import Recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.scoring.cost import measure_cost

__all__ = ["Meter"]

# Items of the lists that a retrieval task is judged by.
LISTED = 10


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures recommenders that share the other parts of a bundle.

    Args:
        parent: Its encoders, catalogue and users go with every model.
        dataset: Its validation part judges; requests are drawn from there.
        split: The part.
        repeats: Requests that are timed for each number of candidates.
        folder: Where bundles are written to be measured; the system's temporary one by default.
    """

    parent: Bundle
    dataset: Dataset
    split: str = "valid"
    repeats: int = 300
    folder: Path | None = None

    def __call__(self, recommender: Recommender, step: str = "") -> Effect:
        """Measure a model.

        Args:
            recommender: The model.
            step: What was done last, in words.

        Raises:
            BundleError: If it cannot be written.
            DataError: If there are no rows to judge by.
        """
        own = replace(
            self.parent.contents(),
            spec={"kind": RECOMMENDER, **recommender.spec.to_dict()},
            layout=recommender.layout.to_dict(),
            tensors=recommender.to_tensors(),
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / "bundle"
            write_bundle(path, own)
            opened = open_recommender(path, verify=False)
            metrics = evaluate(opened.recommender, self.dataset, self._evaluation()).metrics
            cost = measure_cost(
                opened,
                self.dataset,
                candidates=CANDIDATES,
                repeats=self.repeats,
                split=self.split,
            )
        sizes = cost.sizes
        return Effect(
            step=step,
            parameters=sizes.parameters,
            nonzero=sizes.nonzero,
            weight_bytes=sizes.weight_bytes,
            directory_bytes=sizes.directory_bytes,
            resident_bytes=sizes.resident_bytes,
            tensor_bytes=sizes.tensor_bytes,
            auc=_mean(metrics, "auc"),
            log_loss=_mean(metrics, "log_loss"),
            ne=_mean(metrics, "ne"),
            ece=_mean(metrics, "ece"),
            accuracy=_mean(metrics, "accuracy"),
            rmse=_geometric_mean(metrics, "rmse"),
            ndcg=metrics.get(f"ndcg@{LISTED}"),
            p50_ms=cost.p50_ms,
            p99_ms=cost.p99_ms,
        )

    def _evaluation(self) -> EvaluateConfig:
        """A retrieval task has nothing but lists to be judged by; others are judged without."""
        lists = self.dataset.schema.tasks[0].kind is TaskKind.RETRIEVAL
        ranking = "yes" if lists else "no"
        return EvaluateConfig(split=self.split, ranking=ranking, ks=(LISTED,))


def _mean(metrics: Mapping[str, float | None], name: str) -> float | None:
    """Over the tasks for which it is defined."""
    own = _of_tasks(metrics, name)
    return math.fsum(own) / len(own) if own else None


def _geometric_mean(metrics: Mapping[str, float | None], name: str) -> float | None:
    """The same of errors, which may have a unit each."""
    own = _of_tasks(metrics, name)
    return math.prod(own) ** (1.0 / len(own)) if own else None


def _of_tasks(metrics: Mapping[str, float | None], name: str) -> list[float]:
    return [v for n, v in metrics.items() if n.rpartition(".")[2] == name and v is not None]
