"""Rules by which a cohort's updates become one, named in a line of text.

```text
mean                   the mean, weighted by examples
median                 the median of each number
trimmed:0.2            the mean of each number without its largest and smallest fifth
krum:F                 the update whose nearest others are nearest, F parties being bad at most
multikrum:F            the mean of the P - F - 2 best of P updates by the score of Krum
multikrum:F:M          of the M best, or as many of them as may be kept
geomedian              the geometric median
normbound:C            the mean, each update shrunk to a norm of at most C
normbound:median       the same, C being the median norm of the cohort
normbound:C+RULE       updates are shrunk, and then go by another rule
```

Shapes: P parties.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from scalerec.config import Config, require
from scalerec.errors import ConfigError, RoundError
from scalerec.rounds.aggregate import Over
from scalerec.rounds.cohort import CohortUpdate, cohort_mean
from scalerec.rounds.robust import (
    bound_norms,
    cohort_median,
    geometric_median,
    krum,
    most_chosen,
    trimmed_mean,
)
from scalerec.rounds.update import Update

__all__ = ["Combined", "Combining"]

Rule = Literal["mean", "median", "trimmed", "krum", "multikrum", "geomedian"]
ALLOWED = (
    "mean, median, trimmed:SHARE, krum:F, multikrum:F[:M], geomedian, normbound:C, "
    "normbound:median, or normbound:C+ one of the others"
)


class Combined(NamedTuple):
    """What became of a round's updates.

    Args:
        update: One for all; None if the parameters stay as they are.
        reason: Why they stay; empty if they move.
    """

    update: Update | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Combining(Config):
    """How a cohort's updates become one.

    Args:
        rule: The rule.
        trim: The share that goes from each side, of `trimmed`, in [0, 0.5).
        num_bad: F, parties that may be bad, of `krum` and `multikrum`, at least 0.
        num_kept: M, updates that are averaged at most, of `multikrum`; 0 for as many as may be.
        max_norm: C, at which norms are bound before; 0 for no bound, -1 for the median norm.
        least: Of `median` and `trimmed`: a row that fewer parties hold stays where it is.
    """

    rule: Rule = "mean"
    trim: float = 0.0
    num_bad: int = 0
    num_kept: int = 0
    max_norm: float = 0.0
    least: int = 1

    def __post_init__(self) -> None:
        require(0 <= self.trim < 0.5, f"trim must be in [0, 0.5); got {self.trim}")
        require(self.num_bad >= 0, f"num_bad must be at least 0; got {self.num_bad}")
        require(self.num_kept >= 0, f"num_kept must be at least 0; got {self.num_kept}")
        require(self.least >= 1, f"least must be at least 1; got {self.least}")
        fits = self.max_norm >= 0 or self.max_norm == -1
        require(fits, f"max_norm must be above 0, 0 or -1; got {self.max_norm}")

    @classmethod
    def parse(cls, text: str) -> "Combining":
        """Read a rule's name.

        Args:
            text: As in the table above.

        Raises:
            ConfigError: If it is none of them, or a number is out of range.
        """
        wrong = ConfigError(f"a rule must be {ALLOWED}; got {text!r}")
        head, plus, rest = text.partition("+")
        try:
            bound = {}
            if head.startswith("normbound:"):
                given = head.removeprefix("normbound:")
                bound = {"max_norm": -1.0 if given == "median" else float(given)}
                if bound["max_norm"] <= 0 and given != "median":
                    raise wrong
                head = rest if plus else "mean"
            elif plus:
                raise wrong
            rule, *given_numbers = head.split(":")
            return cls.from_dict({"rule": rule, **_numbers(rule, given_numbers), **bound})
        except ConfigError as error:
            raise (error if error is wrong else ConfigError(f"rule {text!r}: {error}")) from None
        except ValueError:
            raise wrong from None

    def check(self, num_parties: int) -> None:
        """Refuse a rule that needs more parties than a cohort has.

        Args:
            num_parties: That a cohort has when nobody fails.

        Raises:
            RoundError: If it does.
        """
        if self.rule in ("krum", "multikrum"):
            most = most_chosen(num_parties, self.num_bad)
            if self.num_kept > most:
                raise RoundError(
                    f"multikrum of {num_parties} updates, {self.num_bad} of them bad, keeps at "
                    f"most {most}; got {self.num_kept}"
                )

    def combine(self, cohort: CohortUpdate, over: Over = "holders") -> Update:
        """One update from a cohort's.

        Args:
            cohort: At least one party, all numbers finite.
            over: How means treat rows; as in `weighted_mean`.

        Raises:
            RoundError: If the rule needs more parties, or the updates cannot be combined.
        """
        if self.max_norm:
            cohort = bound_norms(cohort, None if self.max_norm < 0 else self.max_norm)
        if self.rule == "median":
            return cohort_median(cohort, self.least)
        if self.rule == "trimmed":
            return trimmed_mean(cohort, self.trim, self.least)
        if self.rule == "geomedian":
            return geometric_median(cohort, over)
        if self.rule in ("krum", "multikrum"):
            most = most_chosen(int((cohort.weights > 0).sum()), self.num_bad)
            kept = 1 if self.rule == "krum" else min(self.num_kept or most, most)
            return krum(cohort, self.num_bad, kept, over)
        return cohort_mean(cohort, over)

    def attempt(self, cohort: CohortUpdate, over: Over = "holders") -> Combined:
        """As `combine`, but a cohort that cannot be combined leaves the parameters alone.

        Args:
            cohort: Any number of parties, none too.
            over: As in `combine`.
        """
        if not len(cohort):
            return Combined(None, "no update is left to combine")
        try:
            return Combined(self.combine(cohort, over))
        except RoundError as error:
            return Combined(None, str(error))


def _numbers(rule: str, given: list[str]) -> dict[str, float | int]:
    """The settings that follow a rule's name."""
    if rule == "trimmed" and len(given) == 1:
        return {"trim": float(given[0])}
    if rule == "krum" and len(given) == 1:
        return {"num_bad": int(given[0])}
    if rule == "multikrum" and len(given) == 1:
        return {"num_bad": int(given[0])}
    if rule == "multikrum" and len(given) == 2 and int(given[1]) >= 1:
        return {"num_bad": int(given[0]), "num_kept": int(given[1])}
    if rule in ("mean", "median", "geomedian") and not given:
        return {}
    raise ValueError(rule)
