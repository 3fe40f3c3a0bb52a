"""Rows for new ids: generated from features of the id, scaled and shifted, refined by few examples.

A recommender may hold such modules for its users' and its items' keys. They are trained after the
recommender, whose own parameters they leave alone (`scalerec.meta.warm_up`), and no score depends
on them until somebody asks for a row.

Shapes: N ids, K numbers that describe an id (the embedded fields of it, side by side), W columns of
a row (an embedding and its first-order weight), D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from scalerec.config import Config, require
from scalerec.data.layout import IdField, Layout
from scalerec.models.heads import init_linear
from scalerec.models.net import check_count, check_hidden

__all__ = ["Pace", "RowGenerator", "RowScaler", "WarmUp", "Warmer", "build_warmer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp(Config):
    """Which ids get generated rows, from what, and how the rows are refined.

    Args:
        key: The id field whose new ids get rows: a user's or an item's key.
        features: Fields of the same user or item that a row is generated from.
        method: `meta-embedding` or `mwuf`; see `RowGenerator` and `RowScaler`.
        partner: With `mwuf`, the id field of those who met the id: the users' key for an item.
        hidden: Sizes of hidden layers; `mwuf` has one in each of its two nets.
        steps: Gradient steps on an id's first examples, at least 0.

    Raises:
        ConfigError: If a setting is out of its range, or two contradict each other.
    """

    key: str
    features: tuple[str, ...]
    method: Literal["meta-embedding", "mwuf"] = "meta-embedding"
    partner: str = ""
    hidden: tuple[int, ...] = ()
    steps: int = 1

    def __post_init__(self) -> None:
        require(bool(self.features), f"a row for {self.key!r} needs features to be generated from")
        good = self.key not in self.features
        require(good, f"a row for {self.key!r} cannot be generated from the key itself")
        check_hidden("hidden", self.hidden)
        require(self.steps >= 0, f"steps must be at least 0; got {self.steps}")
        scales = self.method == "mwuf"
        require(scales == bool(self.partner), "partner belongs to method 'mwuf', which needs one")
        fits = len(self.hidden) == 1 or not scales
        require(fits, f"method 'mwuf' has one hidden layer in each net; got hidden={self.hidden}")

    def places(self, layout: Layout) -> list[int]:
        """The numbers of the features among the layout's fields.

        Raises:
            ConfigError: If the layout lacks one of the fields.
        """
        names = [field.name for field in layout.fields]
        for name in self.features:
            require(name in names, f"rows for {self.key!r} need field {name!r}, which is left out")
        return [names.index(name) for name in self.features]

    def field(self, layout: Layout) -> int:
        """The number of the key among the layout's id fields.

        Raises:
            ConfigError: If the layout lacks it.
        """
        return _place(layout.ids, self.key)

    def partner_field(self, layout: Layout) -> int:
        """The number of the partners' key among the layout's id fields.

        Raises:
            ConfigError: If the layout lacks it.
        """
        return _place(layout.ids, self.partner)


def _place(fields: Sequence[IdField], name: str) -> int:
    names = [field.name for field in fields]
    require(name in names, f"warming up needs the id field {name!r}; the layout has {names}")
    return names.index(name)


class Pace(nn.Module):
    """How far a row moves against the mean gradient of its examples.

    ``rate * n / (n + prior)``: the start of a row counts as much as `prior` examples, so that one
    example alone does not undo it. With a prior of 0 the number of examples does not matter, as in
    plain descent.

    Args:
        width: W.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.zeros(width))
        self.log_prior = nn.Parameter(torch.tensor(-math.inf))

    @torch.no_grad()
    def fill(self, rate: float, prior: float) -> None:
        """Set one rate, above 0, for all columns, and the prior, at least 0."""
        self.log_rates.fill_(math.log(rate))
        self.log_prior.fill_(math.log(prior) if prior else -math.inf)

    def forward(self, counts_t: Tensor) -> Tensor:
        """Learning rates ``[T, W]`` of rows with so many examples, ``[T]``."""
        shares_t = counts_t / (counts_t + self.log_prior.exp()).clamp(min=1e-12)
        return shares_t.unsqueeze(1) * self.log_rates.exp()


