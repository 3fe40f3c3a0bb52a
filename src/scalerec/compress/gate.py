"""The gate: how much quality a compressed model may lose, and what it may cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerec.compress.effects import Effect
from scalerec.config import Config, require

__all__ = ["Gate", "front"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate(Config):
    """What a compressed model must keep to, beside the model it comes from.

    Args:
        max_auc_drop: How far AUC may fall on the validation part; of several tasks the mean. None
            for any fall.
        max_log_loss_rise: How far log loss may rise there; None for any rise.
        max_bytes: Of the weights on disk; None for any number.
        max_p99_ms: Milliseconds within which 99 of 100 requests with 1,000 candidates are answered,
            on one thread; None for any time.
    """

    max_auc_drop: float | None = 0.001
    max_log_loss_rise: float | None = None
    max_bytes: int | None = None
    max_p99_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_p99_ms"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be above 0; got {value}")

    def faults(self, effect: Effect, before: Effect) -> list[str]:
        """What keeps a model from passing, in words; none if it passes.

        Args:
            effect: Of the model.
            before: Of the model that it comes from.
        """
        bounds = (
            ("AUC fell by", _rise(effect.auc, before.auc, -1.0), self.max_auc_drop, ".5f"),
            (
                "log loss rose by",
                _rise(effect.log_loss, before.log_loss, 1.0),
                self.max_log_loss_rise,
                ".5f",
            ),
            ("bytes of weights are", float(effect.weight_bytes), self.max_bytes, ",.0f"),
            ("p99 of 1,000 candidates in ms is", effect.p99_ms[-1], self.max_p99_ms, ".3f"),
        )
        return [
            f"{words} {_shown(value, style)}, at most {bound:{style}}"
            for words, value, bound, style in bounds
            if bound is not None and not (value is not None and value <= bound)
        ]


def _rise(after: float | None, before: float | None, sign: float) -> float | None:
    return None if after is None or before is None else sign * (after - before)


def _shown(value: float | None, style: str) -> str:
    return "undefined" if value is None else f"{value:{style}}"


def front(effects: Sequence[Effect]) -> list[int]:
    """Places of the models that no other beats: the Pareto front of quality, bytes and time.

    One beats another if it is no worse in AUC (log loss where there is no AUC), in bytes of weights
    and in the median time of 1,000 candidates, and better in one of them. Of equals the first
    stays.
    """
    marks = [(_quality(effect), -effect.weight_bytes, -effect.p50_ms[-1]) for effect in effects]
    return [place for place, own in enumerate(marks) if not _beaten(place, own, marks)]


def _beaten(place: int, own: tuple[float, ...], marks: Sequence[tuple[float, ...]]) -> bool:
    for other_place, other in enumerate(marks):
        no_worse = all(a >= b for a, b in zip(other, own, strict=True))
        if no_worse and (other != own or other_place < place):
            return True
    return False


def _quality(effect: Effect) -> float:
    if effect.auc is not None:
        return effect.auc
    return float("-inf") if effect.log_loss is None else -effect.log_loss
