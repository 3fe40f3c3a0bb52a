"""Compressed recommenders as bundles: the parent's parts but its model, and the steps between."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scalerec.bundle import Bundle, Contents, write_bundle
from scalerec.bundle.adaptation import ADAPTATION, Adaptation, model_tensors
from scalerec.bundle.lineage import Step
from scalerec.bundle.recommenders import RECOMMENDER
from scalerec.compress.chain import Stage
from scalerec.models.forming import float_names
from scalerec.models.recommender import Recommender
from scalerec.train import TrainConfig

__all__ = ["adaptable_after", "lineage_of", "training_of", "write_compressed"]


def training_of(bundle: Bundle) -> dict[str, Any]:
    """How a bundle was trained, as settings of `TrainConfig`; none if `train` did not make it."""
    steps = [step.settings for step in bundle.lineage if step.verb == "train"]
    last = steps[-1] if steps else {}
    return {name: last[name] for name in TrainConfig.__slots__ if name in last}


def adaptable_after(
    recommender: Recommender, adaptable: Sequence[str], *, freeze: bool
) -> tuple[str, ...]:
    """What a compressed bundle calls adaptable.

    Args:
        recommender: The compressed one.
        adaptable: What the bundle called so that it comes from.
        freeze: Whether nothing may be adapted any more.

    Returns:
        Names that were named in particular stay; ``*`` becomes the names of all that is still
        float, or stays where all is.
    """
    if freeze:
        return ()
    own = tuple(name for name in adaptable if name != "*")
    if "*" not in adaptable:
        return own
    left = set(float_names(recommender))
    return ("*",) if left >= set(recommender.to_tensors()) else tuple(sorted({*own, *left}))


def lineage_of(
    parents: Sequence[Bundle], stages: Sequence[Stage], data: str, seed: int
) -> tuple[Step, ...]:
    """The first parent's lineage, and a step for each of compression with its effect.

    Args:
        parents: The bundle that was compressed, and other teachers.
        stages: From the given model to the compressed one.
        data: Digest of the data set.
        seed: Of all training.
    """
    given = stages[0].effect.to_dict()
    steps = [
        Step(
            verb="compress",
            settings={"step": stage.steps[-1], "seed": seed},
            parents=tuple(parent.digest for parent in parents),
            data=data,
            seconds=stage.seconds,
            effect={"after": stage.effect.to_dict(), "given": given},
        )
        for stage in stages[1:]
    ]
    return (*parents[0].lineage, *steps)


def _adaptation_after(
    own: Contents, stages: Sequence[Stage], *, freeze: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How the given bundle adapts, as a part of a spec, and the tensors of its rates.

    Nothing where that is no longer the start that was learned: a student was drawn anew, or what
    would adapt is frozen, has few bits or another size.
    """
    held = own.spec.get(ADAPTATION)
    drawn = any(step.startswith("distil") for step in stages[-1].steps)
    if not isinstance(held, Mapping) or drawn or freeze:
        return {}, {}
    how, recommender = Adaptation.from_dict(held, ADAPTATION), stages[-1].work.recommender
    tables = {field.name: field.table for field in recommender.layout.ids}
    names = [*how.parts, *([f"tables.{tables[how.key]}.weight"] if how.own else [])]
    floats, after = set(float_names(recommender)), recommender.to_tensors()
    for name in names:
        if name not in floats or after[name].shape[1:] != own.tensors[name].shape[1:]:
            return {}, {}
        # Rows of a table may become fewer; the first size of a part may not.
        if name in how.parts and len(after[name]) != len(own.tensors[name]):
            return {}, {}
    rates = {name: own.tensors[name] for name in own.tensors.keys() - model_tensors(own.tensors)}
    return {ADAPTATION: held}, rates


def write_compressed(
    path: str | Path,
    parents: Sequence[Bundle],
    stages: Sequence[Stage],
    *,
    data: str,
    freeze: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Write a compressed recommender as a bundle.

    Args:
        path: The directory to make.
        parents: The bundle that was compressed, whose encoders, catalogue and users are kept, and
            other teachers.
        stages: From the given model to the compressed one.
        data: Digest of the data set.
        freeze: Whether nothing of it may be adapted any more.
        overwrite: Whether a bundle at `path` may be replaced.

    Raises:
        BundleError: If `path` exists, or cannot be written.
    """
    work = stages[-1].work
    own = parents[0].contents()
    how, rates = _adaptation_after(own, stages, freeze=freeze)
    contents = replace(
        own,
        spec={"kind": RECOMMENDER, **work.recommender.spec.to_dict(), **how},
        layout=work.recommender.layout.to_dict(),
        adaptable=adaptable_after(work.recommender, own.adaptable, freeze=freeze),
        lineage=lineage_of(parents, stages, data, work.training.seed),
        tensors={**work.recommender.to_tensors(), **rates},
    )
    return write_bundle(path, contents, overwrite=overwrite)
