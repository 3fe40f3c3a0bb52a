"""Before the first step: that all processes are of one version, one data set and one mind."""

from collections.abc import Mapping
from typing import Any

import torch

from scalerec._version import __version__
from scalerec.distributed.group import Group
from scalerec.errors import GroupError

__all__ = ["shake_hands"]

# What a fact is called where it is told to a person.
NAMES = {
    "scalerec": "scalerec",
    "torch": "torch",
    "processes": "a run of so many processes:",
    "data": "the data set",
    "parent": "the start",
}


def shake_hands(
    group: Group, data: str, settings: Mapping[str, Any], parent: str | None = None
) -> None:
    """Refuse, on all processes, a process that differs from process 0.

    Args:
        group: The processes; all must call at once.
        data: Digest of the data set.
        settings: All settings that the processes must share, nested, as JSON.
        parent: Digest of the bundle that training starts from, if it does.

    Raises:
        GroupError: If one has another version, data set, start, number of processes or setting; it
            names the process, what it has, and what process 0 has.
    """
    own = {
        "scalerec": __version__,
        "torch": torch.__version__.partition("+")[0],
        "processes": group.world,
        "data": data,
        "parent": parent,
        **_flat(settings, "setting "),
    }
    wanted, *others = group.gather_facts(own)
    for rank, found in enumerate(others, 1):
        odd = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if odd:
            told, more = odd[0], f", and {len(odd) - 1} more differ" if len(odd) > 1 else ""
            raise GroupError(
                f"process {rank} has {NAMES.get(told, told)} {_short(found.get(told))}, process 0 "
                f"has {_short(wanted.get(told))}{more}; all processes of a run need the same"
            )


def _flat(settings: Mapping[str, Any], head: str) -> dict[str, Any]:
    """Nested settings by their full names: ``tables.lr``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{head}{name}.") if nested else {f"{head}{name}": value}
    return found


def _short(value: object) -> str:
    """A value as a person reads it; of a digest, its beginning."""
    text = "none" if value is None else str(value)
    is_digest = len(text) == 64 and text.isalnum()
    return f"{text[:12]}..." if is_digest else text
