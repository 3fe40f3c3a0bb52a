"""What is wrong with a table, so that a person can mend it: at once, or counted and listed."""

from dataclasses import dataclass, field
from typing import Literal

from scalerec.errors import DataError

__all__ = ["OnError", "Problem", "Problems", "refusal", "shorten"]

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One value that does not fit.

    Args:
        file: The file, or the name of the table in memory.
        row: Number of the record, from 1, without the header; 0 when the whole file is meant.
        column: The column's name; empty when the whole row is meant.
        value: What arrived, cut to a readable length.
        allowed: What is allowed.
    """

    file: str
    row: int
    column: str
    value: str
    allowed: str

    def __str__(self) -> str:
        place = self.file
        if self.row:
            place += f", row {self.row}"
        if self.column:
            place += f", column {self.column!r}"
        return f"{place}: got {self.value}; allowed: {self.allowed}"


@dataclass(slots=True)
class Problems:
    """Collects problems: raises at the first one, or skips the row, counts and lists.

    Args:
        on_error: `fail` raises at the first problem; `skip` leaves the row out.
        keep: How many problems are listed in full; all are counted.
    """

    on_error: OnError = "fail"
    keep: int = 100
    num_skipped: int = 0
    listed: list[Problem] = field(default_factory=list)

    def report(self, file: str, row: int, column: str, value: object, allowed: str) -> None:
        """Report one row that must be left out.

        Raises:
            DataError: If the policy is `fail`.
        """
        problem = Problem(file, row, column, shorten(value), allowed)
        if self.on_error == "fail":
            raise refusal(problem)
        self.num_skipped += 1
        if len(self.listed) < self.keep:
            self.listed.append(problem)


def refusal(problem: Problem) -> DataError:
    """The error that a problem is where nothing may be left out."""
    return DataError(f"{problem} (or leave such rows out: --on-error skip)")


def shorten(value: object, limit: int = 60) -> str:
    """A value as a message shows it: quoted, and cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
