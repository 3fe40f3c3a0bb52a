"""scalerec: recommender models that grow.

One noun, the bundle (a directory that holds a recommender whole), and verbs that make, measure and
change it. Everything here is loaded when it is first used, so importing scalerec costs nothing.

```python
import scalerec

raw = scalerec.open_raw("ml-100k")
data = scalerec.prepare(raw, "work/ml")
trained = scalerec.train_model(data, scalerec.ModelSpec(model="deepfm", settings={}))
```
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from scalerec._version import __version__

if TYPE_CHECKING:
    from scalerec.bundle.recommenders import open_recommender, write_recommender
    from scalerec.data.dataset import Dataset
    from scalerec.data.opening import open_raw
    from scalerec.data.prepare import prepare
    from scalerec.data.schema import Schema
    from scalerec.models.recommender import ModelSpec
    from scalerec.scoring import evaluate, recommend
    from scalerec.train import TrainConfig
    from scalerec.train import train as train_model

__all__ = [
    "Dataset",
    "ModelSpec",
    "Schema",
    "TrainConfig",
    "__version__",
    "evaluate",
    "open_raw",
    "open_recommender",
    "prepare",
    "recommend",
    "train_model",
    "write_recommender",
]

if "OMP_WAIT_POLICY" not in os.environ:
    # Read by torch's threads when torch is first imported. By default they spin for milliseconds
    # after each product, and keep a core from whatever else works beside it: a step on two cores
    # took a tenth longer. See docs/decisions/0007-compiled-kernels.md.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_HOMES = {
    "Dataset": "scalerec.data.dataset",
    "ModelSpec": "scalerec.models.recommender",
    "Schema": "scalerec.data.schema",
    "TrainConfig": "scalerec.train.config",
    "evaluate": "scalerec.scoring.evaluation",
    "open_raw": "scalerec.data.opening",
    "open_recommender": "scalerec.bundle.recommenders",
    "prepare": "scalerec.data.prepare",
    "recommend": "scalerec.scoring.recommending",
    "train_model": "scalerec.train.loop",
    "write_recommender": "scalerec.bundle.recommenders",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scalerec' has no attribute {name!r}")
    # `scalerec.train` is the package; the function has a name that it cannot hide.
    own = "train" if name == "train_model" else name
    value = getattr(importlib.import_module(_HOMES[name]), own)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
