"""Parties from what `--by` says."""

from collections.abc import Callable

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.federated.splitting import Parties
from scalerec.federated.splitting_ways import (
    ByColumn,
    ByDirichlet,
    ByDomain,
    ByModality,
    ByTime,
    ByUser,
    Uneven,
    Uniform,
    Way,
)

__all__ = ["BY", "parse_by", "split_parties"]

# Name to how it is written and made; what is in brackets may be left out.
_WAYS: dict[str, tuple[str, Callable[..., Way]]] = {
    "user": ("user", ByUser),
    "column": ("column:NAME", lambda name: ByColumn(column=name)),
    "uniform": ("uniform:N", lambda num: Uniform(num_parties=_whole(num))),
    "dirichlet": (
        "dirichlet:N:ALPHA[:COLUMN]",
        lambda num, alpha, column="": ByDirichlet(
            num_parties=_whole(num), alpha=_real(alpha), column=column
        ),
    ),
    "dirichlet-equal": (
        "dirichlet-equal:N:ALPHA[:COLUMN]",
        lambda num, alpha, column="": ByDirichlet(
            num_parties=_whole(num), alpha=_real(alpha), column=column, sizes="equal"
        ),
    ),
    "uneven": (
        "uneven:N[:SIGMA]",
        lambda num, spread="1": Uneven(num_parties=_whole(num), spread=_real(spread)),
    ),
    "power": (
        "power:N[:EXPONENT]",
        lambda num, spread="1": Uneven(num_parties=_whole(num), law="power", spread=_real(spread)),
    ),
    "time": ("time:N", lambda num: ByTime(num_parties=_whole(num))),
    "domain": (
        "domain:COLUMN[:N]",
        lambda column, num="1": ByDomain(column=column, num_parties=_whole(num)),
    ),
    "modality": ("modality:N", lambda num: ByModality(num_parties=_whole(num))),
}
BY = tuple(pattern for pattern, _ in _WAYS.values())


def parse_by(text: str) -> Way:
    """Read a way to divide rows among parties.

    Args:
        text: As `BY` lists: `user`, `column:NAME`, `uniform:N`, `dirichlet:N:ALPHA[:COLUMN]`,
            `dirichlet-equal:N:ALPHA[:COLUMN]`, `uneven:N[:SIGMA]`, `power:N[:EXPONENT]`, `time:N`,
            `domain:COLUMN[:N]`, `modality:N`.

    Raises:
        ConfigError: If it is none of them; the message lists them.

    Example:
        >>> parse_by("dirichlet:20:0.1").text
        'dirichlet:20:0.1'
    """
    name, *parts = text.split(":")
    if name not in _WAYS:
        raise ConfigError(f"by must be one of {', '.join(BY)}; got {text!r}")
    pattern, make = _WAYS[name]
    least = pattern.split("[")[0].count(":")
    if not least <= len(parts) <= pattern.count(":") or not all(parts):
        raise ConfigError(f"by must be written {pattern}; got {text!r}")
    try:
        return make(*parts)
    except ConfigError as error:
        raise ConfigError(f"by {text!r}: {error}") from None


def split_parties(dataset: Dataset, by: str | Way, seed: int = 0, min_examples: int = 1) -> Parties:
    """Say who holds which training rows.

    Args:
        dataset: Its training rows.
        by: A way to divide them, or what `--by` says.
        seed: At least 0; the same one gives the same parties.
        min_examples: At least 1; a party with fewer rows is left out, and counted.

    Raises:
        ConfigError: If the text is none of those allowed, the data set has not what it divides by,
            or no party has enough rows.
    """
    way = parse_by(by) if isinstance(by, str) else by
    return way.divide(dataset, seed).keep(min_examples)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"N must be a whole number; got {text!r}") from None


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{text!r} must be a number") from None
