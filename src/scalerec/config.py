"""Strict, frozen settings: the base of every config in the project.

A config is a frozen, keyword-only, slotted dataclass that inherits `Config`. It is built from
Python, or from a mapping (TOML, JSON, the command line) by `from_dict`, which rejects unknown keys
and wrong types and says where. It turns back into plain JSON values by `to_dict`.
"""

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from scalerec.errors import ConfigError

__all__ = ["Config", "require"]


def require(condition: bool, message: str) -> None:
    """Raise a `ConfigError` with `message` unless `condition` holds.

    Args:
        condition: What must be true.
        message: What must hold and what arrived, as ``rate must be in [0, 1); got 1.5``.

    Raises:
        ConfigError: If the condition is false.
    """
    if not condition:
        raise ConfigError(message)


class Config:
    """The base of settings; subclasses are frozen, keyword-only, slotted dataclasses.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True, slots=True)
        ... class Sizes(Config):
        ...     dim: int = 16
        >>> Sizes.from_dict({"dim": 8})
        Sizes(dim=8)
        >>> Sizes.from_dict({"dmi": 8})
        Traceback (most recent call last):
        ...
        scalerec.errors.ConfigError: unknown setting 'dmi'; did you mean 'dim'? allowed: dim
    """

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, object], place: str = "") -> Self:
        """Build the config from plain values.

        Args:
            values: Setting name to value, as TOML or JSON gives them.
            place: Where the values come from (a file and a table, say); it heads every message.

        Raises:
            ConfigError: If a key is unknown or missing, or a value has the wrong type or range.
        """
        head = f"{place}: " if place else ""
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in values:
            if key not in fields:
                raise ConfigError(f"{head}unknown setting {key!r}{_hint(key, list(fields))}")
        hints = get_type_hints(cls)
        ready = {key: convert(value, hints[key], f"{head}{key}") for key, value in values.items()}
        for name, field in fields.items():
            no_default = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if name not in ready and no_default:
                raise ConfigError(f"{head}setting {name!r} is missing")
        try:
            return cls(**ready)
        except ConfigError as error:
            raise ConfigError(f"{head}{error}") if head else error from None

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON-ready values, defaults included."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def replace(self, **changes: object) -> Self:
        """Give a copy with some settings changed, checked as on creation."""
        return type(self).from_dict(
            {**self.to_dict(), **{k: _plain(v) for k, v in changes.items()}}
        )


def convert(value: object, annotation: Any, place: str) -> Any:  # noqa: PLR0911
    """Turn a plain value into what the annotation asks for, or say what is wrong with it.

    Handles bool, int, float, str, `Literal`, `Enum`, `tuple`, `dict`, optional and nested configs.

    Raises:
        ConfigError: If the value does not fit.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(annotation), place)
    if origin is Literal:
        allowed = get_args(annotation)
        # In Python, True equals 1.
        good = any(value == item and type(value) is type(item) for item in allowed)
        require(good, f"{place} must be one of {_names(allowed)}; got {value!r}")
        return value
    if origin is tuple:
        return _convert_tuple(value, get_args(annotation), place)
    if origin is dict:
        _of_type(value, Mapping, "a table", place)
        inner = get_args(annotation)[1]
        return {k: convert(v, inner, f"{place}.{k}") for k, v in value.items()}  # type: ignore[attr-defined]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        allowed = tuple(member.value for member in annotation)
        plain = value.value if isinstance(value, Enum) else value
        require(plain in allowed, f"{place} must be one of {_names(allowed)}; got {value!r}")
        return annotation(plain)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        if isinstance(value, annotation):
            return value
        _of_type(value, Mapping, "a table", place)
        return annotation.from_dict(value, place)  # type: ignore[arg-type]
    return _convert_scalar(value, annotation, place)


def _convert_scalar(value: object, annotation: Any, place: str) -> Any:
    if annotation is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            number = float(value) if good else None  # type: ignore[arg-type]
        except OverflowError:
            number = None
        require(number is not None, f"{place} must be a number; got {value!r}")
        return number
    if annotation is int:
        good = isinstance(value, int) and not isinstance(value, bool)
        require(good, f"{place} must be a whole number; got {value!r}")
        return value
    if annotation is bool:
        return _of_type(value, bool, "true or false", place)
    if annotation is str:
        return _of_type(value, str, "text", place)
    return value


def _convert_union(value: object, options: tuple[Any, ...], place: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(value, option, place)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


def _convert_tuple(value: object, inner: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    good = isinstance(value, Sequence) and not isinstance(value, str)
    require(good, f"{place} must be a list; got {value!r}")
    items = list(value)  # type: ignore[call-overload]
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(convert(item, inner[0], f"{place}[{i}]") for i, item in enumerate(items))
    fits = len(items) == len(inner)
    require(fits, f"{place} must have {len(inner)} values; got {len(items)}")
    return tuple(
        convert(v, a, f"{place}[{i}]") for i, (v, a) in enumerate(zip(items, inner, strict=True))
    )


def _of_type(value: object, kind: type, wanted: str, place: str) -> Any:
    require(isinstance(value, kind), f"{place} must be {wanted}; got {value!r}")
    return value


def _plain(value: object) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _names(allowed: Sequence[object]) -> str:
    return ", ".join(str(item) for item in allowed)


def _hint(key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} allowed: {', '.join(allowed)}"
