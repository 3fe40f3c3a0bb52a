"""A target's recommender as a bundle of its own."""

from pathlib import Path

from scalerec.bundle import Bundle, Step
from scalerec.bundle.recommenders import write_recommender
from scalerec.data.dataset import Dataset
from scalerec.meta.transfer.config import TransferConfig
from scalerec.meta.transfer.source import Source, Transferred
from scalerec.train.lineage import prepare_step

__all__ = ["write_transferred"]


def write_transferred(
    path: str | Path,
    found: Transferred,
    source: Source,
    dataset: Dataset,
    config: TransferConfig,
    *,
    overwrite: bool = False,
) -> Bundle:
    """Write a whole bundle: weights with all that was added to them, the target's encoders.

    Its lineage is the source's with two more steps; from scratch, these alone, since no number of
    the source is in it. It says no more how to adapt: it is no longer the start that was learned.

    Args:
        path: The directory to make.
        found: From `transfer`.
        source: What it went from.
        dataset: The target's.
        config: How.
        overwrite: Whether a bundle at `path` may be replaced.

    Raises:
        BundleError: If `path` exists, or cannot be written.
    """
    drawn = config.method == "scratch"
    step = Step(
        verb="adapt",
        settings={
            "model": found.recommender.spec.to_dict(),
            "moved": found.moved,
            "examples": found.examples,
            **config.to_dict(),
        },
        parents=() if drawn else (source.start.digest,),
        data=dataset.digest,
        seconds=found.seconds,
    )
    before = () if drawn else source.lineage
    lineage = (*before, prepare_step(dataset), step)
    bundle = write_recommender(path, found.recommender, dataset, lineage, overwrite=overwrite)
    bundle.attach("curves.json", {"metric": found.metric, "steps": found.curve})
    return bundle
