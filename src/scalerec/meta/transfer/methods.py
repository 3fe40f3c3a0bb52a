"""The methods of transfer; to add one, write its function and its row of `TRANSFERS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.meta.parts import choose_parts
from scalerec.meta.transfer.config import RowsToMove, TransferConfig
from scalerec.meta.transfer.learned import take_learned_steps
from scalerec.meta.transfer.source import Source, Transferred
from scalerec.models.adapters import linear_weights
from scalerec.models.forming import frozen_names
from scalerec.models.forms import NO_FORMS
from scalerec.models.growing import GrownRows
from scalerec.models.recommender import Recommender
from scalerec.track import Sink
from scalerec.train import train
from scalerec.train.loop import OnProgress
from scalerec.train.moving import Moving

__all__ = ["TRANSFERS", "Method", "Outlets", "transfer"]


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where a transfer tells of itself, and whether it goes on from an earlier one.

    Args:
        sinks: Are told losses and metrics.
        on_progress: Is told how far it is.
        checkpoints: A folder for them; none without it. The last one stays, for a caller who has
            more to write.
        resume: Whether to go on from the checkpoint there.
    """

    sinks: Sequence[Sink] = ()
    on_progress: OnProgress | None = None
    checkpoints: Path | None = None
    resume: bool = False


Run = Callable[[Source, Dataset, TransferConfig, Outlets], Transferred]
Choose = Callable[[Recommender, TransferConfig], Moving]


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table.

    Args:
        run: What it does.
        words: What a person is told of it.
    """

    run: Run
    words: str


def transfer(
    source: Source,
    dataset: Dataset,
    config: TransferConfig | None = None,
    outlets: Outlets | None = None,
) -> Transferred:
    """Adapt what was learned in source domains to a target domain.

    Args:
        source: Its recommender is changed, unless the method draws all weights anew.
        dataset: The target's; its training rows are the examples.
        config: How; every parameter is trained further by default.
        outlets: Where it tells of itself.

    Raises:
        ConfigError: If the method does not fit the model or the source, or settings each other.
        DataError: If there are no training rows.
        TrainError: If a loss is not finite.
    """
    config = config or TransferConfig()
    return TRANSFERS[config.method].run(source, dataset, config, outlets or Outlets())


def _scratch(
    source: Source, dataset: Dataset, config: TransferConfig, outlets: Outlets
) -> Transferred:
    spec = replace(source.start.recommender.spec, forms=NO_FORMS, warm_ups=())
    found = train(
        dataset,
        spec,
        config.train,
        sinks=outlets.sinks,
        checkpoints=outlets.checkpoints,
        resume=outlets.resume,
        keep_checkpoint=True,
        on_progress=outlets.on_progress,
    )
    return Transferred(
        found.recommender, config.method, {}, dataset.num_rows("train"), found.num_steps,
        found.metric, found.best, found.curve, found.seconds,
    )  # fmt: skip


def _training(choose: Choose, rows: RowsToMove) -> Run:
    """A method that trains what it chooses.

    Args:
        choose: Gives what moves outside the tables.
        rows: Which rows move unless said.
    """

    def run(
        source: Source, dataset: Dataset, config: TransferConfig, outlets: Outlets
    ) -> Transferred:
        start = source.start
        _check_float(start.recommender)
        wanted = rows if config.rows == "auto" else config.rows
        moving = _with_new(choose(start.recommender, config), start.recommender, start.grown)
        moving = replace(moving, rows=_rows(start.grown, wanted))
        found = train(
            dataset,
            start.recommender.spec,
            config.train,
            sinks=outlets.sinks,
            checkpoints=outlets.checkpoints,
            resume=outlets.resume,
            keep_checkpoint=True,
            on_progress=outlets.on_progress,
            start=start,
            moving=moving,
        )
        return Transferred(
            found.recommender, config.method, moving.identity, dataset.num_rows("train"),
            found.num_steps, found.metric, found.best, found.curve, found.seconds,
        )  # fmt: skip

    return run


def _check_float(recommender: Recommender) -> None:
    if few := frozen_names(recommender):
        raise ConfigError(
            f"parts of the source have too few bits to be trained further: {', '.join(few)}; "
            "transfer from the bundle that it was compressed from, then compress again"
        )


def _rows(grown: GrownRows, wanted: RowsToMove) -> Tensor | None:
    """Which rows of the tables move, ``[R]`` bool; None for all."""
    if wanted == "all":
        return None
    parts = [torch.zeros(0, dtype=torch.bool)]
    for plan in grown.plans.values():
        own = torch.zeros(plan.num_rows, dtype=torch.bool)
        if wanted == "new":
            own[plan.fresh] = True
        parts.append(own)
    return torch.cat(parts)


def _with_new(moving: Moving, recommender: Recommender, grown: GrownRows) -> Moving:
    """The same, and what new fields brought outside the tables: it would say nothing for ever."""
    layout, known = recommender.narrow.layout, recommender.dense_parameters()
    new: dict[str, Tensor] = {}
    numbers = torch.tensor([field.name in grown.added for field in layout.numbers])
    if bool(numbers.any()):
        name = "embedder.numbers"
        new[name] = numbers.unsqueeze(1).expand_as(known[name]).clone()
    names = [f"embedder.vectors.{i}" for i, f in enumerate(layout.vectors) if f.name in grown.added]
    for name in (*names, *(name for name in grown.lost if name in known)):
        new[name] = torch.ones_like(known[name], dtype=torch.bool)
    taken = {*moving.whole, *moving.factored}
    return replace(moving, parts={name: own for name, own in new.items() if name not in taken})


def _everything(recommender: Recommender, config: TransferConfig) -> Moving:  # noqa: ARG001
    return Moving(whole=tuple(recommender.dense_parameters()))


def _head(recommender: Recommender, config: TransferConfig) -> Moving:  # noqa: ARG001
    return Moving(whole=choose_parts(recommender, "head").names)


def _low_rank(recommender: Recommender, config: TransferConfig) -> Moving:
    head = choose_parts(recommender, "head").names
    known = recommender.dense_parameters()
    sides = {
        name: min(known[name].shape[-2:])
        for name in linear_weights(recommender)
        if name in known and name not in head
    }
    most = max(sides.values(), default=0) - 1
    fits = most >= 1
    name = recommender.spec.model
    require(fits, f"model {name!r} has no linear layer but the last to adapt by low rank; use head")
    require(
        config.rank <= most,
        f"rank must be from 1 to {most}, below the smaller side of the model's largest layer; "
        f"got {config.rank}",
    )
    factored = tuple(name for name, side in sides.items() if side > config.rank)
    whole = tuple(name for name in sides if name not in factored)
    return Moving(whole=(*whole, *head), factored=factored, rank=config.rank, scale=config.scale)


def _learned(
    source: Source, dataset: Dataset, config: TransferConfig, outlets: Outlets
) -> Transferred:
    _check_float(source.start.recommender)
    found = take_learned_steps(source, dataset, config)
    for entry in found.curve:
        for sink in outlets.sinks:
            sink.log(int(entry["step"]), {n: own for n, own in entry.items() if n != "step"})
    return found


TRANSFERS: dict[str, Method] = {
    "scratch": Method(_scratch, "all weights drawn anew"),
    "all": Method(_training(_everything, "all"), "every parameter trained further"),
    "head": Method(_training(_head, "new"), "the last layer and new rows trained further"),
    "low-rank": Method(
        _training(_low_rank, "new"), "factors of linear layers, the last layer and new rows trained"
    ),
    "meta": Method(_learned, "the steps that `meta-train` taught"),
}
