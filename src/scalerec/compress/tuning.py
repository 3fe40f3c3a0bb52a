"""Training that goes on with what was pruned: fine-tuning between and while pruning."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from scalerec.compress.pruning import GradualPruning, Masks, PruneConfig, prune_weights
from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.models.forming import formed
from scalerec.models.forms import LayerForm
from scalerec.models.growing import GrownRows
from scalerec.models.recommender import Recommender
from scalerec.train import Lesson, Start, TrainConfig, train
from scalerec.train.learner import AfterStep

__all__ = ["fine_tune", "prune_and_tune", "with_sparse_layers"]


def fine_tune(
    recommender: Recommender,
    dataset: Dataset,
    config: TrainConfig,
    *,
    after_step: AfterStep = lambda _: None,
    lesson: Lesson | None = None,
) -> Recommender:
    """Train a recommender further, from the weights that it has, in place.

    Args:
        recommender: All of it that learns is of float32; it is changed, and given back.
        dataset: Of its layout.
        config: The settings; learning rates well below those of the first training.
        after_step: Called after each step, such as `Masks` or `GradualPruning` of the recommender.
        lesson: What is learned from beside the labels, such as a teacher.
    """
    start = Start(recommender, "", GrownRows({}))
    spec = recommender.spec
    trained = train(dataset, spec, config, start=start, lesson=lesson, after_step=after_step)
    return trained.recommender


def prune_and_tune(
    recommender: Recommender,
    dataset: Dataset,
    pruning: PruneConfig,
    config: TrainConfig | None,
    *,
    ramp: float = 0.0,
    names: Sequence[str] | None = None,
    lesson: Lesson | None = None,
) -> tuple[Recommender, Masks]:
    """Prune weights of a recommender, and train it further while they stay zero.

    Args:
        recommender: Stays as it is.
        dataset: Of its layout.
        pruning: Which weights go.
        config: Of the training; none for no training. Pruned little by little, the last weights are
            kept and not the best: the best may be of a time when fewer were zero.
        ramp: Share of the steps during which more and more go, in [0, 1]; 0 prunes all before the
            first step.
        names: As for `prune_weights`.
        lesson: As for `fine_tune`.

    Returns:
        The new recommender, and the masks of its weights.

    Raises:
        ConfigError: If the ramp is out of its range, or the rest does not fit.
    """
    require(0 <= ramp <= 1, f"ramp must be in [0, 1]; got {ramp}")
    own = formed(recommender, recommender.spec.forms)
    if config is None or not ramp:
        require(not ramp, f"weights go little by little while training goes on; got ramp {ramp}")
        masks = prune_weights(own, pruning, names)
        if config is not None:
            fine_tune(own, dataset, config, after_step=masks, lesson=lesson)
            masks.apply()
        return own, masks
    steps = config.epochs * -(-dataset.num_rows("train") // config.batch_size)
    last = max(1, round(ramp * steps))
    # A hundred prunings are as good as one in every step, and sort less.
    gradual = GradualPruning(own, pruning, last=last, every=max(1, last // 100), names=names)
    kept_last = config.replace(patience=-1)
    fine_tune(own, dataset, kept_last, after_step=gradual, lesson=lesson)
    gradual.masks.apply()
    return own, gradual.masks


@torch.no_grad()
def with_sparse_layers(recommender: Recommender) -> Recommender:
    """A recommender whose layers with many zeros are stored as a mask and the others' numbers.

    Args:
        recommender: Stays as it is. Layers where a mask would take more than it saves, at 1 bit a
            weight, stay whole.
    """
    layers = dict(recommender.spec.forms.layers)
    for name, layer in recommender.named_modules():
        form = layers.get(name, LayerForm())
        if type(layer) is not nn.Linear or form.sparse:
            continue
        zeros = 1.0 - int(layer.weight.count_nonzero()) / layer.weight.numel()
        if zeros > 1 / 32:
            layers[name] = replace(form, sparse=True)
    return formed(recommender, replace(recommender.spec.forms, layers=layers))
