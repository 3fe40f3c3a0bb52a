"""Where a bundle comes from: one step for every verb that made it, the oldest first."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scalerec._version import __version__
from scalerec.bundle.canonical import is_digest, json_ready
from scalerec.config import Config, require

__all__ = ["Step"]

_VERB = re.compile(r"[a-z][a-z0-9-]*")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(Config):
    """One verb that was applied on the way to a bundle.

    `time`, `seconds` and `effect` are stored, but no digest covers them and `==` ignores them: two
    equal runs give bundles with equal digests. Everything else counts, so `settings` should hold
    what shapes the result (seeds, rates), not where it was written.

    Args:
        verb: What was done, in lower case: ``train``, ``meta-train``.
        settings: The verb's settings as JSON.
        parents: Digests of the bundles it started from; none for a first training.
        data: Digest of the data set it read, if it read one.
        ledger: The privacy that was spent, as JSON; none if no privacy was promised.
        version: The version of scalerec that did it.
        time: When the step was recorded, in UTC, in the form of ISO 8601.
        seconds: How long it took.
        effect: What it did to size, quality and time, measured, as JSON; none if nobody measured.
    """

    verb: str
    settings: dict[str, object] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    data: str | None = None
    ledger: dict[str, object] | None = None
    version: str = __version__
    time: str = field(default_factory=_now, compare=False)
    seconds: float | None = field(default=None, compare=False)
    effect: dict[str, object] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        good = _VERB.fullmatch(self.verb) is not None
        require(good, f"verb must be lower-case letters, digits and hyphens; got {self.verb!r}")
        for parent in self.parents:
            require(is_digest(parent), f"parents must be SHA-256 digests; got {parent!r}")
        object.__setattr__(self, "settings", json_ready(self.settings, "settings"))
        if self.ledger is not None:
            object.__setattr__(self, "ledger", json_ready(self.ledger, "ledger"))
        if self.effect is not None:
            object.__setattr__(self, "effect", json_ready(self.effect, "effect"))

    def to_dict(self) -> dict[str, Any]:
        """Give the step as JSON-ready values; without an effect where nobody measured."""
        plain = Config.to_dict(self)
        if self.effect is None:
            del plain["effect"]
        return plain

    def lasting(self) -> dict[str, Any]:
        """Give the part that a bundle's digest covers: all but `time`, `seconds` and `effect`."""
        plain = self.to_dict()
        for name in ("time", "seconds", "effect"):
            plain.pop(name, None)
        return plain
