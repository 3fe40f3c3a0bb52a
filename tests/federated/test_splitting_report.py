"""The report of skew: figures by hand, known laws, and a picture that is well-formed."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.toys import CATEGORIES, make_data

from scalerec.data.dataset import Dataset
from scalerec.federated.splitting import Names, Parties, group_rows
from scalerec.federated.splitting_chart import draw_split
from scalerec.federated.splitting_report import SplitReport, gini, report_split
from scalerec.federated.splitting_text import split_parties


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight training rows that can be counted by hand, and one row of each other split."""
    columns: dict[str, Any] = {
        "user": ["a", "a", "a", "b", "b", "c", "c", "c", "a", "a"],
        "item": ["x", "y", "x", "x", "z", "w", "w", "x", "x", "x"],
        "liked": [1, 1, 0, 1, 0, 0, 0, 0, 1, 1],
        "kind": [0, 1, 2, 0, 1, 2, 0, 1, 0, 0],
        "stars": [1.0, 3.0, 2.0, 4.0, 0.0, 5.0, 6.0, 7.0, 0.0, 0.0],
        "time": list(range(10)),
    }
    tasks: list[dict[str, object]] = [
        {"name": "liked", "kind": "binary"},
        {"name": "kind", "kind": "multiclass", "num_classes": 3},
        {"name": "stars", "kind": "regression"},
    ]
    config = {"split": {"by": "time", "valid": 0.1, "test": 0.1}}
    path = tmp_path_factory.mktemp("tiny") / "data"
    keys = {"user": "user", "item": "item", "timestamp": "time"}
    data = make_data(path, columns, CATEGORIES, tasks, config, **keys)
    assert data.num_rows("train") == 8
    return data


def test_figures_by_hand(tiny: Dataset) -> None:
    report = report_split(tiny, split_parties(tiny, "user"))
    assert (report.by, report.num_parties, report.num_rows) == ("user", 3, 8)
    # Users a, b and c have 3, 2 and 3 rows.
    rows = report.rows
    assert (rows.least, rows.median, rows.most) == (2, 3, 3)
    assert rows.mean == pytest.approx(8 / 3)
    assert report.size_ratio == pytest.approx(9 / 8)
    # Gini of 2, 3, 3: 2 (1*2 + 2*3 + 3*3) / (3 * 8) - 4/3.
    assert report.gini == pytest.approx(34 / 24 - 4 / 3)
    liked = report.labels["liked"]
    assert liked.rate == pytest.approx(3 / 8)
    # Rates 2/3, 1/2, 0; total variation of two labels is the difference of rates.
    assert liked.rate_spread == pytest.approx(np.std([2 / 3, 1 / 2, 0]))
    wanted = np.array([2 / 3 - 3 / 8, 1 / 2 - 3 / 8, 3 / 8])
    assert liked.variation == pytest.approx(wanted @ [3, 2, 3] / 8)
    assert liked.most_variation == pytest.approx(3 / 8)

    def bits(*shares: float) -> float:
        return -sum(share * math.log2(share) for share in shares if share)

    apart = [
        bits((r + 3 / 8) / 2, 1 - (r + 3 / 8) / 2) - (bits(r, 1 - r) + bits(3 / 8, 5 / 8)) / 2
        for r in (2 / 3, 1 / 2, 0.0)
    ]
    assert liked.divergence == pytest.approx(np.dot(apart, [3, 2, 3]) / 8)
    kind = report.labels["kind"]
    assert (kind.rate, kind.rate_spread) == (None, None)
    # All: 3, 3, 2 of 8. Users a and c have one of each; b has none of the last.
    each = [1 / 12 / 2 + 1 / 24, 1 / 8 / 2 * 2 + 1 / 8]
    assert kind.variation == pytest.approx((6 * each[0] + 2 * each[1]) / 8)
    stars = report.labels["stars"]
    assert stars.rate == pytest.approx(3.5)
    assert stars.rate_spread == pytest.approx(np.std([2, 2, 6]))
    assert stars.variation is stars.divergence is None


def test_rows_of_tables_by_hand(tiny: Dataset) -> None:
    report = report_split(tiny, split_parties(tiny, "user"))
    users, items = report.tables["user"], report.tables["item"]
    assert (users.rows, users.read, users.alone, users.overlap) == (5, 3, 1.0, 0.0)
    # a reads x and y, b reads x and z, c reads w and x; all share x.
    assert (items.rows, items.read, items.alone) == (6, 4, 0.75)
    assert (items.per_party.least, items.per_party.most) == (2, 2)
    assert items.holders == pytest.approx(6 / 4)
    assert items.overlap == pytest.approx(0.5)
    alone = report_split(tiny, split_parties(tiny, "uniform:1"))
    assert alone.tables["item"].overlap is None
    assert "overlap" not in alone.text()


