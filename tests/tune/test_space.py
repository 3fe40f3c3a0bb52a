"""How a space is written, and what is wrong with one."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError
from scalerec.tune import Choice, Range, parse_domain, read_space
from scalerec.tune.space import Domain, placed, space_text


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("1e-4..1e-2:log", Range(1e-4, 1e-2, log=True)),
        ("0..0.5:0.1", Range(0, 0.5, step=0.1)),
        ("2..8", Range(2, 8, whole=True)),
        ("16..64:16", Range(16, 64, step=16, whole=True)),
        ("8..512:log", Range(8, 512, log=True, whole=True)),
        ("-1.5 .. 2", Range(-1.5, 2)),
        ("8|16|32", Choice((8, 16, 32))),
        ("[64,64] | [128]", Choice(([64, 64], [128]))),
        ("adam|sgd", Choice(("adam", "sgd"))),
        ("true|false", Choice((True, False))),
        ("constant|linear|1.0", Choice(("constant", "linear", 1.0))),
    ],
)
def test_domains_are_read_from_text(text: str, domain: Domain) -> None:
    found = parse_domain("x", text)
    assert found == domain
    assert parse_domain("x", found.text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8", "x needs at least two different values, or a range; got '8'"),
        ("8|8", "x needs at least two different values"),
        ("a..b", "x must be LOW..HIGH, LOW..HIGH:STEP or LOW..HIGH:log; got 'a..b'"),
        ("1..2:fast", "x must be LOW..HIGH, LOW..HIGH:STEP or LOW..HIGH:log; got '1..2:fast'"),
        ("1..inf", "x must be LOW..HIGH"),
        ("2..1", "x: '2..1' must rise from its low to its high end"),
        ("0..1:log", "x: a range by log starts above 0; got '0..1:log'"),
        ("0..1:0.3", "x: '0..1:0.3' must be a whole number of steps of 0.3 long"),
        ("0..4:-1", "must be a whole number of steps of -1 long"),
    ],
)
def test_what_is_no_domain_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_domain("x", text)
    assert says in str(caught.value)


def test_a_space_nests_like_settings() -> None:
    table: dict[str, Any] = {
        "dense": {"lr": "1e-4..1e-2:log"},
        "model": {"hidden": [[64], [64, 64]], "dim": "8|16"},
        "epochs": "1..3",
    }
    assert space_text(read_space(table)) == {
        "dense.lr": "0.0001..0.01:log",
        "model.hidden": "[64]|[64, 64]",
        "model.dim": "8|16",
        "epochs": "1..3",
    }


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"metric": "auc|log_loss"}, "metric cannot be searched: trials are compared by it"),
        ({"model": "fm|deepfm"}, "model cannot be searched: models go in --model"),
        ({"dense": {"lr": 0.1}}, "dense.lr needs a range or a choice"),
        ({"dense": {"lr": [0.1]}}, "dense.lr needs at least two different values"),
    ],
)
def test_what_is_no_space_is_refused(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(table)
    assert says in str(caught.value)


def test_the_page_on_searches_shows_a_space() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text("utf-8")
    shown = page.partition("```toml\n")[2].partition("```")[0]
    assert list(read_space(tomllib.loads(shown))) == [
        "batch_size",
        "dense.lr",
        "model.hidden",
        "model.dropout",
    ]


def test_placing_leaves_the_settings_alone() -> None:
    settings = {"dense": {"lr": 1.0, "name": "sgd"}, "epochs": 2}
    assert placed(settings, {"dense.lr": 2.0, "model.dim": 8}) == {
        "dense": {"lr": 2.0, "name": "sgd"},
        "epochs": 2,
        "model": {"dim": 8},
    }
    assert settings == {"dense": {"lr": 1.0, "name": "sgd"}, "epochs": 2}
    with pytest.raises(ConfigError, match=r"epochs\.x: 'epochs' has a value already"):
        placed(settings, {"epochs.x": 1})


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Range(0, 0.5, step=0.1), [0, 0.1, 0.3, 0.5], [0.15, 0.6, -0.1, "a", True]),
        (Range(1, 4, whole=True), [1, 2, 4, 2.0], [2.5, 0, 5]),
        (Choice(([64], [64, 64])), [[64]], [[32], 64]),
        (Choice((1, 2)), [1], [True, "1", 3]),
    ],
)
def test_a_domain_knows_its_values(
    domain: Domain, inside: list[object], outside: list[object]
) -> None:
    assert [domain.holds(value) for value in inside] == [True] * len(inside)
    assert [domain.holds(value) for value in outside] == [False] * len(outside)


@given(low=st.floats(1e-9, 1e3), factor=st.floats(1.5, 1e3), log=st.booleans())
def test_a_range_is_written_as_it_is_read(low: float, factor: float, log: bool) -> None:
    high = low * factor
    tail = ":log" if log else ""
    found = parse_domain("x", f"{low!r}..{high!r}{tail}")
    assert isinstance(found, Range)
    assert (found.low, found.high, found.log) == (low, high, log)
    assert parse_domain("x", found.text) == found
    assert found.holds(math.sqrt(low * high))
