"""Learn to warm new ids up, on ids that the model knows; the model itself stays as it is."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from scalerec.data.dataset import Dataset
from scalerec.errors import TrainError
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.entities import known_rows
from scalerec.meta.warm_up.generating import generate_epoch
from scalerec.meta.warm_up.known import HeldOut, Known, draw_judged, find_known, held_out_losses
from scalerec.meta.warm_up.scaling import cold_rows, scale_epoch
from scalerec.meta.warm_up.warming import with_warm_up
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator, Warmer, build_warmer

__all__ = ["Learned", "learn_warm_up"]

# Learning rates and priors of rows that are tried, and on how many ids.
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
PRIORS = (0.0, 1.0, 3.0, 10.0, 30.0)
FIRST_PRIOR = 3.0
TRIED_IDS = 256
Report = Callable[[int, HeldOut], None]


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning to warm up gave.

    Args:
        recommender: The model with the warmer, in evaluation mode; it scores as before.
        key: The id field whose new ids get rows.
        best: The epoch whose weights it has; 0 is the start.
        curve: The losses of held-out ids: the start's, then one an epoch.
    """

    recommender: Recommender
    key: str
    best: int
    curve: list[HeldOut] = field(repr=False)


def learn_warm_up(
    recommender: Recommender,
    dataset: Dataset,
    config: WarmUpConfig | None = None,
    report: Report = lambda _number, _losses: None,
) -> Learned:
    """Train a warmer for a recommender's new users or items.

    It stops early by the loss of known ids that are held out, before and after their first events,
    in the shares that Meta-Embedding learns by.

    Args:
        recommender: Trained; it stays as it is, in evaluation mode.
        dataset: What it was trained on; its training rows are read.
        config: How.
        report: Is told each epoch's number and losses.

    Raises:
        ConfigError: If the model has no such key, nothing describes who bears it, no row can be
            written for it, or all tasks are of retrieval.
        DataError: If no id has enough events.
        TrainError: If a loss is not finite.
    """
    config = config or WarmUpConfig()
    generator = torch.Generator().manual_seed(config.seed)
    known = find_known(recommender, dataset, config, generator)
    layout, dim = recommender.narrow.layout, recommender.spec.net_config().dim
    warmer = build_warmer(known.warm_up, layout, dim, generator)
    warmer.fit_range(known_rows(recommender, known.warm_up, known.entities))
    _set_pace(warmer, known, config, generator)
    train_epoch = _trainer(warmer, known, config, generator)
    curve, best, state = [held_out_losses(known, warmer)], 0, _copy(warmer)
    for number in range(1, config.epochs + 1):
        train_epoch()
        curve.append(held_out_losses(known, warmer))
        report(number, curve[-1])
        if _aim(curve[-1], config) < _aim(curve[best], config):
            best, state = number, _copy(warmer)
        if number - best >= config.patience:
            break
    warmer.load_state_dict(state)
    whole = with_warm_up(recommender, known.warm_up, warmer)
    return Learned(whole, known.warm_up.key, best, curve)


def _set_pace(
    warmer: Warmer, known: Known, config: WarmUpConfig, generator: torch.Generator
) -> None:
    """Set the rate, and then the prior, that serve rows best which start as all do."""
    tried = draw_judged(known.events, known.tasks, known.features, config, generator, TRIED_IDS)

    def loss(rate: float, prior: float) -> float:
        warmer.pace.fill(rate, prior)
        # Where a rate is far too large, a loss is not finite.
        with suppress(TrainError):
            return held_out_losses(known, warmer, tried).refined
        return math.inf

    rate, prior = config.inner_lr, config.prior
    if rate is None:
        rate = min(RATES, key=lambda own: loss(own, FIRST_PRIOR if prior is None else prior))
    if prior is None:
        fixed = rate
        prior = min(PRIORS, key=lambda own: loss(fixed, own))
    warmer.pace.fill(rate, prior)


def _trainer(
    warmer: Warmer, known: Known, config: WarmUpConfig, generator: torch.Generator
) -> Callable[[], None]:
    """A function that trains a warmer for one epoch."""
    warmer.requires_grad_(True)
    warmer.pace.requires_grad_(config.learn_rates and config.by_episodes)
    learned = [own for own in warmer.parameters() if own.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=config.lr)
    if isinstance(warmer, RowGenerator) or config.episodes:
        return lambda: generate_epoch(warmer, known, config, optimiser, generator)
    cold = cold_rows(warmer, known)
    return lambda: scale_epoch(warmer, known, config, optimiser, cold)


def _copy(warmer: Warmer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in warmer.state_dict().items()}


def _aim(losses: HeldOut, config: WarmUpConfig) -> float:
    return config.alpha * losses.generated + (1 - config.alpha) * losses.refined
