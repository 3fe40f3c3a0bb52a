"""Unstructured pruning: single weights by their magnitude, in one shot or little by little.

A pruned weight is zero and stays in its place, so nothing gets faster by itself: it is a tensor of
zeros that a sparse form stores in fewer bytes. `scalerec.compress.neurons` makes a net smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from scalerec.config import Config, require
from scalerec.models.recommender import Recommender

__all__ = [
    "Counts",
    "GradualPruning",
    "Masks",
    "PruneConfig",
    "choose_weights",
    "count_weights",
    "cubic_sparsity",
    "prunable_weights",
    "prune_weights",
    "weights_of",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneConfig(Config):
    """Which weights go. Exactly one of `ratio` and `threshold` is given.

    Args:
        ratio: Share of the weights that are zero afterwards, in (0, 1); those that are zero already
            count. 0 where a threshold is given.
        threshold: Weights of a smaller magnitude go, above 0. With scope `global` it is that
            magnitude; with scope `tensor` it is in standard deviations of the tensor's own weights
            (Han et al.: Learning both Weights and Connections for Efficient Neural Networks, 2015,
            https://arxiv.org/abs/1506.02626, section 4). 0 where a ratio is given.
        scope: `tensor`: every tensor loses the same share. `global`: the smallest weights of all
            tensors go, wherever they are.
        rescale: Whether the weights that stay are scaled up, so that the sum of a tensor's
            magnitudes is what it was.
    """

    ratio: float = 0.0
    threshold: float = 0.0
    scope: Literal["tensor", "global"] = "global"
    rescale: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.ratio < 1, f"ratio must be in (0, 1); got {self.ratio}")
        require(self.threshold >= 0, f"threshold must be above 0; got {self.threshold}")
        given = (self.ratio > 0) + (self.threshold > 0)
        require(
            given == 1,
            "exactly one of ratio and threshold must be above 0; "
            f"got ratio {self.ratio} and threshold {self.threshold}",
        )
        known = self.scope in ("tensor", "global")
        require(known, f"scope must be one of tensor, global; got {self.scope!r}")


class Counts(NamedTuple):
    """Numbers that a model holds.

    Args:
        total: All.
        nonzero: Those that are not zero.
    """

    total: int
    nonzero: int

    @property
    def sparsity(self) -> float:
        """The share of zeros, in [0, 1]."""
        return 1.0 - self.nonzero / self.total if self.total else 0.0


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Every floating-point tensor that a module learns, by name and live.

    Of a recommender the tables too, one a table, by the names that a bundle has for them.
    """
    if isinstance(module, Recommender):
        named = module.tables.to_tensors()
        named |= {name: own.detach() for name, own in module.dense_parameters().items()}
    else:
        named = {name: own.detach() for name, own in module.named_parameters()}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}


def prunable_weights(module: nn.Module) -> list[str]:
    """Names of the weights of layers: what has two dimensions or more, so no bias and no norm.

    Of a recommender those of the net; its embeddings are pruned by row or column instead.
    """
    head = "net." if isinstance(module, Recommender) else ""
    named = weights_of(module).items()
    return [name for name, tensor in named if tensor.ndim > 1 and name.startswith(head)]


def count_weights(module: nn.Module) -> Counts:
    """Count the numbers that a module has learnt."""
    tensors = weights_of(module).values()
    nonzero = sum(int(torch.count_nonzero(tensor)) for tensor in tensors)
    return Counts(sum(tensor.numel() for tensor in tensors), nonzero)


def choose_weights(tensors: Mapping[str, Tensor], config: PruneConfig) -> dict[str, Tensor]:
    """Choose the weights that stay.

    Args:
        tensors: Of any shapes.
        config: Which go. A ratio is met to the nearest whole number of weights; among equal
            magnitudes the first go.

    Returns:
        By name, which weights stay, bool of the tensor's shape.
    """
    sizes = {name: tensor.detach().abs() for name, tensor in tensors.items()}
    if config.threshold and config.scope == "tensor":
        return {
            name: size >= config.threshold * tensors[name].detach().std(correction=0)
            for name, size in sizes.items()
        }
    if config.threshold:
        return {name: size >= config.threshold for name, size in sizes.items()}
    if config.scope == "tensor":
        return {name: _drop_smallest(size, config.ratio) for name, size in sizes.items()}
    if not sizes:
        return {}
    whole = torch.cat([size.flatten() for size in sizes.values()])
    parts = _drop_smallest(whole, config.ratio).split([size.numel() for size in sizes.values()])
    named = zip(sizes.items(), parts, strict=True)
    return {name: part.view(size.shape) for (name, size), part in named}


def _drop_smallest(sizes: Tensor, ratio: float) -> Tensor:
    """All but the smallest, bool; the number that goes is exact whatever is equal."""
    flat = sizes.flatten()
    number = round(ratio * len(flat))
    kept = torch.ones_like(flat, dtype=torch.bool)
    if number:
        bound = flat.kthvalue(number).values
        smaller = flat < bound
        ties = (flat == bound).nonzero().flatten()
        kept[smaller] = False
        kept[ties[: number - int(smaller.sum())]] = False
    return kept.view(sizes.shape)


