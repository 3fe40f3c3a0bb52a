"""Scorers of requests: each against the generic way, and which of them a net gets."""

from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS
from tests.scoring.test_split import ITEMS, make, on_pairs, row, sides

from scalerec.data.frames import empty_batch
from scalerec.data.pairing import pair
from scalerec.errors import ConfigError
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, TableForm
from scalerec.models.zoo import ZOO
from scalerec.scoring import candidates
from scalerec.scoring.candidates import (
    PairScorer,
    TowerScorer,
    candidate_scorer,
    row_scorer,
    score_rows,
)
from scalerec.scoring.rows import RowScorer
from scalerec.scoring.split import SplitScorer

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
SOME = torch.tensor([3, 0, 3, 12])
GENERIC = ("autoint", "din", "finalmlp")


@pytest.mark.parametrize("name", ZOO)
def test_every_net_has_a_scorer(name: str) -> None:
    layout = LAYOUTS["funnel" if name == "esmm" else "several"]
    recommender, (users, items) = make(name, layout), sides(layout)
    scorer = candidate_scorer(recommender, items)
    kind = TowerScorer if name == "two-tower" else PairScorer if name in GENERIC else SplitScorer
    assert type(scorer) is kind
    expected = on_pairs(recommender, row(users, 2), items, SOME)
    torch.testing.assert_close(scorer(row(users, 2), SOME), expected, **CLOSE)


@pytest.mark.parametrize("settings", [{}, {"normalise": True, "temperature": 0.2}])
def test_two_towers_in_parts(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS["mixed"]
    recommender, (users, items) = make("two-tower", layout, **settings), sides(layout)
    monkeypatch.setattr(candidates, "ROWS_AT_A_TIME", 5)
    everything = torch.arange(ITEMS)
    expected = on_pairs(recommender, row(users, 0), items, everything)
    for scorer in (TowerScorer(recommender, items), PairScorer(recommender, items)):
        torch.testing.assert_close(scorer(row(users, 0), everything), expected, **CLOSE)
    none = TowerScorer(recommender, empty_batch(layout, 0))
    assert none(row(users, 0), everything[:0]).shape == (0, 1)


def test_rows_in_any_number_and_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS["mixed"]
    recommender, (users, items) = make("deepfm", layout, dropout=0.5), sides(layout)
    rows = pair(layout, users, items, torch.arange(ITEMS).expand(3, -1))
    with torch.no_grad():
        expected = recommender(rows)
    for size in (5, 2048):
        monkeypatch.setattr(candidates, "ROWS_AT_A_TIME", size)
        torch.testing.assert_close(score_rows(recommender.train(), rows), expected, **CLOSE)
        assert recommender.training
    assert score_rows(recommender, empty_batch(layout, 0)).shape == (0, 1)


@pytest.mark.parametrize(
    ("name", "settings", "prepared"),
    [("deepfm", {}, True), ("deepfm", {"hidden": [300]}, False), ("din", {}, False)],
)
def test_rows_are_prepared_where_that_pays(
    name: str, settings: dict[str, Any], prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = LAYOUTS["mixed"]
    recommender, (users, items) = make(name, layout, **settings), sides(layout)
    scorer = row_scorer(recommender)
    assert isinstance(scorer, RowScorer) == prepared
    rows = pair(layout, users, items, torch.arange(ITEMS).expand(3, -1))
    with torch.no_grad():
        torch.testing.assert_close(scorer(rows), recommender(rows), **CLOSE)
    monkeypatch.setattr(candidates, "MOST_BYTES", 31 * 25 * 4 - 1)
    assert not isinstance(row_scorer(recommender), RowScorer)
    assert isinstance(row_scorer(recommender, stored="float16"), RowScorer) == prepared


@pytest.mark.parametrize(("rounded", "size"), [("all", 2), ("some", 4)])
def test_rounded_tables_are_prepared_in_16_bits(rounded: str, size: int) -> None:
    layout = LAYOUTS["mixed"]
    names = list(layout.tables)[: None if rounded == "all" else 1]
    forms = Forms(tables={name: TableForm(bits=8) for name in names})
    recommender = formed(make("deepfm", layout), forms)
    users, items = sides(layout)
    scorer = row_scorer(recommender)
    assert isinstance(scorer, RowScorer)
    assert scorer.num_bytes == RowScorer(recommender).num_bytes // 4 * size
    rows = pair(layout, users, items, torch.arange(ITEMS).expand(3, -1))
    with torch.no_grad():
        # Sums of a few numbers of 11 bits.
        torch.testing.assert_close(scorer(rows), recommender(rows), rtol=1e-2, atol=1e-3)


def test_words_for_another_net_and_wrong_requests() -> None:
    layout = LAYOUTS["ids"]
    users, items = sides(layout)
    with pytest.raises(ConfigError, match="a two-tower model is needed; got 'lr'"):
        TowerScorer(make("lr", layout), items)
    for name in ("autoint", "two-tower"):
        scorer = candidate_scorer(make(name, layout), items)
        with pytest.raises(ConfigError, match="must have one row of a user; got 3"):
            scorer(users, SOME)
        with pytest.raises(IndexError, match="candidates must be from 0 to 12; got 13 to 13"):
            scorer(row(users, 0), torch.tensor([13]))
