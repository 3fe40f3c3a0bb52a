"""The gate's words, the front, and the search among stages whose effects are known."""

from typing import Any

import pytest

from scalerec.compress.effects import Effect
from scalerec.compress.gate import Gate, front
from scalerec.errors import ConfigError


def effect(auc: float | None = 0.8, size: int = 1000, ms: float = 1.0, **more: Any) -> Effect:
    return Effect(
        parameters=10,
        nonzero=10,
        weight_bytes=size,
        directory_bytes=size,
        tensor_bytes=size,
        resident_bytes=None,
        auc=auc,
        p50_ms=(0.1, 0.2, ms),
        p99_ms=(0.1, 0.2, 2 * ms),
        **more,
    )


def test_what_keeps_within_the_gate_has_no_fault() -> None:
    gate = Gate(max_auc_drop=0.001, max_log_loss_rise=0.01, max_bytes=100, max_p99_ms=1.0)
    before = effect(0.8, log_loss=0.5)
    assert gate.faults(effect(0.7995, 100, 0.5, log_loss=0.505), before) == []
    assert Gate(max_auc_drop=None).faults(effect(0.1), before) == []


def test_each_fault_is_named() -> None:
    gate = Gate(max_auc_drop=0.001, max_log_loss_rise=0.01, max_bytes=100, max_p99_ms=1.0)
    assert gate.faults(effect(0.79, 1200, 0.75, log_loss=0.55), effect(0.8, log_loss=0.5)) == [
        "AUC fell by 0.01000, at most 0.00100",
        "log loss rose by 0.05000, at most 0.01000",
        "bytes of weights are 1,200, at most 100",
        "p99 of 1,000 candidates in ms is 1.500, at most 1.000",
    ]
    assert gate.faults(effect(None, 10, 0.1, log_loss=0.5), effect(0.8, log_loss=0.5)) == [
        "AUC fell by undefined, at most 0.00100"
    ]
    with pytest.raises(ConfigError, match="max_bytes must be above 0; got 0"):
        Gate(max_bytes=0)


def test_the_front_holds_what_no_other_beats() -> None:
    effects = [
        effect(0.80, 1000, 1.0),
        effect(0.80, 1000, 1.0),  # equal to the first
        effect(0.79, 100, 1.0),
        effect(0.79, 200, 1.0),  # larger than the third, and no better
        effect(0.70, 200, 0.1),
        effect(None, 90, 5.0, log_loss=0.6),
    ]
    assert front(effects) == [0, 2, 4, 5]
    assert front([]) == []
