"""Numbers and metrics in words."""

from typing import Any

import pytest

from scalerec.metrics import BinaryMetrics, MulticlassMetrics, RankingMetrics, RegressionMetrics
from scalerec.report.words import (
    MetricName,
    duration,
    explain,
    figure,
    is_lower_better,
    metric_title,
    moment,
    read_metric,
    share,
    size,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "undefined"),
        (float("nan"), "undefined"),
        (float("inf"), "undefined"),
        (0.0, "0.0000"),
        (1.0, "1"),
        (-0.25, "-0.2500"),
        (0.98406, "0.9841"),
        (0.0005, "0.0005"),
        (0.00049, "0.00049"),
        (-0.0000123, "-1.2e-05"),
        (9.87654, "9.877"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (12345.6, "12,346"),
        (2_000_000.0, "2,000,000"),
    ],
)
def test_figure(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_names_of_metrics() -> None:
    assert read_metric("auc") == MetricName("", "auc", "")
    assert read_metric("liked.ndcg@10") == MetricName("liked", "ndcg", "10")
    assert read_metric("a.b.auc") == MetricName("a.b", "auc", "")
    assert metric_title("liked.ndcg@10") == "NDCG@10, liked"
    assert metric_title("liked.ndcg@10", with_task=False) == "NDCG@10"
    assert metric_title("own") == "own"
    assert explain("own") == ""
    assert is_lower_better("income.log_loss")
    assert not is_lower_better("auc")


def test_every_metric_of_the_project_is_explained() -> None:
    meters: list[Any] = [
        BinaryMetrics(),
        MulticlassMetrics(),
        RegressionMetrics(),
        RankingMetrics(ks=(10,)),
    ]
    names = [name for meter in meters for name in meter.compute()]
    names += ["gauc", "coverage@10", "novelty@10", "diversity@10"]
    assert [name for name in names if not explain(name)] == []


def test_sizes_shares_and_times() -> None:
    assert [size(n) for n in (0, 999, 1000, 999_960, 5_000_000_000, 2_000_000_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "1.0 MB",
        "5.0 GB",
        "2.0 TB",
    ]
    assert [share(a, b) for a, b in ((1, 4), (4, 4), (0, 4), (1, 9999))] == [
        "25.0%",
        "100%",
        "0%",
        "<0.1%",
    ]
    assert [duration(s) for s in (0.0, 9.96, 59.6, 60.0, 3599.0, 3600.0)] == [
        "0 s",
        "10 s",
        "1 min",
        "1 min",
        "59 min 59 s",
        "1 h",
    ]
    assert moment("2026-01-31T23:30:00-02:00") == "1 February 2026, 01:30 UTC"
    assert moment("yesterday") == "yesterday"
