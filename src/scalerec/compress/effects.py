"""What a step of compression did: size, quality and time of the model after it."""

from dataclasses import dataclass

from scalerec.config import Config
from scalerec.scoring.cost import CANDIDATES

__all__ = ["CANDIDATES", "Effect"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect(Config):
    """A model as a server feels it.

    Args:
        step: What was done last, as a command says it; empty for the model that was given.
        parameters: Numbers that the model holds.
        nonzero: Those that are not zero.
        weight_bytes: Of the weights on disk.
        directory_bytes: Of the whole bundle, attachments aside.
        tensor_bytes: Of its tensors in memory.
        resident_bytes: By how much a process grows that opens the bundle; None where the system
            does not tell.
        auc: On the validation part; of several tasks the mean; None where it is undefined.
        log_loss: The same.
        ne: Normalised entropy: log loss as a share of that of the labels' mean; the same.
        ece: Expected calibration error; the same.
        p50_ms: Milliseconds in which half of the requests with 1, 100 and 1,000 candidates are
            answered, on one thread.
        p99_ms: The same of 99 in 100.
    """

    step: str = ""
    parameters: int
    nonzero: int
    weight_bytes: int
    directory_bytes: int
    tensor_bytes: int
    resident_bytes: int | None
    auc: float | None = None
    log_loss: float | None = None
    ne: float | None = None
    ece: float | None = None
    p50_ms: tuple[float, ...]
    p99_ms: tuple[float, ...]
