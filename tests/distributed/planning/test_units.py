"""Numbers with units, as a person writes them."""

from collections.abc import Callable

import pytest

from scalerec.distributed.planning.units import (
    parse_count,
    parse_rate,
    parse_size,
    parse_time,
    show_bytes,
    show_time,
)
from scalerec.errors import ConfigError


def test_counts() -> None:
    assert parse_count("1e9", "--rows") == 10**9
    assert parse_count(" 2.5M ", "--rows") == 2_500_000
    assert parse_count("26", "--fields") == 26


def test_sizes_and_rates() -> None:
    assert parse_size("64GiB", "--memory") == 64 * 2**30
    assert parse_size("1.5 GB", "--memory") == 1.5e9
    # Bits are eight to a byte; rates are decimal, as links are sold.
    assert parse_rate("25Gbit", "--link") == 25e9 / 8
    assert parse_rate("100Mbit/s", "--link") == parse_rate("100Mbit", "--link") == 12.5e6
    assert parse_rate("2GB/s", "--disk") == 2e9


def test_times() -> None:
    assert parse_time("50us", "--latency") == pytest.approx(50e-6)
    assert parse_time("2h", "--every") == 7200


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_count, "many", "--x must be a number such as 1e9 or 40M; got 'many'"),
        (parse_count, "1.5", "--x must be a whole number of at least 1; got '1.5'"),
        (parse_count, "0", "--x must be above 0 and finite; got '0'"),
        (parse_count, "-3", "--x must be a number such as 1e9 or 40M; got '-3'"),
        (parse_size, "64", "--x must be a size with its unit, such as 64GiB or 500MB; got '64'"),
        (parse_rate, "25", "--x must be a rate with its unit, such as 25Gbit, 100Mbit or 2GB/s"),
        (parse_rate, "25GiB", "got '25GiB'; units: bit, kbit, mbit, gbit, tbit, b/s"),
        (parse_time, "3 days", "--x must be a time with its unit, such as 100us or 2ms"),
        (parse_size, "1e999GiB", "--x must be above 0 and finite"),
    ],
)
def test_what_is_wrong_is_named(parse: Callable[[str, str], float], text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "--x")
    assert says in str(caught.value)


def test_shown() -> None:
    assert [show_bytes(size) for size in (0, 999, 2**20, 2**50)] == [
        "0 B",
        "999 B",
        "1.00 MiB",
        "1,024 TiB",
    ]
    assert [show_time(t) for t in (1e-6, 0.5, 59.0, 3600, 86400 * 10)] == [
        "1.00 µs",
        "500 ms",
        "59.0 s",
        "60.0 min",
        "10.0 days",
    ]
