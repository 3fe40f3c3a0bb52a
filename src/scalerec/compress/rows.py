"""Smaller tables: rows that matter little share one, and columns that matter little go.

Shapes: R rows, D columns of the embedding, W = D + 1 with the first-order weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.data.vocabulary import FIRST_ID, OOV

__all__ = [
    "ColumnConfig",
    "RowConfig",
    "SharedRows",
    "choose_columns",
    "choose_rows",
    "column_importance",
    "popular_columns",
    "row_importance",
    "share_rows",
    "unit_basis",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowConfig(Config):
    """Which rows of tables give way to a shared one. Exactly one kind of bound is given.

    Args:
        by: What a row's importance is: how often training rows read it (`frequency`), its length
            (`norm`), or the product of `both`.
        ratio: Share of each table's rows that goes, in [0, 1); padding and out-of-vocabulary stay.
        ratios: Another share for a table, by its name.
        threshold: Rows of a smaller importance go, in its own unit (a count, a length); at least 0.
        thresholds: Another one for a table, by its name.
        share: Which row their ids read: `mean`, a new one that is the mean of those that went,
            weighed by how often each was read; or `unknown`, that of unknown ids.
    """

    by: Literal["frequency", "norm", "both"] = "both"
    ratio: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.0
    thresholds: dict[str, float] = field(default_factory=dict)
    share: Literal["mean", "unknown"] = "mean"

    def __post_init__(self) -> None:
        for name, ratio in _named("ratio", self.ratio, self.ratios).items():
            require(0 <= ratio < 1, f"{name} must be in [0, 1); got {ratio}")
        for name, bound in _named("threshold", self.threshold, self.thresholds).items():
            require(bound >= 0, f"{name} must be at least 0; got {bound}")
        _one_of("by", self.by, ("frequency", "norm", "both"))
        _one_of("share", self.share, ("mean", "unknown"))
        given = bool(self.ratio or self.ratios) + bool(self.threshold or self.thresholds)
        require(given == 1, "give either a ratio or a threshold, for all tables or by table")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnConfig(Config):
    """Which columns of embeddings go, so that tables have different numbers of them.

    Args:
        ratio: In [0, 1). With scope `table`, the share of each table's columns that goes; with
            `global`, the share of all numbers of all embeddings.
        ratios: Another share for a table, by its name; scope `table` only.
        scope: `global`: those columns go first that matter least for each number they hold, so
            large tables of rare ids lose most (as in Ginart et al.: Mixed Dimension Embeddings
            with Application to Memory-Efficient Recommendation Systems, 2019,
            https://arxiv.org/abs/1909.11810).
        turn: Whether each table is first turned into its principal directions, in which few columns
            say most (Eckart and Young, 1936, https://doi.org/10.1007/BF02288367), rows counting as
            often as they are read; else the columns are those that were trained.
    """

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    scope: Literal["table", "global"] = "table"
    turn: bool = True

    def __post_init__(self) -> None:
        for name, ratio in _named("ratio", self.ratio, self.ratios).items():
            require(0 <= ratio < 1, f"{name} must be in [0, 1); got {ratio}")
        _one_of("scope", self.scope, ("table", "global"))
        alone = self.scope == "table" or not self.ratios
        require(alone, f"ratios by table need scope 'table'; got {self.scope!r}")


class SharedRows(NamedTuple):
    """A table some of whose ids share a row.

    Args:
        weight: ``[R', W]``.
        rows: The row of each id, ``[ids]`` int64.
    """

    weight: Tensor
    rows: Tensor


def _named(name: str, value: float, others: Mapping[str, float]) -> dict[str, float]:
    return {name: value} | {f"{name}s.{key}": own for key, own in others.items()}


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def row_importance(
    weight_rw: Tensor, counts_r: Tensor, by: Literal["frequency", "norm", "both"]
) -> Tensor:
    """How much each row of a table matters, ``[R]``.

    Args:
        weight_rw: The table.
        counts_r: How often training rows read each.
        by: As `RowConfig` has it.
    """
    counts = counts_r.double()
    if by == "frequency":
        return counts
    norms: Tensor = torch.linalg.vector_norm(weight_rw.double(), dim=1)
    return norms if by == "norm" else norms * counts


def choose_rows(importance_r: Tensor, table: str, config: RowConfig) -> Tensor:
    """Which rows of a table stay, ``[R]`` bool; among equals the first stay.

    Args:
        importance_r: From `row_importance`.
        table: The table's name.
        config: Which go.
    """
    kept = torch.ones(len(importance_r), dtype=torch.bool)
    own = importance_r[FIRST_ID:]
    if config.threshold or config.thresholds:
        kept[FIRST_ID:] = own >= config.thresholds.get(table, config.threshold)
        return kept
    number = round(config.ratios.get(table, config.ratio) * len(own))
    least = own.argsort(descending=True, stable=True)[len(own) - number :]
    kept[FIRST_ID + least] = False
    return kept


def share_rows(
    weight_rw: Tensor,
    rows: Tensor | None,
    kept_r: Tensor,
    counts_r: Tensor,
    share: Literal["mean", "unknown"] = "mean",
) -> SharedRows:
    """Let the ids of rows that go read one row.

    Args:
        weight_rw: The table.
        rows: The row of each id, ``[ids]``; none where row i is that of id i.
        kept_r: Which rows stay, ``[R]`` bool; those of padding and out-of-vocabulary must.
        counts_r: How often training rows read each.
        share: As `RowConfig` has it.

    Raises:
        ConfigError: If padding or out-of-vocabulary were to go.

    Example:
        >>> table = torch.tensor([[0.0], [5.0], [1.0], [2.0], [6.0]])
        >>> kept = torch.tensor([True, True, True, False, False])
        >>> shared = share_rows(table, None, kept, torch.tensor([0, 0, 9, 3, 1]))
        >>> shared.weight.flatten(), shared.rows
        (tensor([0., 5., 1., 3.]), tensor([0, 1, 2, 3, 3]))
    """
    require(bool(kept_r[:FIRST_ID].all()), "padding and out-of-vocabulary keep their rows")
    known = torch.arange(len(weight_rw)) if rows is None else rows.long()
    if bool(kept_r.all()):
        return SharedRows(weight_rw.clone(), known.clone())
    after = kept_r.long().cumsum(0) - 1
    weight = weight_rw[kept_r]
    if share == "unknown":
        after[~kept_r] = OOV
    else:
        after[~kept_r] = len(weight)
        weight = torch.cat([weight, _mean(weight_rw[~kept_r], counts_r[~kept_r])])
    return SharedRows(weight, after[known])


def _mean(weight_kw: Tensor, counts_k: Tensor) -> Tensor:
    """The mean of rows ``[1, W]`` by how often each is read; of all alike if none ever was."""
    share = counts_k.double()
    share = share if bool(share.any()) else torch.ones_like(share)
    return (share @ weight_kw.double() / share.sum()).to(weight_kw.dtype).unsqueeze(0)


def column_importance(weight_rw: Tensor, counts_r: Tensor) -> Tensor:
    """How much each column of an embedding matters, ``[D]``: its mean magnitude in training rows.

    Args:
        weight_rw: The table.
        counts_r: How often training rows read each row.
    """
    counts = counts_r.double()
    counts = counts if bool(counts.any()) else torch.ones_like(counts)
    return counts @ weight_rw[:, :-1].double().abs() / counts.sum()


def choose_columns(
    importance: Mapping[str, Tensor], num_rows: Mapping[str, int], config: ColumnConfig
) -> dict[str, Tensor]:
    """Choose the columns that stay, at least one a table.

    Args:
        importance: By table ``[D]``.
        num_rows: By table.
        config: Which go.

    Returns:
        By table the numbers of the columns that stay, rising.

    Raises:
        ConfigError: If a ratio is given for a table that is not there.
    """
    for name in config.ratios:
        require(name in importance, f"ratios.{name}: there is no such table in {list(importance)}")
    if config.scope == "table":
        sizes = {
            name: max(1, len(own) - round(config.ratios.get(name, config.ratio) * len(own)))
            for name, own in importance.items()
        }
    else:
        sizes = _share_out(importance, num_rows, config.ratio)
    return {
        name: own.argsort(descending=True, stable=True)[: sizes[name]].sort().values
        for name, own in importance.items()
    }


def _share_out(
    importance: Mapping[str, Tensor], num_rows: Mapping[str, int], ratio: float
) -> dict[str, int]:
    """How many columns each table keeps; those go first that matter least for what they hold."""
    sizes = {name: len(own) for name, own in importance.items()}
    spare = ratio * sum(size * num_rows[name] for name, size in sizes.items())
    worth = sorted(
        (value / max(1, num_rows[name]), name)
        for name, own in importance.items()
        # The best column of each table stays.
        for value in own.sort().values[:-1].tolist()
    )
    for _, name in worth:
        if num_rows[name] <= spare:
            spare -= num_rows[name]
            sizes[name] -= 1
    return sizes


def popular_columns(num_rows: Mapping[str, int], dim: int, power: float) -> dict[str, int]:
    """How many columns each table gets by its size alone, before any training.

    Mixed Dimension Embeddings (Ginart et al., 2019), https://arxiv.org/abs/1909.11810, algorithm 1:
    in proportion to the popularity of a row, which is 1 over their number, to a power; the smallest
    table gets all.

    Args:
        num_rows: By table.
        dim: D.
        power: In [0, 1]; 0 gives all tables D.

    Example:
        >>> popular_columns({"day": 4, "item": 400}, dim=16, power=0.3)
        {'day': 16, 'item': 4}
    """
    require(0 <= power <= 1, f"power must be in [0, 1]; got {power}")
    least = min(num_rows.values())
    return {n: max(1, round(dim * (least / rows) ** power)) for n, rows in num_rows.items()}


def unit_basis(columns: Tensor, dim: int) -> Tensor:
    """The matrix that puts the columns that stayed in their places.

    Args:
        columns: Their numbers, ``[d]``.
        dim: D.

    Returns:
        ``[d, D]``: a stored embedding times it is the embedding with zeros where columns went.

    Example:
        >>> torch.tensor([7.0, 9.0]) @ unit_basis(torch.tensor([1, 3]), 4)
        tensor([0., 7., 0., 9.])
    """
    return torch.eye(dim)[columns]
