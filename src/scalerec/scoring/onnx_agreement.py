"""How far an exported graph is from the bundle it was made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scalerec.config import Config
from scalerec.models.recommender import Recommender
from scalerec.scoring.onnx_graph import LOGITS
from scalerec.scoring.onnx_inputs import draw_batch, feeds_of, graph_inputs
from scalerec.scoring.onnx_run import OnnxScorer

__all__ = ["Agreement", "measure_agreement"]

ROWS = 256
# Float sums of a few hundred products, in another order: a share of the largest logit.
FLOAT = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement(Config):
    """The logits of a graph and those of its bundle, on rows by chance.

    Args:
        rows: Number of rows.
        largest: The largest distance between two logits.
        tolerance: What is allowed.
    """

    rows: int
    largest: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether they agree; what is not a number does not."""
        return self.largest <= self.tolerance


@torch.inference_mode()
def measure_agreement(path: Path, recommender: Recommender, rows: int = ROWS) -> Agreement:
    """Score rows by chance in ONNX Runtime and with the bundle's own code.

    Args:
        path: The exported graph.
        recommender: What it was made of, in evaluation mode.
        rows: Number of rows.

    Raises:
        MissingExtraError: If onnxruntime is not installed.
    """
    layout = recommender.layout
    batch = draw_batch(layout, rows, seed=0)
    expected = recommender(batch).float().numpy()
    found = OnnxScorer(path)(feeds_of(layout, batch, graph_inputs(layout)), [LOGITS])[LOGITS]
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    largest = float(np.abs(found - expected).max(initial=0.0))
    return Agreement(rows=rows, largest=largest, tolerance=FLOAT * scale)
