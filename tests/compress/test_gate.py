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


def test_errors_are_judged_by_their_share() -> None:
    gate, before = Gate(max_rmse_rise=0.001), effect(None, rmse=20.0)
    assert gate.faults(effect(None, rmse=20.02), before) == []
    assert gate.faults(effect(None, rmse=19.0), before) == []
    assert gate.faults(effect(None, rmse=20.1), before) == [
        "RMSE rose by 0.500%, at most 0.100%",
    ]
    # Nothing is a share of no error at all, unless nothing is lost.
    exact = effect(None, rmse=0.0)
    assert gate.faults(exact, exact) == []
    assert gate.faults(before, exact) == ["RMSE rose by inf%, at most 0.100%"]


def test_a_search_lets_each_kind_of_task_lose_a_thousandth() -> None:
    both = effect(0.8, log_loss=0.5, rmse=3.0)
    assert Gate().for_search(both) == Gate(max_auc_drop=0.001, max_rmse_rise=0.001)
    asked = Gate(max_rmse_rise=0.5, max_bytes=7)
    assert asked.for_search(both) == Gate(max_auc_drop=0.001, max_rmse_rise=0.5, max_bytes=7)
    assert Gate().for_search(effect(None, rmse=3.0)) == Gate(max_rmse_rise=0.001)
    assert Gate().for_search(effect(None, ndcg=0.1)) == Gate(max_ndcg_drop=0.001)
    classes = effect(None, accuracy=0.4, log_loss=1.0)
    assert Gate().for_search(classes) == Gate(max_accuracy_drop=0.001)
    # All labels of the part may be alike: then only log loss is known.
    alike = effect(None, log_loss=0.3)
    assert Gate(max_log_loss_rise=0.1).for_search(alike) == Gate(max_log_loss_rise=0.1)
    with pytest.raises(ConfigError, match="has none of AUC, accuracy, NDCG@10, RMSE on the valid"):
        Gate().for_search(alike)


def test_a_bound_of_what_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Gate(max_auc_drop=0.01).for_search(effect(None, rmse=3.0))
    assert str(error.value) == (
        "max_auc_drop cannot be judged: the given model has no AUC on the validation part; it has "
        "RMSE"
    )
    with pytest.raises(ConfigError, match=r"has no RMSE .*; it has AUC, log loss"):
        Gate(max_rmse_rise=0.01).check(effect(0.8, log_loss=0.5))
    with pytest.raises(ConfigError, match="it has no metric of quality"):
        Gate(max_ndcg_drop=0.01).check(effect(None))


def test_a_gate_says_what_it_asks_for() -> None:
    own = Gate(max_auc_drop=0.001, max_rmse_rise=0.02, max_bytes=1000, max_p99_ms=1.5)
    assert own.words() == (
        "AUC falls by at most 0.00100; RMSE rises by at most 2.000%; at most 1,000 bytes of "
        "weights; p99 of 1,000 candidates at most 1.500 ms"
    )
    assert Gate().words() == "nothing"


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


def test_on_the_front_each_kind_of_task_counts() -> None:
    effects = [
        effect(0.80, rmse=1.0),
        effect(0.79, rmse=0.9),
        effect(0.80, rmse=1.1),  # as good in AUC, and worse in RMSE
        effect(0.70, 100, rmse=2.0),
    ]
    assert front(effects) == [0, 1, 3]
    assert front([effect(None, log_loss=0.5), effect(None, log_loss=0.4)]) == [1]
