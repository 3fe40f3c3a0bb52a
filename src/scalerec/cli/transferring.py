"""What `scalerec adapt` does with a data set: a source's bundle becomes a target's."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalerec.cli.options import merge
from scalerec.cli.output import Progress

if TYPE_CHECKING:
    from scalerec.bundle import Bundle
    from scalerec.meta.transfer import TransferConfig

__all__ = ["is_dataset", "transfer_bundle"]


def is_dataset(path: Path) -> bool:
    """Whether a path is a prepared data set."""
    from scalerec.data.manifest import MANIFEST

    return (path / MANIFEST).is_file()


def transfer_bundle(
    bundle: Path,
    data: Path,
    out: Path,
    wanted: Mapping[str, Any],
    train: Mapping[str, Any],
    values: Mapping[str, Any],
    track: tuple[str, ...],
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Transfer a source to a target, write the bundle, and tell what came out.

    Args:
        bundle: The source's.
        data: The target's data set.
        out: Where the bundle goes.
        wanted: Settings of the transfer, as far as they were given.
        train: Settings of training, as far as they were given.
        values: Settings of either, by name.
        track: Where its numbers go, as `scalerec.track.open_sinks` has it.
        resume: Whether to go on from the last checkpoint.
        overwrite: Whether a bundle may be replaced.

    Raises:
        ConfigError: If a setting is unknown or out of range, or does not fit the source.
    """
    from scalerec.bundle import read_bundle
    from scalerec.data.dataset import Dataset
    from scalerec.meta.transfer import open_transfer, transfer, write_transferred
    from scalerec.meta.transfer.methods import Outlets
    from scalerec.track import open_sinks
    from scalerec.train.checkpoints import remove_checkpoint

    config = _config(read_bundle(bundle, verify=False), wanted, train, values)
    dataset = Dataset(data)
    source = open_transfer(bundle, dataset)
    aside = out.with_name(f"{out.name}.checkpoint")
    sinks = open_sinks(track, out.with_name(f"{out.name}.track"), resume=resume)
    try:
        outlets = Outlets([sinks], Progress(), aside, resume)
        found = transfer(source, dataset, config, outlets)
    finally:
        sinks.close()
    made = write_transferred(out, found, source, dataset, config, overwrite=overwrite)
    remove_checkpoint(aside)
    return {
        "bundle": made.digest,
        "source": source.start.digest,
        "path": str(out),
        "method": found.method,
        "examples": found.examples,
        "steps": found.num_steps,
        "seconds": round(found.seconds, 3),
        "metric": found.metric,
        "valid": found.best,
        "new_ids": source.start.grown.num_fresh,
    }


def _config(
    bundle: "Bundle",
    wanted: Mapping[str, Any],
    train: Mapping[str, Any],
    values: Mapping[str, Any],
) -> "TransferConfig":
    """The settings: those of the source's training, small batches, and on top what was given."""
    from scalerec.bundle.adaptation import adaptation_of
    from scalerec.meta.transfer import TransferConfig
    from scalerec.train.lineage import settings_of

    own = {n: value for n, value in values.items() if n in TransferConfig.__slots__}
    rest = {n: value for n, value in values.items() if n not in TransferConfig.__slots__}
    usual = TransferConfig().train
    few = {"epochs": usual.epochs, "batch_size": usual.batch_size, "patience": usual.patience}
    trained = merge(settings_of(bundle), few, train, rest, own.pop("train", {}))
    method = "all" if adaptation_of(bundle) is None else "meta"
    settings = {"method": method, **wanted, **own, "train": trained}
    return TransferConfig.from_dict(settings, "settings")
