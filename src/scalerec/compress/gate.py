"""The gate: how much quality a compressed model may lose, and what it may cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scalerec.compress.effects import METRICS, Effect, metrics_of
from scalerec.config import Config, require
from scalerec.errors import ConfigError

__all__ = ["LOST_UNSAID", "Gate", "front"]

LOST_UNSAID = 0.001
"""What a search lets a model lose of each kind of task's own metric where nobody says it."""


class _Loss(NamedTuple):
    """How a bound of quality is judged.

    Args:
        metric: Of an effect.
        title: Of the metric, in words.
        verb: What a loss of it is.
        sign: What makes a loss positive.
        share: Whether it is a share of what the given model has.
    """

    metric: str
    title: str
    verb: str
    sign: float
    share: bool = False


LOSSES = {
    "max_auc_drop": _Loss("auc", "AUC", "fell", -1.0),
    "max_accuracy_drop": _Loss("accuracy", "accuracy", "fell", -1.0),
    "max_ndcg_drop": _Loss("ndcg", "NDCG@10", "fell", -1.0),
    "max_rmse_rise": _Loss("rmse", "RMSE", "rose", 1.0, share=True),
    "max_log_loss_rise": _Loss("log_loss", "log loss", "rose", 1.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate(Config):
    """What a compressed model must keep to, beside the model it comes from.

    What is None is not looked at. Quality is that of the validation part; see `Effect` for several
    tasks.

    Args:
        max_auc_drop: How far AUC may fall.
        max_accuracy_drop: How far the accuracy of multiclass tasks may fall.
        max_ndcg_drop: How far NDCG@10 of a retrieval task may fall.
        max_rmse_rise: By which share RMSE of regression tasks may rise: it has the label's unit, in
            which nobody else knows what is much.
        max_log_loss_rise: How far log loss may rise.
        max_bytes: Of the weights on disk.
        max_p99_ms: Milliseconds within which 99 of 100 requests with 1,000 candidates are answered,
            on one thread.
    """

    max_auc_drop: float | None = None
    max_accuracy_drop: float | None = None
    max_ndcg_drop: float | None = None
    max_rmse_rise: float | None = None
    max_log_loss_rise: float | None = None
    max_bytes: int | None = None
    max_p99_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_p99_ms"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be above 0; got {value}")

    def check(self, given: Effect) -> None:
        """Refuse a bound of a metric that the given model does not have.

        Raises:
            ConfigError: If there is one.
        """
        has = ", ".join(metric.title for metric in metrics_of(given)) or "no metric of quality"
        for name, loss in LOSSES.items():
            there = getattr(self, name) is None or given.metric(loss.metric) is not None
            require(
                there,
                f"{name} cannot be judged: the given model has no {loss.title} on the validation "
                f"part; it has {has}",
            )

    def for_search(self, given: Effect) -> "Gate":
        """The gate of a search: .001 of each kind of task's own metric, where nothing is said.

        Args:
            given: Of the model that is to be compressed.

        Raises:
            ConfigError: As `check`; or if there is nothing to judge quality by.
        """
        self.check(given)
        own = {metric.name for metric in metrics_of(given) if metric.own}
        bounds = {name: getattr(self, name) for name in LOSSES}
        unsaid = {
            name: LOST_UNSAID
            for name, loss in LOSSES.items()
            if loss.metric in own and bounds[name] is None
        }
        if not unsaid and all(bound is None for bound in bounds.values()):
            titles = [metric.title for metric in METRICS if metric.own]
            raise ConfigError(
                f"the given model has none of {', '.join(titles)} on the validation part: say what "
                "it may lose, as max_log_loss_rise"
            )
        return self.replace(**unsaid)

    def words(self) -> str:
        """What it asks for."""
        found = []
        for name, loss in LOSSES.items():
            bound = getattr(self, name)
            if bound is not None:
                verb = "falls" if loss.verb == "fell" else "rises"
                found.append(f"{loss.title} {verb} by at most {_shown(bound, _style(loss))}")
        if self.max_bytes is not None:
            found.append(f"at most {self.max_bytes:,} bytes of weights")
        if self.max_p99_ms is not None:
            found.append(f"p99 of 1,000 candidates at most {self.max_p99_ms:.3f} ms")
        return "; ".join(found) or "nothing"

    def faults(self, effect: Effect, before: Effect) -> list[str]:
        """What keeps a model from passing, in words; none if it passes.

        Args:
            effect: Of the model.
            before: Of the model that it comes from.
        """
        bounds: list[tuple[str, float | None, float | None, str]] = [
            (
                f"{loss.title} {loss.verb} by",
                _lost(effect, before, loss),
                getattr(self, name),
                _style(loss),
            )
            for name, loss in LOSSES.items()
        ]
        bounds += [
            ("bytes of weights are", float(effect.weight_bytes), self.max_bytes, ",.0f"),
            ("p99 of 1,000 candidates in ms is", effect.p99_ms[-1], self.max_p99_ms, ".3f"),
        ]
        return [
            f"{words} {_shown(value, style)}, at most {_shown(bound, style)}"
            for words, value, bound, style in bounds
            if bound is not None and not (value is not None and value <= bound)
        ]


def _style(loss: _Loss) -> str:
    return ".3%" if loss.share else ".5f"


def _lost(effect: Effect, before: Effect, loss: _Loss) -> float | None:
    after, start = effect.metric(loss.metric), before.metric(loss.metric)
    if after is None or start is None:
        return None
    lost = loss.sign * (after - start)
    if not loss.share or not lost:
        return lost
    return lost / start if start else float("inf")


def _shown(value: float | None, style: str) -> str:
    return "undefined" if value is None else f"{value:{style}}"


def front(effects: Sequence[Effect]) -> list[int]:
    """Places of the models that no other beats: the Pareto front of quality, bytes and time.

    One beats another if it is no worse in each kind of task's own metric (log loss where there is
    none), in bytes of weights and in the median time of 1,000 candidates, and better in one of
    them. Of equals the first stays.
    """
    marks = [
        (*_quality(effect), -float(effect.weight_bytes), -effect.p50_ms[-1]) for effect in effects
    ]
    return [place for place, own in enumerate(marks) if not _beaten(place, own, marks)]


def _beaten(place: int, own: tuple[float, ...], marks: Sequence[tuple[float, ...]]) -> bool:
    for other_place, other in enumerate(marks):
        no_worse = all(a >= b for a, b in zip(other, own, strict=True))
        if no_worse and (other != own or other_place < place):
            return True
    return False


def _quality(effect: Effect) -> list[float]:
    """More is better in each; those that it has no metric for are lowest."""
    known = metrics_of(effect)
    judged = [metric for metric in known if metric.own] or known[:1]
    found = []
    for metric in METRICS:
        value = effect.metric(metric.name) if metric in judged else None
        sign = 1.0 if metric.higher else -1.0
        found.append(float("-inf") if value is None else sign * value)
    return found
