"""Scoring from what each id adds: against the recommender on the rows, for every net with a split.

Scores agree to 1e-4: a first layer's sum is made in parts, and a sum of pairs by squares.
"""

from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch
from tests.scoring.test_split import SETTINGS, make

from scalerec.data.frames import empty_batch
from scalerec.errors import ConfigError
from scalerec.models.forms import Forms, TableForm
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.scoring import rows
from scalerec.scoring.rows import RowScorer, prepared_size

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize(("name", "layout", "settings"), SETTINGS)
def test_against_the_recommender(
    name: str, layout: str, settings: dict[str, Any], generator: torch.Generator
) -> None:
    recommender = make(name, LAYOUTS[layout], **settings)
    if name == "finalmlp" and not settings:
        assert prepared_size(recommender) is None
        return
    scorer = RowScorer(recommender.train())
    for size in (6, 1, 0):
        batch = draw_batch(LAYOUTS[layout], size, generator)
        batch.ids[:2, :2] = 0
        with torch.no_grad():
            expected = recommender.eval()(batch)
        recommender.train()
        torch.testing.assert_close(scorer(batch), expected, **CLOSE)
        assert recommender.training


def test_parts_and_half_precision(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(rows, "IDS_AT_A_TIME", 3)
    recommender = make("deepfm", LAYOUTS["mixed"])
    batch = draw_batch(LAYOUTS["mixed"], 9, generator)
    with torch.no_grad():
        expected = recommender(batch)
    whole, half = RowScorer(recommender), RowScorer(recommender, stored="float16")
    torch.testing.assert_close(whole(batch), expected, **CLOSE)
    assert (half(batch) - expected).abs().max() < 5e-3 * expected.std()
    # 12 + 14 + 5 ids; twenty sums, totals of four dimensions, and one logit.
    assert prepared_size(recommender) == (25, 31 * 25 * 4)
    assert prepared_size(recommender, stored="float16") == (25, 31 * 25 * 2)
    assert (whole.num_bytes, half.num_bytes) == (31 * 25 * 4, 31 * 25 * 2)


def test_rows_that_ids_share_and_fields_left_out(generator: torch.Generator) -> None:
    layout = LAYOUTS["mixed"]
    tables = {"item": TableForm(rows=5, sharing="hash"), "user": TableForm(dim=2)}
    forms = Forms(tables=tables, fields=("day", "price"), recalibrated=True)
    spec = ModelSpec(model="fm", settings={"dim": 4}, init_std=0.5, forms=forms)
    recommender = build_recommender(layout, spec, seed=1).eval()
    assert recommender.calibration is not None
    recommender.calibration.scale.fill_(2.0)
    recommender.calibration.shift.fill_(-1.0)
    batch = draw_batch(layout, 9, generator)
    with torch.no_grad():
        expected = recommender(batch)
    torch.testing.assert_close(RowScorer(recommender)(batch), expected, **CLOSE)


def test_words() -> None:
    layout = LAYOUTS["ids"]
    with pytest.raises(ConfigError, match="model 'autoint' cannot be split by field here"):
        RowScorer(make("autoint", layout))
    wrong: Any = "int8"
    with pytest.raises(ConfigError, match="stored must be one of float32, float16; got 'int8'"):
        RowScorer(make("lr", layout), stored=wrong)
    batch = empty_batch(layout, 2)
    batch.ids[1, 0] = 14
    with pytest.raises(IndexError, match="ids of field 'item' must be from 0 to 13; got 0 to 14"):
        RowScorer(make("lr", layout))(batch)
