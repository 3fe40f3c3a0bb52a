"""Timing requests: what is drawn, whose turn it is, how many threads there are; not how long."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.train.toys import make_data, narrow, rating_rows

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.kernels.threads import one_thread
from scalerec.models.recommender import build_recommender
from scalerec.scoring.scores import score_all
from scalerec.scoring.timing import (
    Request,
    percentiles_ms,
    request_scorer,
    requests_of,
    time_in_turns,
)


@pytest.fixture(scope="module")
def rows_alone(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ratings whose schema names no item."""
    features = [{"name": "user", "kind": "categorical"}, {"name": "price", "kind": "numeric"}]
    return make_data(
        tmp_path_factory.mktemp("rows") / "data", rating_rows(), features, timestamp="time"
    )


def test_requests_are_users_and_items_of_the_split(rated: Dataset) -> None:
    requests = requests_of(rated, 7, 5, seed=1)
    met = set(np.asarray(rated.split("test").column("item")).tolist())
    assert len(requests) == 5
    for request in requests:
        assert request.user is not None
        assert request.candidates is not None
        assert (len(request.user), len(request.rows)) == (1, 7)
        assert set(request.candidates.tolist()) <= met
        assert torch.equal(request.rows.items, request.candidates)
        assert (request.rows.ids[0] == request.user.ids[0]).all()
    again, other = requests_of(rated, 7, 5, seed=1), requests_of(rated, 7, 5, seed=2)
    assert all(torch.equal(a.rows.ids, b.rows.ids) for a, b in zip(requests, again, strict=True))
    assert any(not torch.equal(a.rows.ids, b.rows.ids) for a, b in zip(again, other, strict=True))


def test_requests_without_items_are_rows(rows_alone: Dataset) -> None:
    request = requests_of(rows_alone, 9, 2, split="valid")[0]
    assert request.user is None
    assert request.candidates is None
    assert len(request.rows) == 9


@pytest.mark.parametrize("which", ["rated", "rows_alone"])
def test_a_scorer_answers_them_as_the_model_does(
    which: str, request: pytest.FixtureRequest
) -> None:
    dataset: Dataset = request.getfixturevalue(which)
    recommender = build_recommender(dataset.layout, narrow("deepfm"), seed=1)
    score = request_scorer(recommender, dataset)
    for asked in requests_of(dataset, 6, 3):
        expected = next(iter(score_all(recommender, [asked.rows])))[1]
        torch.testing.assert_close(score(asked), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_turns_change_and_some_do_not_count(rated: Dataset) -> None:
    requests, asked = requests_of(rated, 1, 3), list[tuple[str, int]]()
    numbers = {id(request): number for number, request in enumerate(requests)}

    def scorer(name: str) -> Callable[[Request], None]:
        def score(request: Request) -> None:
            assert torch.get_num_threads() == 1
            asked.append((name, numbers[id(request)]))

        return score

    seconds = time_in_turns({"a": scorer("a"), "b": scorer("b")}, requests, repeats=4)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4}
    assert min(min(times) for times in seconds.values()) >= 0
    names, places = [name for name, _ in asked], [place for _, place in asked]
    turns = {tuple(names[start : start + 2]) for start in range(0, len(names), 2)}
    assert turns == {("a", "b"), ("b", "a")}
    # Both answer the same request, and requests come round again.
    assert places[20:] == [0, 0, 1, 1, 2, 2, 0, 0]


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    inside = []

    def fail() -> None:
        with one_thread():
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [1]
    assert torch.get_num_threads() == before


def test_percentiles_by_hand() -> None:
    # 0, 1, ..., 100 milliseconds.
    assert percentiles_ms([number / 1000 for number in range(101)]) == pytest.approx((50.0, 99.0))


def test_words(rated: Dataset) -> None:
    with pytest.raises(ConfigError, match="num_candidates must be at least 1; got 0"):
        requests_of(rated, 0, 1)
    with pytest.raises(ConfigError, match="num_requests must be at least 1; got -1"):
        requests_of(rated, 1, -1)
    requests = requests_of(rated, 1, 1)
    with pytest.raises(ConfigError, match="at least one scorer to time; got none"):
        time_in_turns({}, requests, 1)
    with pytest.raises(ConfigError, match="at least one request to time; got none"):
        time_in_turns({"a": print}, [], 1)
    with pytest.raises(ConfigError, match="repeats must be at least 1; got 0"):
        time_in_turns({"a": print}, requests, 0)
    with pytest.raises(ConfigError, match="at least one time; got none"):
        percentiles_ms([])
