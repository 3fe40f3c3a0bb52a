"""A training run that goes on from a bundle: its weights, grown to the ids of new data.

What optimisers remember may be kept beside a bundle, in an attachment. Adagrad's sums and Adam's
moments that start anew from zero take large first steps, which shakes rows that were learned long
ago.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from scalerec.bundle import Bundle, read_bundle
from scalerec.bundle.growing import grow_bundle
from scalerec.data.dataset import Dataset
from scalerec.errors import BundleError
from scalerec.models.growing import FreshRow, GrownRows
from scalerec.models.recommender import Recommender
from scalerec.train.checkpoints import load_optimiser
from scalerec.train.config import TrainConfig
from scalerec.train.learner import Learner

__all__ = ["STATE_FILE", "Start", "open_start", "restore_state", "state_bytes"]

STATE_FILE = "optimisers.safetensors"
TABLES = "optimiser.tables."


@dataclass(frozen=True, slots=True)
class Start:
    """What a run starts from in place of drawn weights.

    Args:
        recommender: With the layout of the run's data set; training changes it.
        digest: Of the bundle that it comes from.
        grown: How its tables grew.
        state: What optimisers remember, by name, as `Learner.tensors` has it, before the tables
            grew; empty if nothing was kept.
        optimisers: Names of the optimisers whose state it is: `dense` and `tables`.

    Where fields were added, optimisers start anew: parts of what they would move have other sizes.
    """

    recommender: Recommender
    digest: str
    grown: GrownRows
    state: Mapping[str, Tensor] = field(default_factory=dict)
    optimisers: Mapping[str, str] = field(default_factory=dict)

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the fields that the bundle did not know."""
        return self.grown.added


def open_start(path: str | Path, dataset: Dataset, *, fresh: FreshRow = "unknown") -> Start:
    """Read a bundle, and grow its tables to the ids and fields of a data set that continues it.

    Args:
        path: The bundle.
        dataset: Its encoders are the bundle's, or have grown from them.
        fresh: What rows of new ids start from; see `scalerec.models.growing`.

    Raises:
        BundleError: If the bundle is not whole, holds no recommender, or the data set was encoded
            otherwise.
    """
    bundle = read_bundle(path)
    recommender, grown = grow_bundle(bundle, dataset, fresh)
    if grown.added:
        return Start(recommender, bundle.digest, grown)
    return Start(recommender, bundle.digest, grown, *_read_state(bundle))


def state_bytes(state: Mapping[str, Tensor], config: TrainConfig) -> bytes:
    """What optimisers remember, as the bytes of an attachment named `STATE_FILE`."""
    whole = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    names = {"dense": config.dense.name, "tables": config.tables.optimiser}
    return safetensors.torch.save(whole, {"optimisers": json.dumps(names)})


def restore_state(learner: Learner, start: Start) -> None:
    """Let a learner's optimisers go on from a start's state; those of other kinds start anew.

    A fresh row starts without any memory.
    """
    config = learner.config
    now = {"dense": config.dense.name, "tables": config.tables.optimiser}
    same = {name for name, own in now.items() if start.optimisers.get(name) == own}
    if "dense" in same and "dense" in learner.optimisers:
        load_optimiser("optimiser.dense", learner.optimisers["dense"][0], start.state)
    restored = "tables" in same and _restore_tables(learner, start)
    if start.state and not (restored and "dense" in same):
        warnings.warn(
            "the state of optimisers that was kept is of other ones, so these start anew: "
            f"kept {dict(start.optimisers)}, now {now}",
            stacklevel=2,
        )


def _restore_tables(learner: Learner, start: Start) -> bool:
    """Whether the tables' state was of the kind that the learner's tables need."""
    engine, spread = learner.recommender.tables.engine, start.grown.spread
    if "tables" in learner.optimisers:
        own = {name: tensor for name, tensor in start.state.items() if name.startswith(TABLES)}
        grown = {name: spread(t) if t.ndim else t for name, t in own.items()}
        if grown:
            load_optimiser("optimiser.tables", learner.optimisers["tables"][0], grown)
        return bool(grown) or learner.config.tables.optimiser == "sgd"
    names = engine.state
    if not all(f"rows.{name}" in start.state for name in names):
        return False
    rows = {name: spread(start.state[f"rows.{name}"]) for name in names}
    engine.load_state(rows, int(start.state["engine.step"]))
    return True


def _read_state(bundle: Bundle) -> tuple[dict[str, Tensor], dict[str, str]]:
    if STATE_FILE not in bundle.attachments():
        return {}, {}
    content = bundle.attachment(STATE_FILE)
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        names = json.loads(header["__metadata__"]["optimisers"])
        return safetensors.torch.load(content), dict(names)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{bundle.path}: {STATE_FILE} cannot be read: {error}") from error
