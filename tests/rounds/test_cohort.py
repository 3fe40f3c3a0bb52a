"""The mean of a cohort: that of its updates one by one, whatever the numbers of their rows."""

import pytest
import torch

from scalerec.rounds import Update
from scalerec.rounds.aggregate import Over, weighted_mean
from scalerec.rounds.cohort import CohortUpdate, cohort_mean
from scalerec.rounds.update import TableRows


def drawn(most: int, num: int = 5) -> CohortUpdate:
    generator = torch.Generator().manual_seed(most)
    updates = []
    for party in range(num):
        rows = torch.randint(most, (12,), generator=generator).unique()
        values = torch.randn(len(rows), 3, generator=generator)
        tables = {"items": TableRows(rows=rows, values=values)}
        dense = {"w": torch.randn(2, 2, generator=generator)}
        updates.append(Update(dense=dense, tables=tables, weight=float(party)))
    return CohortUpdate.of(updates)


@pytest.mark.parametrize("over", ["all", "holders"])
@pytest.mark.parametrize("most", [3, 20, 10**12])
def test_mean_is_that_of_the_updates(most: int, over: Over) -> None:
    """Few numbers are marked, many are sorted."""
    cohort = drawn(most)
    found = cohort_mean(cohort, over)
    wanted = weighted_mean([cohort.party(n) for n in range(len(cohort))], over)
    assert found.weight == wanted.weight == 10
    torch.testing.assert_close(found.dense["w"], wanted.dense["w"])
    assert torch.equal(found.tables["items"].rows, wanted.tables["items"].rows)
    torch.testing.assert_close(found.tables["items"].values, wanted.tables["items"].values)


def test_mean_without_rows() -> None:
    none = TableRows(rows=torch.zeros(0, dtype=torch.int64), values=torch.zeros(0, 3))
    update = Update(dense={"w": torch.ones(1)}, tables={"items": none}, weight=2.0)
    found = cohort_mean(CohortUpdate.of([update, update]))
    assert found.tables["items"].rows.tolist() == []
    assert found.tables["items"].values.shape == (0, 3)
