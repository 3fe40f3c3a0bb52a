"""What training shares with other verbs: settings as a user gives them, and steps of a lineage."""

from collections.abc import Mapping
from typing import Any

from scalerec.bundle.bundle import Bundle
from scalerec.bundle.lineage import Step
from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec
from scalerec.train.config import TrainConfig

__all__ = ["prepare_step", "read_run", "settings_of", "train_step"]


def read_run(
    model: str, net: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[ModelSpec, TrainConfig]:
    """Check the settings of a run.

    Args:
        model: The net's name in the zoo.
        net: Settings of the net.
        values: Settings of training, with `init_std` among them if it is given.

    Raises:
        ConfigError: If one is unknown or out of range.
    """
    rest = dict(values)
    init = {"init_std": rest.pop("init_std")} if "init_std" in rest else {}
    spec = ModelSpec.from_dict({"model": model, "settings": dict(net), **init})
    return spec, TrainConfig.from_dict(rest, "settings")


def prepare_step(dataset: Dataset) -> Step:
    """How the data set was made; where it was read from shapes nothing, so it stays out."""
    manifest = dataset.manifest
    notes = [note for note in manifest["notes"] if not note.startswith("read from")]
    settings = {"name": dataset.name, "notes": notes, **manifest["config"]}
    return Step(verb="prepare", settings=settings, data=dataset.digest)


def train_step(
    dataset: Dataset,
    spec: ModelSpec,
    config: TrainConfig,
    seconds: float,
    parents: tuple[str, ...] = (),
    several: Mapping[str, Any] | None = None,
) -> Step:
    """How the model was trained.

    Args:
        dataset: Its data.
        spec: The model.
        config: The settings.
        seconds: Time taken.
        parents: Digests of the bundles it started from.
        several: What decides the weights of a run on several processes; none for one.
    """
    settings = {"model": spec.to_dict(), **config.to_dict()}
    if several:
        settings["distributed"] = dict(several)
    return Step(
        verb="train", settings=settings, data=dataset.digest, seconds=seconds, parents=parents
    )


def settings_of(bundle: Bundle) -> dict[str, Any]:
    """How a bundle was last trained, as settings of `TrainConfig`; none if that is not known.

    One pass over the data is asked for: rows of a day are few, and seen again and again they are
    learned by heart.
    """
    steps = [step for step in bundle.lineage if step.verb == "train"]
    known = dict(steps[-1].settings) if steps else {}
    return {**{name: known[name] for name in TrainConfig.__slots__ if name in known}, "epochs": 1}