def test_it_is_read_in_stretches(simulated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories are counted in the table of their items; pieces do not matter."""
    parties = split_parties(simulated, "uniform:5", min_examples=2)
    whole = report_split(simulated, parties)
    monkeypatch.setattr("scalerec.federated.splitting_report.CHUNK", 100)
    assert report_split(simulated, parties) == whole
    batch = simulated.split("train").take(parties.rows(2))
    numbers = [f.table for f in simulated.layout.ids].index("item_id")
    own = set(batch.ids[numbers].tolist()) | set(batch.bags[0].values.tolist())
    assert whole.tables["item_id"].per_party.most >= len(own - {0})


def test_dealing_at_random_is_no_skew(simulated: Dataset) -> None:
    """Uniform parties differ as much as chance makes them; Dirichlet ones far more."""
    fair = report_split(simulated, split_parties(simulated, "uniform:20")).labels["click"]
    far = report_split(simulated, split_parties(simulated, "dirichlet:20:0.1")).labels["click"]
    assert fair.variation is not None
    assert far.variation is not None
    assert fair.variation_by_chance is not None
    assert fair.variation == pytest.approx(fair.variation_by_chance, rel=0.5)
    assert far.variation > 5 * fair.variation


def test_unknown_labels_do_not_count(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "user": ["a", "b", "b", "c", "c"],
        "item": ["x"] * 5,
        "liked": [1, None, 0, None, None],
    }
    config = {"split": {"by": "random", "valid": 0.0, "test": 0.0}}
    data = make_data(tmp_path / "data", columns, CATEGORIES, config=config, user="user")
    parties = split_parties(data, "user")
    liked = report_split(data, parties).labels["liked"]
    assert (liked.rate, liked.rate_spread, liked.variation) == (0.5, 0.5, 0.5)
    assert ET.fromstring(draw_split(data, parties)) is not None


def test_modality_and_domains(simulated: Dataset) -> None:
    report = report_split(simulated, split_parties(simulated, "modality:5"))
    assert report.vectors["image"] + report.num_without_vectors == 5
    _, rows = report.table()
    assert ["vectors image", f"{report.vectors['image']} parties"] in rows
    assert ["no vectors", f"{report.num_without_vectors} parties"] in rows
    report = report_split(simulated, split_parties(simulated, "domain:domain:2"))
    assert (report.num_domains, report.vectors) == (2, {})


def test_it_is_json_and_text(tiny: Dataset) -> None:
    parties = split_parties(tiny, "user", min_examples=3)
    report = report_split(tiny, parties)
    assert SplitReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    columns, rows = report.table()
    assert columns == ["what", "found"]
    lines = {str(name): str(found) for name, found in rows}
    assert lines["parties"] == "2, by user"
    assert lines["left out"] == "1 parties with 2 rows"
    assert lines["rows"] == "6: 3 to 3 each, median 3, mean 3.0"
    assert lines["balance"] == "largest / mean 1.00, Gini 0.000"
    assert "total variation 0.333 (" in lines["labels of liked"]
    assert report.text().splitlines()[0].split(maxsplit=1) == ["parties", "2, by user"]


def test_gini_by_hand() -> None:
    assert gini(np.array([5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)


@pytest.mark.parametrize("by", ["user", "uniform:1", "uneven:40:2"])
def test_the_picture(by: str, simulated: Dataset) -> None:
    parties = split_parties(simulated, by)
    root = ET.fromstring(draw_split(simulated, parties))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}g")) == 2
    assert len(root.findall(f".//{space}circle")) == 2 * len(parties)
    texts = [text.text for text in root.iter(f"{space}text")]
    assert "rows of each party, largest first" in texts
    assert "mean click by rows of a party" in texts
    for circle in root.iter(f"{space}circle"):
        assert 52 <= float(circle.get("cx", "nan")) <= 318
        assert 30 <= float(circle.get("cy", "nan")) <= 200


def test_a_picture_of_many_parties_stays_small(simulated: Dataset) -> None:
    num = simulated.num_rows("train")
    order, offsets = group_rows(np.arange(num), num)
    parties = Parties(names=Names(np.arange(num)), order=order, offsets=offsets, by="<row>")
    text = draw_split(simulated, parties)
    assert text.count("<circle") == 2000
    assert "&lt;row&gt;" in text
