"""The errors a user can cause, as one tree.

Every message says where, what arrived and what is allowed. Each class is also a suitable builtin,
so that code which knows nothing of scalerec can still catch it. `assert` is kept for our own
invariants.

```text
ScalerecError
├── ConfigError   (ValueError)    a setting is outside its range, or unknown
├── SchemaError   (ValueError)    a schema contradicts itself
├── DataError     (ValueError)    a table does not fit its schema
├── NotFittedError(RuntimeError)  something is used before it was fitted
├── BundleError   (ValueError)    a bundle is incomplete, changed, unsafe or of a later format
├── RoundError    (RuntimeError)  a round of local updates cannot be aggregated
├── TrainError    (RuntimeError)  training met a number that is not finite
├── GroupError    (RuntimeError)  the processes of a run cannot work together
├── CompressError (RuntimeError)  no compressed model keeps to what was asked
├── RequestError  (ValueError)    a question to a bundle that it cannot answer
└── MissingExtraError (ImportError)  an optional engine is not installed
```
"""

__all__ = [
    "BundleError",
    "CompressError",
    "ConfigError",
    "DataError",
    "GroupError",
    "MissingExtraError",
    "NotFittedError",
    "RequestError",
    "RoundError",
    "ScalerecError",
    "SchemaError",
    "TrainError",
]


class ScalerecError(Exception):
    """The root: `except ScalerecError` catches every mistake this library reports."""


class ConfigError(ScalerecError, ValueError):
    """A setting is outside its range, of the wrong type, or unknown."""


class SchemaError(ScalerecError, ValueError):
    """A schema contradicts itself or names what does not exist."""


class DataError(ScalerecError, ValueError):
    """A table, file or data set does not fit its schema."""


class NotFittedError(ScalerecError, RuntimeError):
    """An encoder or accumulator is used before it has seen data."""


class BundleError(ScalerecError, ValueError):
    """A bundle is incomplete, changed, unsafe, or of a later format than this version reads."""


class GroupError(ScalerecError, RuntimeError):
    """Processes of one run do not fit together, or one of them is gone."""


class RoundError(ScalerecError, RuntimeError):
    """Updates of a round do not fit together."""


class TrainError(ScalerecError, RuntimeError):
    """Training met a loss, gradient or weight that is not finite."""


class CompressError(ScalerecError, RuntimeError):
    """No compressed model keeps to what was asked; the message shows those that come nearest."""


class RequestError(ScalerecError, ValueError):
    """A question to a bundle that it cannot answer."""


class MissingExtraError(ScalerecError, ImportError):
    """An optional engine is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, then: str = "") -> None:
        more = f" && {then}" if then else ""
        super().__init__(
            f"{package} is not installed; install it with: pip install 'scalerec[{extra}]'{more}"
        )
        self.package = package
        self.extra = extra
