"""Counts, sizes, rates and times as people write them, and back."""

import math
import re

from scalerec.errors import ConfigError

__all__ = [
    "parse_count",
    "parse_rate",
    "parse_size",
    "parse_time",
    "show_bytes",
    "show_count",
    "show_time",
]

DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
SIZES = {
    **{f"{prefix}b": factor for prefix, factor in DECIMAL.items()},
    **{f"{prefix}ib": 2.0 ** (10 * power) for power, prefix in enumerate("kmgt", start=1)},
}
RATES = {
    **{f"{prefix}bit": factor / 8 for prefix, factor in DECIMAL.items()},
    **{f"{unit}/s": factor for unit, factor in SIZES.items()},
}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
NUMBER = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]*)\Z")


def parse_count(text: str, name: str) -> int:
    """A whole number, such as ``1e9``, ``26`` or ``40M``.

    Args:
        text: As a person wrote it.
        name: The option's name, for the error.

    Raises:
        ConfigError: If it is no whole number above 0.

    Example:
        >>> parse_count("1e9", "--rows"), parse_count("2.5k", "--rows")
        (1000000000, 2500)
    """
    value = _parse(text, name, DECIMAL, "a number such as 1e9 or 40M")
    if value < 1 or value != math.floor(value):
        raise ConfigError(f"{name} must be a whole number of at least 1; got {text!r}")
    return int(value)


def parse_size(text: str, name: str) -> float:
    """Bytes, from a size such as ``64GiB`` or ``500MB``.

    Args:
        text: As a person wrote it.
        name: The option's name, for the error.

    Raises:
        ConfigError: If it has no unit, an unknown one, or is not above 0.

    Example:
        >>> parse_size("64GiB", "--memory") == 64 * 2**30
        True
    """
    return _parse(text, name, SIZES, "a size with its unit, such as 64GiB or 500MB")


def parse_rate(text: str, name: str) -> float:
    """Bytes a second, from a rate such as ``25Gbit``, ``100Mbit`` or ``2GB/s``.

    Args:
        text: As a person wrote it.
        name: The option's name, for the error.

    Raises:
        ConfigError: If it has no unit, an unknown one, or is not above 0.

    Example:
        >>> parse_rate("25Gbit", "--link"), parse_rate("500 MB/s", "--disk")
        (3125000000.0, 500000000.0)
    """
    plain = text.strip().removesuffix("/s").removesuffix("ps")
    if plain.lower().endswith("bit"):
        text = plain
    return _parse(text, name, RATES, "a rate with its unit, such as 25Gbit, 100Mbit or 2GB/s")


def parse_time(text: str, name: str) -> float:
    """Seconds, from a time such as ``100us``, ``2ms`` or ``3h``.

    Args:
        text: As a person wrote it.
        name: The option's name, for the error.

    Raises:
        ConfigError: If it has no unit, an unknown one, or is not above 0.

    Example:
        >>> parse_time("250ms", "--latency")
        0.25
    """
    return _parse(text.replace("µ", "u"), name, TIMES, "a time with its unit, such as 100us or 2ms")


def _parse(text: str, name: str, units: dict[str, float], wanted: str) -> float:
    found = NUMBER.match(text.strip())
    factor = units.get(found.group(2).lower()) if found else None
    if not found or factor is None:
        known = ", ".join(unit for unit in units if unit)
        raise ConfigError(f"{name} must be {wanted}; got {text!r}; units: {known}")
    value = float(found.group(1)) * factor
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} must be above 0 and finite; got {text!r}")
    return value


def show_bytes(size: float) -> str:
    """Bytes with a fitting unit, to three digits.

    Example:
        >>> show_bytes(1536), show_bytes(64 * 2**30), show_bytes(12)
        ('1.50 KiB', '64.0 GiB', '12 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{_three(size)} {unit}"
        size /= 1024
    return f"{_three(size)} TiB"


def show_time(seconds: float) -> str:
    """Seconds with a fitting unit, to three digits.

    Example:
        >>> show_time(0.0123), show_time(90), show_time(9000), show_time(2e-5)
        ('12.3 ms', '90.0 s', '2.50 h', '20.0 µs')
    """
    for limit, factor, unit in (
        (1e-3, 1e6, "µs"),
        (1, 1e3, "ms"),
        (600, 1, "s"),
        (7200, 1 / 60, "min"),
    ):
        if seconds < limit:
            return f"{_three(seconds * factor)} {unit}"
    hours = seconds / 3600
    return f"{_three(hours)} h" if hours < 100 else f"{_three(hours / 24)} days"


def show_count(number: float) -> str:
    """A number with thousands set apart, or as a power of ten where it is large.

    Example:
        >>> show_count(12345), show_count(1e9), show_count(2.5e12)
        ('12,345', '1e9', '2.5e12')
    """
    if number < 1e6:
        return f"{number:,.0f}"
    digits, _, power = f"{number:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _three(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"
