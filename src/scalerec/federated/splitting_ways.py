"""The ways to divide training rows among parties: settings, each of which makes `Parties`.

Each draws from a source of randomness of its own, so the same seed gives the same parties.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.federated.chance import numbers_of
from scalerec.federated.splitting import Names, Parties, group_rows
from scalerec.federated.splitting_columns import Codes, codes_of, label_codes
from scalerec.federated.splitting_dealing import (
    apportion,
    deal,
    deal_by_label,
    deal_equally_by_label,
    even_sizes,
)

__all__ = [
    "ByColumn",
    "ByDirichlet",
    "ByDomain",
    "ByModality",
    "ByTime",
    "ByUser",
    "Uneven",
    "Uniform",
    "Way",
]

Index = NDArray[np.int64]


class Way(Protocol):
    """How training rows are divided among parties."""

    @property
    def text(self) -> str:
        """As `--by` says it."""
        ...

    def divide(self, dataset: Dataset, seed: int) -> Parties:
        """Give each training row a holder; a party may have no row.

        Args:
            dataset: Its training rows.
            seed: At least 0; the same one gives the same parties.

        Raises:
            ConfigError: If the data set has not what this way divides by.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ByUser(Config):
    """One party for each user who has training rows, in the order of their numbers."""

    @property
    def text(self) -> str:
        """As `--by` says it."""
        return "user"

    def divide(self, dataset: Dataset, seed: int) -> Parties:  # noqa: ARG002
        """Divide; see `Way.divide`."""
        require(
            bool(dataset.schema.user),
            "'user' makes each user a party, but the schema names no user; "
            "use column:NAME, uniform:N or another way",
        )
        order, offsets = group_rows(dataset.split("train").column("user"), dataset.num_users)
        users = np.flatnonzero(np.diff(offsets))
        keys = dataset.user_table["key"].combine_chunks()
        return Parties(
            names=Names(keys).take(users),
            order=order,
            offsets=np.append(offsets[users], len(order)),
            by=self.text,
            users=users,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ByColumn(Config):
    """One party for each value of a column: an organisation, a country, a device.

    Args:
        column: A feature that is one id a row.
    """

    column: str

    @property
    def text(self) -> str:
        """As `--by` says it."""
        return f"column:{self.column}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:  # noqa: ARG002
        """Divide; see `Way.divide`."""
        codes = codes_of(dataset, self.column)
        order, offsets = group_rows(codes.code_of, len(codes.values))
        names = Names(codes.values, f"{self.column}=")
        return Parties(names=names, order=order, offsets=offsets, by=self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform(Config):
    """Rows dealt out at random, the same number to each party up to one.

    Args:
        num_parties: N, at least 1.
    """

    num_parties: int

    def __post_init__(self) -> None:
        _check_number(self.num_parties)

    @property
    def text(self) -> str:
        """As `--by` says it."""
        return f"uniform:{self.num_parties}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:
        """Divide; see `Way.divide`."""
        num_rows = _check_enough(self, dataset)
        numbers = numbers_of(seed, "uniform")
        return _numbered(self, deal(even_sizes(num_rows, self.num_parties), numbers))


@dataclass(frozen=True, kw_only=True, slots=True)
class ByDirichlet(Config):
    """Parties whose labels differ: by Dirichlet shares of the first task's labels, or of a column.

    Args:
        num_parties: N, at least 1.
        alpha: Concentration, above 0: .1 is far from even, 100 is near it.
        column: Whose values are the labels; those of the first task if empty.
        sizes: `free`: each label's rows are shared out, so sizes differ too (Li et al., 2022,
            https://arxiv.org/abs/2102.02079). `equal`: parties have as many rows, each in a mix of
            its own (Hsu et al., 2019, https://arxiv.org/abs/1909.06335).
    """

    num_parties: int
    alpha: float
    column: str = ""
    sizes: Literal["free", "equal"] = "free"

    def __post_init__(self) -> None:
        _check_number(self.num_parties)
        good = 1e-3 <= self.alpha <= 1e6
        require(good, f"alpha must be from 0.001 to 1000000; got {self.alpha}")

    @property
    def text(self) -> str:
        """As `--by` says it."""
        head = "dirichlet" if self.sizes == "free" else "dirichlet-equal"
        tail = f":{self.column}" if self.column else ""
        return f"{head}:{self.num_parties}:{self.alpha:g}{tail}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:
        """Divide; see `Way.divide`."""
        _check_enough(self, dataset)
        codes = codes_of(dataset, self.column) if self.column else label_codes(dataset)
        require(
            len(codes.values) > 1,
            f"{self.text} needs rows of at least two labels; all are {codes.values[0]}",
        )
        way = deal_by_label if self.sizes == "free" else deal_equally_by_label
        numbers = numbers_of(seed, "dirichlet")
        return _numbered(self, way(codes.code_of, self.num_parties, self.alpha, numbers))


@dataclass(frozen=True, kw_only=True, slots=True)
class Uneven(Config):
    """Rows dealt out at random to parties of very different sizes; each has at least one.

    Args:
        num_parties: N, at least 1.
        law: `lognormal`: sizes go with exp(spread z), z standard normal. `power`: the k-th largest
            goes with k to the power of -spread.
        spread: At least 0; 0 is even.
    """

    num_parties: int
    law: Literal["lognormal", "power"] = "lognormal"
    spread: float = 1.0

    def __post_init__(self) -> None:
        _check_number(self.num_parties)
        require(0 <= self.spread <= 10, f"spread must be from 0 to 10; got {self.spread}")

    @property
    def text(self) -> str:
        """As `--by` says it."""
        head = "uneven" if self.law == "lognormal" else "power"
        return f"{head}:{self.num_parties}:{self.spread:g}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:
        """Divide; see `Way.divide`."""
        num_rows = _check_enough(self, dataset)
        numbers = numbers_of(seed, self.text.split(":")[0])
        if self.law == "lognormal":
            shares = np.exp(self.spread * numbers.standard_normal(self.num_parties))
        else:
            shares = np.arange(1, self.num_parties + 1) ** -self.spread
        return _numbered(self, deal(apportion(num_rows, shares), numbers))


@dataclass(frozen=True, kw_only=True, slots=True)
class ByTime(Config):
    """Parties that follow each other in time, the same number of rows each up to one.

    Args:
        num_parties: N, at least 1.
    """

    num_parties: int

    def __post_init__(self) -> None:
        _check_number(self.num_parties)

    @property
    def text(self) -> str:
        """As `--by` says it."""
        return f"time:{self.num_parties}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:  # noqa: ARG002
        """Divide; see `Way.divide`. Rows of one moment may have two holders."""
        num_rows = _check_enough(self, dataset)
        require(
            bool(dataset.schema.timestamp),
            f"{self.text!r} divides by time, but the schema names no timestamp; "
            "use uniform:N or another way",
        )
        in_time = np.argsort(np.asarray(dataset.split("train").column("time")), kind="stable")
        party_of = np.empty(num_rows, np.int64)
        sizes = even_sizes(num_rows, self.num_parties)
        party_of[in_time] = np.repeat(np.arange(self.num_parties), sizes)
        return _numbered(self, party_of)


@dataclass(frozen=True, kw_only=True, slots=True)
class ByDomain(Config):
    """Several parties in each domain: rows of a domain dealt out evenly among its own.

    Args:
        column: Whose values are the domains.
        num_parties: Of each domain, at least 1; a small domain may leave some without rows.
    """

    column: str
    num_parties: int = 1

    def __post_init__(self) -> None:
        _check_number(self.num_parties)

    @property
    def text(self) -> str:
        """As `--by` says it."""
        return f"domain:{self.column}:{self.num_parties}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:
        """Divide; see `Way.divide`."""
        codes, numbers = codes_of(dataset, self.column), numbers_of(seed, "domain")
        num = self.num_parties
        order, offsets = group_rows(codes.code_of, len(codes.values))
        party_of = np.empty(len(order), np.int64)
        for domain, (start, stop) in enumerate(pairwise(offsets.tolist())):
            dealt = deal(even_sizes(stop - start, num), numbers)
            party_of[order[start:stop]] = domain * num + dealt
        domains = np.repeat(np.arange(len(codes.values)), num)
        order, offsets = group_rows(party_of, len(domains))
        names = _domain_names(self.column, codes, num)
        return Parties(names=names, order=order, offsets=offsets, by=self.text, domains=domains)


@dataclass(frozen=True, kw_only=True, slots=True)
class ByModality(Config):
    """Rows dealt out evenly to parties that have some of the vector features and not others.

    There are as many parties of each kind up to one: those with one vector feature alone, for each
    in turn; those with all, where there are several; and those with none.

    Args:
        num_parties: N, at least 1.
    """

    num_parties: int

    def __post_init__(self) -> None:
        _check_number(self.num_parties)

    @property
    def text(self) -> str:
        """As `--by` says it."""
        return f"modality:{self.num_parties}"

    def divide(self, dataset: Dataset, seed: int) -> Parties:
        """Divide; see `Way.divide`."""
        num_rows, fields = _check_enough(self, dataset), dataset.layout.vectors
        require(
            bool(fields),
            f"{self.text!r} takes vector features away, but the schema has none; "
            "add a feature of kind 'vector', or use another way",
        )
        numbers = numbers_of(seed, "modality")
        sizes = even_sizes(num_rows, self.num_parties)
        kinds = np.eye(len(fields), dtype=np.bool_)
        ends = [True, False] if len(fields) > 1 else [False]
        kinds = np.concatenate([kinds, np.repeat(np.array(ends)[:, None], len(fields), axis=1)])
        order, offsets = group_rows(deal(sizes, numbers), self.num_parties)
        kind_of = numbers.permutation(np.arange(self.num_parties) % len(kinds))
        return Parties(
            names=Names(np.arange(self.num_parties), "party "),
            order=order,
            offsets=offsets,
            by=self.text,
            vectors=kinds[kind_of],
        )


def _numbered(way: Way, party_of: Index) -> Parties:
    num_parties: int = way.num_parties  # type: ignore[attr-defined]
    order, offsets = group_rows(party_of, num_parties)
    names = Names(np.arange(num_parties), "party ")
    return Parties(names=names, order=order, offsets=offsets, by=way.text)


def _domain_names(column: str, codes: Codes, num_parties: int) -> Names:
    if num_parties == 1:
        return Names(codes.values, f"{column}=")
    numbers = range(num_parties)
    return Names([f"{value} {i}" for value in codes.values for i in numbers], f"{column}=")


def _check_number(num_parties: int) -> None:
    require(num_parties >= 1, f"the number of parties must be at least 1; got {num_parties}")


def _check_enough(way: Way, dataset: Dataset) -> int:
    """The number of training rows, if there are as many as parties."""
    num_rows = len(dataset.split("train"))
    num_parties: int = way.num_parties  # type: ignore[attr-defined]
    if num_parties > num_rows:
        raise ConfigError(
            f"{way.text}: there must be at most as many parties as training rows, {num_rows}; "
            f"got {num_parties}"
        )
    return num_rows
