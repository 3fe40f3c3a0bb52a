"""How far an exported graph is from the bundle it was made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scalerec.config import Config
from scalerec.models.layers import IntLinear
from scalerec.models.recommender import Recommender
from scalerec.scoring.onnx_graph import LOGITS
from scalerec.scoring.onnx_inputs import draw_batch, feeds_of, graph_inputs
from scalerec.scoring.onnx_run import OnnxScorer

__all__ = ["Agreement", "measure_agreement"]

ROWS = 256
# Shares of the largest logit. Floats: sums of a few hundred products, in another order. Layers of
# whole numbers: now and then an input lies so near the edge between two codes that the last digit
# decides, and that row's logit moves by a step of a 255th; the mean stays within that of floats.
FLOAT, WHOLE = 1e-4, 1e-2


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement(Config):
    """The logits of a graph and those of its bundle, on rows by chance.

    Args:
        rows: Number of rows.
        largest: The largest distance between two logits.
        mean: The mean distance.
        tolerance: What is allowed of the largest.
        mean_tolerance: What is allowed of the mean.
    """

    rows: int
    largest: float
    mean: float
    tolerance: float
    mean_tolerance: float

    @property
    def holds(self) -> bool:
        """Whether they agree; what is not a number does not."""
        return self.largest <= self.tolerance and self.mean <= self.mean_tolerance


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
    feeds = feeds_of(layout, batch, graph_inputs(recommender.narrow.layout))
    found = OnnxScorer(path)(feeds, [LOGITS])[LOGITS]
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    apart = np.abs(found - expected)
    whole = any(isinstance(layer, IntLinear) for layer in recommender.modules())
    return Agreement(
        rows=rows,
        largest=float(apart.max(initial=0.0)),
        mean=float(apart.mean()) if apart.size else 0.0,
        tolerance=(WHOLE if whole else FLOAT) * scale,
        mean_tolerance=FLOAT * scale,
    )
