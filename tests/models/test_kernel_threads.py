"""Shares of a kernel: each is run once, on any kind of threads, and its errors are seen."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from scalerec.models.kernels import threads


@pytest.fixture(params=["torch's", "Python's"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "Python's":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_each_share_runs_once(kind: str, num: int) -> None:
    torch.set_num_threads(num)
    seen: list[tuple[Any, ...]] = []
    threads.run_shares(lambda *args: seen.append(args), "a", "b")
    given = {args[-1] for args in seen}
    assert len(given) == 1
    assert sorted(args[-2] for args in seen) == list(range(given.pop()))
    assert {args[:-2] for args in seen} == {("a", "b")}


def test_little_work_has_few_shares(kind: str) -> None:
    torch.set_num_threads(3)
    seen: list[int] = []
    threads.run_shares(lambda _share, num: seen.append(num), most=1)
    assert seen == [1]


def test_an_error_of_any_share_is_raised(kind: str) -> None:
    torch.set_num_threads(2)

    def fail(share: int, num: int) -> None:
        if share == num - 1:
            raise IndexError("the last share failed")

    with pytest.raises(IndexError, match="the last share failed"):
        threads.run_shares(fail)


def test_within_products_of_torch(kind: str) -> None:
    """Kernels and torch take turns on the same threads."""
    torch.set_num_threads(2)
    x = torch.randn(300, 300)
    for _ in range(20):
        total: list[int] = []
        threads.run_shares(lambda share, num, total=total: total.append(share))
        assert len(total) in (1, 2)
        torch.testing.assert_close(x @ x, (x.double() @ x.double()).float(), rtol=1e-3, atol=1e-3)
