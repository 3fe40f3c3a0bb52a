"""Forms as settings: what they hold, what they refuse, and how a spec keeps them."""

from typing import Any

import pytest
from tests.models.test_recommender import LAYOUT, spec

from scalerec.config import Config
from scalerec.errors import ConfigError
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.recommender import ModelSpec, build_recommender

FORMS = Forms(
    fields=("age",),
    tables={"user": TableForm(rows=6, sharing="hash", bits=8), "day": TableForm(dim=2)},
    layers={"net.tower.0": LayerForm(bits=8, sparse=True), "net.tower.2": LayerForm(rank=3)},
    recalibrated=True,
)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LayerForm, {"bits": 4}, r"bits must be one of 32, 16, 8; got 4"),
        (LayerForm, {"rank": -1}, r"rank must be at least 0; got -1"),
        (LayerForm, {"calibrated": True}, r"calibrated belongs to layers of 8 bits; got bits=32"),
        (TableForm, {"bits": 2}, r"bits must be one of 32, 16, 8, 4; got 2"),
        (TableForm, {"dim": -3}, r"dim must be at least 0; got -3"),
        (
            TableForm,
            {"rows": 5},
            r"rows must be 0, since every id has its own with sharing='own'; got 5",
        ),
        (
            TableForm,
            {"sharing": "hash", "rows": 2},
            r"rows must be at least 3 with sharing='hash'; got 2",
        ),
        (
            TableForm,
            {"sharing": "quotient", "rows": 3},
            r"rows must be at least 4 with sharing='quotient'; got 3",
        ),
        (TableForm, {"sharing": "both"}, r"sharing must be one of own, hash, quotient; got 'both'"),
    ],
)
def test_what_is_out_of_range_is_refused(
    kind: type[Config], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_a_spec_without_forms_says_nothing_of_them() -> None:
    plain = spec()
    assert "forms" not in plain.to_dict()
    assert ModelSpec.from_dict(plain.to_dict()) == plain
    assert not plain.forms


def test_forms_write_what_differs_and_come_back() -> None:
    assert FORMS.to_dict() == {
        "fields": ["age"],
        "tables": {"user": {"rows": 6, "sharing": "hash", "bits": 8}, "day": {"dim": 2}},
        "layers": {"net.tower.0": {"bits": 8, "sparse": True}, "net.tower.2": {"rank": 3}},
        "recalibrated": True,
    }
    whole = spec().replace(forms=FORMS)
    assert whole.forms == FORMS
    assert ModelSpec.from_dict(whole.to_dict()) == whole


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (
            Forms(layers={"net.top": LayerForm(bits=8)}),
            r"forms.layers: must name linear layers or normalisations of the model: "
            r"net.tower.0, net.tower.2, net.tower.4, net.tower.6; got 'net.top'",
        ),
        (
            Forms(layers={"net.tower.0": LayerForm(rank=21)}),
            r"layer 'net.tower.0': rank must be at most 20; got 21",
        ),
        (
            Forms(tables={"film": TableForm(bits=8)}),
            r"forms.tables must name tables that are read: user, item, day, genre; got 'film'",
        ),
        (
            Forms(fields=("genres",), tables={"genre": TableForm(bits=8)}),
            r"forms.tables must name tables that are read: user, item, day; got 'genre'",
        ),
        (
            Forms(tables={"day": TableForm(dim=5)}),
            r"table 'day': dim must be at most 4, the net's; got 5",
        ),
        (
            Forms(tables={"item": TableForm(rows=8, sharing="quotient")}),
            r"table 'item': 14 ids by quotient and remainder need at least about 10 rows; got 8",
        ),
        (
            Forms(fields=("colour",)),
            r"a field to leave out must be one of user, item, day, age, price, genres, seen, image;"
            r" got 'colour'",
        ),
        (
            Forms(fields=("user", "item", "day", "age", "price", "genres", "seen", "image")),
            r"at least one field must be left; all are left out",
        ),
    ],
)
def test_forms_of_what_is_not_there_are_refused(forms: Forms, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_recommender(LAYOUT, spec().replace(forms=forms), 1)


def test_a_normalisation_has_no_form_but_its_size() -> None:
    normed = spec(batch_norm=True)
    forms = Forms(layers={"net.tower.1": LayerForm(outputs=7, bits=8)})
    with pytest.raises(ConfigError, match=r"'net.tower.1': a normalisation has no setting but out"):
        build_recommender(LAYOUT, normed.replace(forms=forms), 1)


def test_sizes_that_do_not_fit_each_other_are_refused() -> None:
    forms = Forms(layers={"net.tower.0": LayerForm(outputs=7)})
    with pytest.raises(ConfigError, match=r"inputs and outputs do not fit each other: .*\(0, 7\)"):
        build_recommender(LAYOUT, spec().replace(forms=forms), 1)
    both = {"net.tower.0": LayerForm(outputs=7), "net.tower.2": LayerForm(inputs=7)}
    found = build_recommender(LAYOUT, spec().replace(forms=Forms(layers=both)), 1)
    assert found.training
