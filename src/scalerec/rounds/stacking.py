"""Updates of cohorts put one after the other, and kept as plain tensors.

Shapes: P parties, K rows of all of them together.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.cohort import CohortRows, CohortUpdate

__all__ = ["join_cohorts", "restore_cohort", "store_cohort"]

PARTS = ("rows", "offsets", "values")


def join_cohorts(cohorts: Sequence[CohortUpdate]) -> CohortUpdate:
    """The parties of several cohorts, one after the other.

    Args:
        cohorts: At least one; all must hold the same dense tensors and tables.

    Raises:
        RoundError: If there is none, or names differ.
    """
    if not cohorts:
        raise RoundError("at least one cohort is needed to join; got none")
    first = cohorts[0]
    if len(cohorts) == 1:
        return first
    for cohort in cohorts:
        names = {*cohort.dense, *cohort.tables}
        wanted = {*first.dense, *first.tables}
        if names != wanted:
            raise RoundError(f"cohorts to join must hold {sorted(wanted)}; got {sorted(names)}")
    return CohortUpdate(
        dense={name: torch.cat([c.dense[name] for c in cohorts]) for name in first.dense},
        tables={name: _join_rows([c.tables[name] for c in cohorts]) for name in first.tables},
        weights=torch.cat([c.weights for c in cohorts]),
    )


def store_cohort(cohort: CohortUpdate) -> dict[str, Tensor]:
    """A cohort as flat named tensors, to be written as they are.

    Args:
        cohort: Of any number of parties, none too.
    """
    stored = {"weights": cohort.weights}
    stored |= {f"dense/{name}": tensor.contiguous() for name, tensor in cohort.dense.items()}
    for name, part in cohort.tables.items():
        stored |= {f"tables/{name}/{key}": getattr(part, key) for key in PARTS}
    return stored


def restore_cohort(stored: Mapping[str, Tensor]) -> CohortUpdate:
    """The cohort that `store_cohort` stored.

    Raises:
        RoundError: If a tensor is missing.
    """
    dense, tables = {}, {}
    for key, tensor in stored.items():
        kind, _, rest = key.partition("/")
        name, _, part = rest.rpartition("/")
        if kind == "dense":
            dense[rest] = tensor
        elif kind == "tables" and part == "offsets":
            missing = [p for p in PARTS if f"tables/{name}/{p}" not in stored]
            if missing:
                raise RoundError(f"stored table {name!r} lacks {', '.join(missing)}")
            tables[name] = CohortRows(**{p: stored[f"tables/{name}/{p}"] for p in PARTS})
    if "weights" not in stored:
        raise RoundError(f"a stored cohort needs its weights; got {sorted(stored)}")
    return CohortUpdate(dense=dense, tables=tables, weights=stored["weights"])


def _join_rows(parts: Sequence[CohortRows]) -> CohortRows:
    zero = torch.zeros(1, dtype=torch.int64)
    return CohortRows(
        rows=torch.cat([part.rows for part in parts]),
        offsets=torch.cat([zero, *(part.lengths for part in parts)]).cumsum(0),
        values=torch.cat([part.values for part in parts]),
    )
