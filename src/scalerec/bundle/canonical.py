"""JSON in exactly one way of writing, so that equal content has equal bytes and equal digests.

A sealed table is a JSON file that carries its own SHA-256 as its last entry, `seal`. Any text that
differs from what `sealed` writes, be it by a space, is refused.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from scalerec.config import require
from scalerec.errors import BundleError

__all__ = [
    "check_seal",
    "is_digest",
    "json_digest",
    "json_ready",
    "load_table",
    "render",
    "sealed",
]

_DIGEST = re.compile(r"[0-9a-f]{64}")


def json_ready(value: object, place: str) -> Any:
    """Copy a value into plain JSON: tuples become lists; nothing else is changed.

    The order of keys is kept, and it counts: a schema's features are in the order of their keys.

    Args:
        value: Text, finite numbers, true, false, null, and lists and tables of these.
        place: What the value is, for the message: ``spec``.

    Raises:
        ConfigError: If something in it is not JSON.
    """
    if isinstance(value, Mapping):
        for key in value:
            require(isinstance(key, str), f"{place}: a key must be text; got {key!r}")
        return {key: json_ready(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if type(value) is float:
        require(math.isfinite(value), f"{place} must be a finite number; got {value}")
        return value
    good = value is None or type(value) in (bool, int, str)
    allowed = "text, a finite number, true, false, null, a list or a table"
    require(good, f"{place} must be {allowed}; got {type(value).__name__}")
    return value


def render(value: object) -> bytes:
    """Give the bytes of a file for people: the same, indented by one, with a last line end."""
    return json.dumps(value, indent=1, allow_nan=False).encode("ascii") + b"\n"


def json_digest(value: object) -> str:
    """Give the SHA-256 of a value: of its JSON without spaces, ASCII only, keys in their order."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def is_digest(text: str) -> bool:
    """Tell whether a text is a SHA-256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def sealed(table: Mapping[str, Any]) -> bytes:
    """Give the bytes of a file that holds a table and its seal."""
    return render({**table, "seal": json_digest(table)})


def load_table(text: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON table.

    Args:
        text: The bytes of the file.
        place: The path of the file; it heads every message.

    Raises:
        BundleError: If it was cut short, or changed so that it is no JSON.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{place}: not valid JSON, so it was cut short or changed: {error}"
        raise BundleError(message) from error
    if not isinstance(table, dict):
        raise BundleError(f"{place}: must hold a table; got {type(table).__name__}")
    return table


def check_seal(table: Mapping[str, Any], text: bytes, place: str) -> dict[str, Any]:
    """Give a table without its seal, once text and seal agree.

    Args:
        table: What `load_table` made of the text.
        text: The bytes of the file.
        place: The path of the file; it heads every message.

    Raises:
        BundleError: If anything in the file was changed.
    """
    plain = {key: value for key, value in table.items() if key != "seal"}
    try:
        seal = json_digest(plain)
        same = sealed(plain) == text
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{place}: was changed: {error}") from error
    if table.get("seal") != seal:
        was = table.get("seal")
        raise BundleError(f"{place}: was changed: its seal is {was}, its content gives {seal}")
    if not same:
        raise BundleError(f"{place}: was changed: its text is not as scalerec writes it")
    return plain