class Masks:
    """Which weights of a module stay; the others are zero, and `apply` makes them zero again.

    An optimiser moves pruned weights, by a gradient or by what it remembers; call `apply` after
    each of its steps.

    Args:
        module: Holds the weights.
        kept: By name, as `weights_of` has them, which weights stay, bool.
    """

    def __init__(self, module: nn.Module, kept: Mapping[str, Tensor]) -> None:
        self.module = module
        self.kept = dict(kept)
        self._pruned = {name: ~mask for name, mask in kept.items()}
        known = weights_of(module)
        for name, mask in kept.items():
            require(name in known, f"the module has no weights {name!r}; it has {list(known)}")
            shape, own = list(mask.shape), list(known[name].shape)
            require(shape == own, f"the mask of {name!r} must be {own}; got {shape}")
            _check_live(module, name)

    @torch.no_grad()
    def apply(self) -> None:
        """Make the pruned weights zero."""
        live = weights_of(self.module)
        for name, pruned in self._pruned.items():
            live[name].masked_fill_(pruned.to(live[name].device), 0.0)

    @property
    def counts(self) -> Counts:
        """How many weights the masks cover, and how many stay."""
        masks = self.kept.values()
        return Counts(sum(m.numel() for m in masks), sum(int(m.sum()) for m in masks))

    def __call__(self, step: int) -> None:
        """As `apply`, after any step of training."""
        del step
        self.apply()


def _check_live(module: nn.Module, name: str) -> None:
    """Refuse a table that is stored otherwise than it is held: its weights here are a copy."""
    if isinstance(module, Recommender) and name.startswith("tables."):
        form = module.spec.forms.tables.get(name[len("tables.") : -len(".weight")])
        live = form is None or (form.bits == 32 and not form.dim)
        require(live, f"weights of {name!r} cannot be pruned in its form {form}; prune them before")


@torch.no_grad()
def prune_weights(
    module: nn.Module, config: PruneConfig, names: Sequence[str] | None = None
) -> Masks:
    """Prune a module in place, in one shot.

    Args:
        module: Any; a recommender's table can be named as `tables.NAME.weight`.
        config: Which weights go.
        names: The tensors to choose from, as `weights_of` names them; `prunable_weights` by
            default.

    Returns:
        What keeps the zeros while training goes on.

    Raises:
        ConfigError: If the module has no weights of such a name.
    """
    live = weights_of(module)
    chosen = prunable_weights(module) if names is None else names
    for name in chosen:
        require(name in live, f"the module has no weights {name!r}; it has {list(live)}")
    tensors = {name: live[name] for name in chosen}
    before = {name: _total(tensor) for name, tensor in tensors.items()}
    masks = Masks(module, choose_weights(tensors, config))
    masks.apply()
    if config.rescale:
        for name, tensor in tensors.items():
            left = _total(tensor)
            # A tensor that lost all its weights has none to scale.
            tensor.mul_(before[name] / left if left else 1.0)
    return masks


def _total(tensor: Tensor) -> float:
    return float(tensor.abs().sum(dtype=torch.float64))


def cubic_sparsity(
    step: int, *, first: int, last: int, final: float, initial: float = 0.0
) -> float:
    """The share of zeros after a step: it rises fast at first, and slowly where few are left.

    Zhu and Gupta: To prune, or not to prune: exploring the efficacy of pruning for model
    compression, 2017, https://arxiv.org/abs/1710.01878, equation 1.

    Args:
        step: At least 0.
        first: The step up to which it is `initial`.
        last: The step from which on it is `final`; above `first`.
        final: In [0, 1).
        initial: In [0, 1).

    Example:
        >>> [cubic_sparsity(step, first=0, last=2, final=0.5) for step in (0, 1, 2, 9)]
        [0.0, 0.4375, 0.5, 0.5]
    """
    require(last > first, f"last must be above first={first}; got {last}")
    left = 1.0 - (min(max(step, first), last) - first) / (last - first)
    return final + (initial - final) * left**3


class GradualPruning:
    """Prunes more and more while a module is trained; call it after each step of its optimiser.

    Args:
        module: Any.
        config: Its ratio is the share of zeros at the end.
        last: The step after which nothing more is pruned, at least 1.
        first: The step after which pruning starts, at least 0.
        every: Steps between two prunings, at least 1; masks hold between them.
        names: As for `prune_weights`.

    Raises:
        ConfigError: If the config has no ratio, or steps do not fit each other.
    """

    def __init__(
        self,
        module: nn.Module,
        config: PruneConfig,
        *,
        last: int,
        first: int = 0,
        every: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        require(config.ratio > 0, "gradual pruning needs a ratio, not a threshold")
        require(every >= 1, f"every must be at least 1; got {every}")
        require(0 <= first < last, f"first must be from 0 to {last - 1}; got {first}")
        self.module, self.config, self.names = module, config, names
        self.first, self.last, self.every = first, last, every
        self.masks = Masks(module, {})

    def __call__(self, step: int) -> None:
        """Prune, if it is time, and make what was pruned zero again.

        Args:
            step: Steps taken so far, at least 1.
        """
        # First of all the zeros, so that what went stays gone: nothing is smaller.
        self.masks.apply()
        due = step == self.last or (step - self.first) % self.every == 0
        if self.first < step <= self.last and due:
            ratio = cubic_sparsity(step, first=self.first, last=self.last, final=self.config.ratio)
            now = self.config.replace(ratio=ratio)
            self.masks = prune_weights(self.module, now, self.names)
