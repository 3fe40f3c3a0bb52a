"""Settings: strict when they are read, and plain when they are written."""

from dataclasses import FrozenInstanceError, dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.config import Config, require
from scalerec.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner(Config):
    rate: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, f"rate must be in [0, 1); got {self.rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer(Config):
    size: int
    name: str = "x"
    on: bool = False
    by: Literal["up", "down"] = "up"
    colour: Colour = Colour.RED
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    table: dict[str, Inner] = field(default_factory=dict)


FULL = Outer(
    size=3,
    name="é",
    on=True,
    by="down",
    colour=Colour.BLUE,
    sizes=(1, 2),
    pair=(2, "b"),
    limit=7,
    inner=Inner(rate=0.25),
    many=(Inner(), Inner(rate=0)),
    table={"a": Inner(rate=0.1)},
)


def test_plain_values_and_back() -> None:
    plain = FULL.to_dict()
    assert plain["colour"] == "blue"
    assert plain["many"] == [{"rate": 0.5}, {"rate": 0}]
    assert Outer.from_dict(plain) == FULL
    assert Outer.from_dict({"size": 1}) == Outer(size=1)


@given(
    st.builds(
        Outer,
        size=st.integers(),
        name=st.text(),
        on=st.booleans(),
        colour=st.sampled_from(Colour),
        sizes=st.lists(st.integers()).map(tuple),
        limit=st.none() | st.integers(),
        inner=st.builds(Inner, rate=st.floats(0, 0.99)),
    )
)
def test_the_round_trip_is_exact(config: Outer) -> None:
    assert Outer.from_dict(config.to_dict()) == config


def test_a_copy_is_checked_and_the_original_is_left_alone() -> None:
    copy = FULL.replace(size=4, inner=Inner(rate=0.75), colour=Colour.RED)
    assert (copy.size, copy.inner.rate, copy.colour) == (4, 0.75, Colour.RED)
    assert FULL.size == 3
    with pytest.raises(ConfigError, match="size must be a whole number; got 'four'"):
        FULL.replace(size="four")
    with pytest.raises(FrozenInstanceError):
        FULL.size = 5  # type: ignore[misc]


def test_a_whole_number_is_a_number_too() -> None:
    made = Inner.from_dict({"rate": 0})
    assert made.rate == 0.0
    assert isinstance(made.rate, float)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "setting 'size' is missing"),
        ({"size": 1, "nmae": "x"}, "unknown setting 'nmae'; did you mean 'name'? allowed: size, "),
        ({"size": 1, "zzz": 0}, "unknown setting 'zzz'; allowed: size, name, on"),
        ({"size": 1.0}, "size must be a whole number; got 1.0"),
        ({"size": True}, "size must be a whole number; got True"),
        ({"size": 1, "name": 3}, "name must be text; got 3"),
        ({"size": 1, "on": 1}, "on must be true or false; got 1"),
        ({"size": 1, "by": "left"}, "by must be one of up, down; got 'left'"),
        ({"size": 1, "by": ["up"]}, "by must be one of up, down; got ['up']"),
        ({"size": 1, "colour": "green"}, "colour must be one of red, blue; got 'green'"),
        ({"size": 1, "sizes": 3}, "sizes must be a list; got 3"),
        ({"size": 1, "sizes": "12"}, "sizes must be a list; got '12'"),
        ({"size": 1, "sizes": [1, "2"]}, "sizes[1] must be a whole number; got '2'"),
        ({"size": 1, "pair": [1]}, "pair must have 2 values; got 1"),
        ({"size": 1, "pair": [1, 2]}, "pair[1] must be text; got 2"),
        ({"size": 1, "limit": "x"}, "limit must be a whole number; got 'x'"),
        ({"size": 1, "inner": 3}, "inner must be a table; got 3"),
        ({"size": 1, "inner": {"rate": "x"}}, "inner: rate must be a number; got 'x'"),
        ({"size": 1, "inner": {"rate": 10**400}}, "inner: rate must be a number"),
        ({"size": 1, "inner": {"rate": True}}, "inner: rate must be a number; got True"),
        ({"size": 1, "inner": {"rate": 1.5}}, "inner: rate must be in [0, 1); got 1.5"),
        ({"size": 1, "many": [{}, {"rat": 1}]}, "many[1]: unknown setting 'rat'; did you mean"),
        ({"size": 1, "table": {"a": {"rate": 2}}}, "table.a: rate must be in [0, 1); got 2.0"),
        ({"size": 1, "table": [1]}, "table must be a table; got [1]"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer.from_dict(values)
    assert str(caught.value).startswith(words)
    with pytest.raises(ConfigError) as placed:
        Outer.from_dict(values, "a.toml")
    assert str(placed.value) == f"a.toml: {caught.value}"


def test_true_is_not_one_of_the_numbers_allowed() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Bits(Config):
        bits: Literal[1, 2] = 1

    assert Bits.from_dict({"bits": 2}).bits == 2
    with pytest.raises(ConfigError, match="bits must be one of 1, 2; got True"):
        Bits.from_dict({"bits": True})
