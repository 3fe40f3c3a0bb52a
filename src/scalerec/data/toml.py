"""Plain values as TOML: just enough to write what `Config.to_dict` gives."""

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum

from scalerec.config import Config

__all__ = ["short_dict", "to_toml"]


def short_dict(config: Config) -> dict[str, object]:
    """Give a config's settings as plain values, without those that equal their defaults.

    The setting `kind`, which tells one class from another, is always there.
    """
    return {
        field.name: _short(getattr(config, field.name))
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if field.name == "kind" or getattr(config, field.name) != field.default
    }


def _short(value: object) -> object:
    if isinstance(value, Config):
        return short_dict(value)
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_short(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def to_toml(values: Mapping[str, object]) -> str:
    """Write a mapping as TOML; null values are left out, since TOML has none.

    Args:
        values: Text, numbers, truth values, lists of these, mappings, and lists of mappings.

    Raises:
        TypeError: If a value is of another type.

    Example:
        >>> print(to_toml({"user": "id", "features": [{"name": "id", "dim": 4}]}), end="")
        user = "id"
        <BLANKLINE>
        [[features]]
        name = "id"
        dim = 4
    """
    return "\n".join([*_lines(values, ()), ""]).lstrip("\n")


def _lines(values: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    lines, below = [], []
    for key, value in values.items():
        name = (*path, _key(key))
        if isinstance(value, Mapping):
            below += ["", f"[{'.'.join(name)}]", *_lines(value, name)]
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for item in value:
                below += ["", f"[[{'.'.join(name)}]]", *_lines(item, name)]
        elif value is not None:
            lines.append(f"{_key(key)} = {_value(value)}")
    return lines + below


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "a").replace("_", "a").isalnum()
    return key if bare else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # inf and nan are written alike in both
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"TOML holds text, numbers, truth values, lists and tables; got {value!r}")


def _text(value: str) -> str:
    # JSON's escapes are TOML's too; TOML also escapes the character 7F.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
