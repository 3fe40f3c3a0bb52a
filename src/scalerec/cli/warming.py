"""Warm rows for new ids: learned by `meta-train`, given by `train --fresh warm` and `adapt`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scalerec.cli.continuing import spec_from
from scalerec.cli.output import note

if TYPE_CHECKING:
    from scalerec.data.dataset import Dataset
    from scalerec.meta.warm_up import Learned, WarmUpConfig
    from scalerec.meta.warm_up.entities import EntityKind
    from scalerec.train import Start

__all__ = ["WARM_UPS", "adopt_listed", "learn_rows", "warm_start"]

WARM_UPS = ("meta-embedding", "mwuf")


def learn_rows(
    data: Path,
    out: Path,
    by: str,
    model: str | None,
    values: dict[str, Any],
    continued: Path | None,
    track: tuple[str, ...],
    overwrite: bool,
) -> dict[str, Any]:
    """Learn to give new users or items rows, and write a bundle that can.

    Args:
        data: What the bundle was trained on, or what continues it.
        out: Where the new bundle goes.
        by: `user` or `item`.
        model: The model that was asked for, if one was.
        values: Of `WarmUpConfig`.
        continued: The trained bundle.
        track: Where numbers go, as `scalerec.track.open_sinks` has it.
        overwrite: Whether a bundle may be replaced.

    Raises:
        ConfigError: If there is no bundle to go on from, or a setting or the model does not fit.
    """
    from scalerec.data.dataset import Dataset
    from scalerec.errors import ConfigError
    from scalerec.meta.warm_up import WarmUpConfig, learn_warm_up
    from scalerec.track import open_sinks
    from scalerec.train.start import open_start

    config = WarmUpConfig.from_dict({**values, "entity": by}, "settings")
    if continued is None:
        raise ConfigError(
            f"{config.method} learns rows beside those of a trained model; give it with "
            "--continue BUNDLE"
        )
    spec_from(continued, model, {}, {})
    dataset = Dataset(data)
    start = open_start(continued, dataset)
    sinks = open_sinks(track, out.with_name(f"{out.name}.track"))

    def tell(epoch: int, losses: Any) -> None:
        seen = {"valid/loss": losses.refined, "valid/start_loss": losses.generated}
        sinks.log(epoch, seen)
        note(
            f"epoch {epoch}: loss of held-out {by}s {losses.generated:.4f}, after first events "
            f"{losses.refined:.4f}"
        )

    began = time.perf_counter()
    try:
        learned = learn_warm_up(start.recommender, dataset, config, tell)
    finally:
        sinks.close()
    seconds = time.perf_counter() - began
    digest = _write(out, learned, dataset, config, continued, seconds, overwrite)
    note(f"wrote {out}")
    first, best = learned.curve[0], learned.curve[learned.best]
    return {
        "bundle": digest,
        "path": str(out),
        "model": learned.recommender.spec.model,
        "algorithm": config.method,
        "key": learned.key,
        "epochs": learned.best,
        "seconds": round(seconds, 3),
        "before_learning": asdict(first),
        "after_learning": asdict(best),
    }


def _write(
    out: Path,
    learned: "Learned",
    dataset: "Dataset",
    config: "WarmUpConfig",
    continued: Path,
    seconds: float,
    overwrite: bool,
) -> str:
    """Write the bundle, which also adapts as the one before it did, and give its digest."""
    from scalerec.bundle.lineage import Step
    from scalerec.bundle.recommenders import open_recommender, write_recommender
    from scalerec.train.lineage import prepare_step

    base = open_recommender(continued, verify=False)
    settings = {"by": config.entity, "algorithm": config.method, **config.to_dict()}
    step = Step(
        verb="meta-train",
        settings={"model": learned.recommender.spec.to_dict(), **settings},
        parents=(base.bundle.digest,),
        data=dataset.digest,
        seconds=seconds,
    )
    bundle = write_recommender(
        out,
        learned.recommender,
        dataset,
        (*base.bundle.lineage, prepare_step(dataset), step),
        overwrite=overwrite,
        adaptation=base.adaptation,
        rates=base.rates,
    )
    steps = [
        {"step": number, "valid/loss": own.refined, "valid/start_loss": own.generated}
        for number, own in enumerate(learned.curve)
    ]
    bundle.attach("curves.json", {"metric": "loss", "steps": steps})
    return bundle.digest


def warm_start(start: "Start", dataset: "Dataset", bundle: Path) -> dict[str, int]:
    """Give the new ids of a start rows generated from their features.

    What follows trains on their events, so these refine no row beforehand.

    Args:
        start: As it grew to the data set; its rows are changed.
        dataset: The data set.
        bundle: Where it comes from.

    Returns:
        How many rows were given, by key.

    Raises:
        ConfigError: If the bundle cannot give any.
    """
    from scalerec.errors import ConfigError
    from scalerec.meta.warm_up import warm_grown

    keys = [own.key for own in start.recommender.spec.warm_ups]
    if not keys:
        raise ConfigError(
            f"--fresh warm: {bundle} has not learned to give rows to new ids; teach it with: "
            f"scalerec meta-train DATA --continue {bundle} --algorithm meta-embedding --by item"
        )
    found = {}
    for key in keys:
        item = dataset.schema.item_key
        kind: EntityKind = "item" if item is not None and item.name == key else "user"
        args = (start.recommender, start.grown, dataset, kind)
        found[key] = warm_grown(*args, most_examples=0)
    return found


def adopt_listed(bundle: Path, rows: Path, out: Path, by: str, overwrite: bool) -> dict[str, Any]:
    """Give ids and rows to the users or items that a bundle lists without, refined by events.

    Args:
        bundle: It has learned to.
        rows: A table of events with labels; those of others are passed over.
        out: The delta bundle to make.
        by: `user` or `item`.
        overwrite: Whether a bundle may be replaced.
    """
    from scalerec.bundle.recommenders import open_recommender
    from scalerec.data.sources import open_source
    from scalerec.meta.few import read_few
    from scalerec.meta.warm_up import adopt
    from scalerec.meta.warm_up.entities import entities_of
    from scalerec.meta.warm_up.warming import warm_up_of

    began, kind = time.perf_counter(), cast("EntityKind", by)
    opened = open_recommender(bundle)
    key = entities_of(opened.recommender, opened.encoders.schema, kind).key
    warm_up_of(opened.recommender, key)
    batch = read_few(opened, open_source(rows))
    made = adopt(out, opened, kind, support=batch, overwrite=overwrite)
    return {
        "bundle": made.digest,
        "base": opened.bundle.digest,
        "path": str(out),
        "adopted": made.lineage[-1].settings["adopted"],
        "examples": made.lineage[-1].settings["examples"],
        "seconds": round(time.perf_counter() - began, 3),
    }