class RowGenerator(nn.Module):
    """Generates a row from an id's features: ``centre + scale * tanh(layers(features))``.

    Paper: Warm Up Cold-start Advertisements: Improving CTR Predictions via Learning to Learn ID
    Embeddings, Pan et al., 2019, https://arxiv.org/abs/1904.11547, section 4 (Meta-Embedding). The
    paper has one linear layer without a bias, one scale for all columns and no centre; that is
    ``hidden=()`` with `centre` zero and `scale` filled with one number. By default rows lie around
    the mean of the known ones and within their range, column by column.

    Args:
        num_inputs: K.
        width: W.
        hidden: Sizes of hidden layers, with ReLU between.
        generator: Draws the initial weights; the last layer starts at zero, so every id starts
            with the centre.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, num_inputs: int, width: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.layers = _layers([num_inputs, *hidden, width], generator, bias=False)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.pace = Pace(width)

    @torch.no_grad()
    def fit_range(self, rows_nw: Tensor) -> None:
        """Let rows lie around the mean of known ones, as far as any of those does."""
        self.centre.copy_(rows_nw.mean(0))
        self.scale.copy_((rows_nw - self.centre).abs().amax(0))

    def forward(self, features_nk: Tensor) -> Tensor:
        """Rows ``[N, W]`` for ids with these features."""
        signals_nw: Tensor = self.layers(features_nk)
        return self.centre + self.scale * signals_nw.tanh()


class RowScaler(nn.Module):
    """Scales a cold row by an id's features, and shifts it by who met the id.

    Paper: Learning to Warm Up Cold Item Embeddings for Cold-start Recommendation with Meta Scaling
    and Shifting Networks, Zhu et al., 2021, https://arxiv.org/abs/2105.04790, section 4 (MWUF). A
    cold row starts as `common`, the mean of the known ones. Both nets have one hidden layer; their
    last layers start such that nothing is scaled or shifted.

    Args:
        num_inputs: K.
        width: W.
        hidden: Size of the hidden layer of each net.
        generator: Draws the initial weights.
    """

    common: Tensor

    def __init__(
        self, num_inputs: int, width: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_count("hidden", hidden)
        self.scaling = _layers([num_inputs, hidden, width], generator, bias=True)
        self.shifting = _layers([width - 1, hidden, width], generator, bias=True)
        self.register_buffer("common", torch.zeros(width))
        self.pace = Pace(width)

    @torch.no_grad()
    def fit_range(self, rows_nw: Tensor) -> None:
        """Let cold rows start as the mean of known ones."""
        self.common.copy_(rows_nw.mean(0))

    def cold(self, num_ids: int) -> Tensor:
        """The first rows of so many ids, ``[N, W]``."""
        return self.common.expand(num_ids, -1)

    def forward(self, rows_nw: Tensor, features_nk: Tensor, partners_nd: Tensor) -> Tensor:
        """Warm rows ``[N, W]``.

        Args:
            rows_nw: Cold ones, as far as they were refined.
            features_nk: Of the ids.
            partners_nd: The mean embedding of those who met each id; zero for none.
        """
        scale_nw: Tensor = 1.0 + self.scaling(features_nk)
        shift_nw: Tensor = self.shifting(partners_nd)
        return rows_nw * scale_nw + shift_nw


Warmer = RowGenerator | RowScaler


def build_warmer(warm_up: WarmUp, layout: Layout, dim: int, generator: torch.Generator) -> Warmer:
    """Build the module of a warm-up; nothing that trains a recommender trains it.

    Args:
        warm_up: What is generated from what.
        layout: Of the recommender's net.
        dim: D.
        generator: Draws the initial weights.

    Raises:
        ConfigError: If the layout lacks a field that it needs.
    """
    warm_up.field(layout)
    num_inputs = len(warm_up.places(layout)) * dim
    if warm_up.method == "mwuf":
        warm_up.partner_field(layout)
        warmer: Warmer = RowScaler(num_inputs, dim + 1, warm_up.hidden[0], generator)
    else:
        warmer = RowGenerator(num_inputs, dim + 1, warm_up.hidden, generator)
    return warmer.requires_grad_(False)


def _layers(sizes: Sequence[int], generator: torch.Generator, *, bias: bool) -> nn.Sequential:
    """Linear layers with ReLU between; the last one gives zeros at first."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [init_linear(nn.Linear(inputs, outputs, bias=bias), generator), nn.ReLU()]
    parts.pop()
    last = parts[-1]
    assert isinstance(last, nn.Linear), "the last part is linear"
    nn.init.zeros_(last.weight)
    return nn.Sequential(*parts)
