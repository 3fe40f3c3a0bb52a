"""Starts that were learned, as bundles that know how they adapt."""

from pathlib import Path

from scalerec.bundle import Bundle, Step
from scalerec.bundle.adaptation import Adaptation
from scalerec.bundle.recommenders import write_recommender
from scalerec.data.dataset import Dataset
from scalerec.meta.config import MetaConfig
from scalerec.meta.learning import MetaTrained

__all__ = ["write_meta"]


def write_meta(
    path: str | Path,
    found: MetaTrained,
    dataset: Dataset,
    by: str,
    config: MetaConfig,
    lineage: tuple[Step, ...],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Write a start as a bundle.

    Args:
        path: The directory to make.
        found: The start.
        dataset: That it was learned from.
        by: What a task is.
        config: How it was learned.
        lineage: Every step that led here; the last is this one.
        overwrite: Whether a bundle at `path` may be replaced.
    """
    parts = found.model.parts
    how = Adaptation(
        by=by,
        parts=parts.names,
        key=found.field or "",
        own=parts.field is not None,
        as_new=config.as_new,
        steps=config.steps,
        prior=config.prior,
        rates={},
    )
    bundle = write_recommender(
        path,
        found.recommender,
        dataset,
        lineage,
        overwrite=overwrite,
        adaptation=how,
        rates=found.rates,
    )
    bundle.attach("curves.json", {"metric": found.metric, "steps": found.curve})
    return bundle
