"""How updates that arrived become one, by name: the method's own mean, or a robust rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from scalerec.config import Config, require
from scalerec.errors import ConfigError
from scalerec.rounds import Update
from scalerec.rounds.cohort import CohortUpdate, cohort_mean
from scalerec.rounds.robust import (
    bound_norms,
    cohort_median,
    geometric_median,
    krum,
    most_chosen,
    trimmed_mean,
)

__all__ = ["Combination"]

ALLOWED = (
    "mean, median, trimmed:SHARE, krum:BAD, multikrum:BAD[:KEPT], normbound[:NORM] or geomedian"
)
NUMBERS = {
    "mean": (0, 0), "median": (0, 0), "trimmed": (1, 1), "krum": (1, 1), "multikrum": (1, 2),
    "normbound": (0, 1), "geomedian": (0, 0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination(Config):
    """A rule that makes one update of a cohort's.

    Args:
        kind: Its name: `mean`, `median`, `trimmed`, `krum`, `multikrum`, `normbound`, `geomedian`.
        numbers: What follows its name; see `scalerec.rounds.robust`: the share that is trimmed on
            each side, how many may be bad and how many are kept, the largest norm (the median of
            the cohort's where none is given).

    Raises:
        ConfigError: If there is no such rule, or a number is missing or out of range.
    """

    kind: str
    numbers: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(self.kind in NUMBERS, f"combine must be {ALLOWED}; got {self.kind!r}")
        least, most = NUMBERS[self.kind]
        fits = least <= len(self.numbers) <= most
        require(fits, f"combine must be {ALLOWED}; got {self!s}")
        if self.kind in ("krum", "multikrum"):
            whole = all(number >= 0 and number == int(number) for number in self.numbers)
            require(whole, f"the numbers of {self.kind} must be whole; got {self!s}")
        if self.kind == "trimmed":
            share = self.numbers[0]
            require(0 <= share < 0.5, f"the share of trimmed must be in [0, 0.5); got {share}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `mean`, `trimmed:0.2`, `multikrum:3:10`, ...

        Raises:
            ConfigError: If it is none of these.

        Example:
            >>> Combination.parse("trimmed:0.2")
            Combination(kind='trimmed', numbers=(0.2,))
        """
        kind, *words = text.split(":")
        try:
            return cls(kind=kind, numbers=tuple(float(word) for word in words))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"combine must be {ALLOWED}; got {text!r}") from None

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return ":".join([self.kind, *(f"{number:g}" for number in self.numbers)])

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean, which a method may weigh in its own way."""
        return self.kind == "mean"

    def apply(self, cohort: CohortUpdate) -> Update:
        """One update from a cohort's, of at least one party.

        Raises:
            RoundError: If too few parties arrived for the rule.
        """
        rules: dict[str, Callable[[], Update]] = {
            "mean": lambda: cohort_mean(cohort, "holders"),
            "median": lambda: cohort_median(cohort),
            "trimmed": lambda: trimmed_mean(cohort, self.numbers[0]),
            "krum": lambda: krum(cohort, int(self.numbers[0])),
            "multikrum": lambda: krum(cohort, *self._chosen(len(cohort)), over="holders"),
            "normbound": lambda: cohort_mean(bound_norms(cohort, *self.numbers), "holders"),
            "geomedian": lambda: geometric_median(cohort, "holders"),
        }
        return rules[self.kind]()

    def _chosen(self, num_parties: int) -> tuple[int, int]:
        """How many may be bad, and how many are kept."""
        bad = int(self.numbers[0])
        kept = int(self.numbers[1]) if len(self.numbers) > 1 else most_chosen(num_parties, bad)
        return bad, kept
