"""Recommendations for users known and unknown, from a bundle on disk."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.toys import LIKED, make_data, narrow, rating_rows, ratings

from scalerec.bundle import Step, write_recommender
from scalerec.bundle.recommenders import OpenRecommender, open_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.pairing import pair
from scalerec.errors import RequestError
from scalerec.models.recommender import build_recommender
from scalerec.scoring import CatalogueScorer, recommend
from scalerec.train import TrainConfig, train

STEP = (Step(verb="train"),)
MODEL = narrow("din")


def opened_of(path: Path, dataset: Dataset, model: str = "din") -> OpenRecommender:
    """A bundle of a net with random weights, large enough to tell users apart."""
    spec = narrow(model).replace(init_std=0.5)
    write_recommender(path, build_recommender(dataset.layout, spec, 2), dataset, STEP)
    return open_recommender(path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> OpenRecommender:
    """Even users like even items; each user met some of the ten items only."""
    folder = tmp_path_factory.mktemp("learned")
    columns = {name: np.asarray(values) for name, values in rating_rows(500).items()}
    numbers = [int(user[1:]) * 10 + int(item[1:]) for user, item in zip(
        columns["user"], columns["item"], strict=True)]  # fmt: skip
    shown = np.isin(numbers, np.random.default_rng(1).permutation(120)[:60])
    dataset = ratings(folder / "data", columns={n: v[shown].tolist() for n, v in columns.items()})
    settings = {
        "epochs": 20, "batch_size": 32, "dense": {"lr": 1e-2}, "tables": {"lr": 1e-2},
        "patience": -1, "precision": "fp32",
    }  # fmt: skip
    trained = train(dataset, MODEL, TrainConfig.from_dict(settings))
    write_recommender(folder / "bundle", trained.recommender, dataset, STEP)
    return open_recommender(folder / "bundle")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenRecommender:
    folder = tmp_path_factory.mktemp("opened")
    return opened_of(folder / "bundle", ratings(folder / "data"))


def items(opened: OpenRecommender, **asked: object) -> list[str]:
    return [found.item for found in recommend(opened, **asked)]  # type: ignore[arg-type]


def met(opened: OpenRecommender, user: str) -> set[str]:
    return {opened.item_keys[i] for i in opened.met[opened.user_numbers[user]].as_py()}


def even(names: list[str]) -> float:
    return float(np.mean([int(name[1:]) % 2 == 0 for name in names]))


def test_a_known_user_gets_what_the_user_likes(learned: OpenRecommender) -> None:
    shares = {user: even(items(learned, user=user, k=3)) for user in learned.user_keys}
    evens = [share for user, share in shares.items() if int(user[1:]) % 2 == 0]
    odds = [share for user, share in shares.items() if int(user[1:]) % 2 == 1]
    assert np.mean(evens) > np.mean(odds)


def test_met_items_are_left_out_unless_asked_for(learned: OpenRecommender) -> None:
    for user in learned.user_keys:
        found = items(learned, user=user, k=100)
        assert set(found) == set(learned.item_keys) - met(learned, user)
        assert sorted(items(learned, user=user, k=100, exclude_met=False)) == sorted(
            learned.item_keys
        )


def test_ranks_titles_and_chances_by_hand(opened: OpenRecommender) -> None:
    user, number = opened.user_keys[4], 4
    found = recommend(opened, user=user, k=3, exclude_met=False)
    row = opened.users.take(torch.tensor([number]))
    every = torch.arange(len(opened.items)).view(1, -1)
    with torch.no_grad():
        logits = opened.recommender(pair(opened.layout, row, opened.items, every))[:, 0]
    best = logits.sort(descending=True, stable=True).indices[:3].tolist()
    assert [one.rank for one in found] == [1, 2, 3]
    assert [one.item for one in found] == [opened.item_keys[i] for i in best]
    assert [one.title for one in found] == [opened.titles[i] for i in best]
    expected = logits[best].sigmoid().tolist()
    # float32 in a batch of another shape.
    assert [one.score for one in found] == pytest.approx(expected, rel=1e-5)


def test_a_scorer_made_once_gives_the_same(opened: OpenRecommender) -> None:
    scorer = CatalogueScorer(opened.recommender, opened.items)
    for user in opened.user_keys[:3]:
        assert recommend(opened, user=user, scorer=scorer) == recommend(opened, user=user)


def test_a_user_never_seen(learned: OpenRecommender) -> None:
    """Served from what all users have in common, and from the history that is told."""
    found = recommend(learned, user="nobody", k=10)
    assert len(found) == 10
    assert len({one.score for one in found}) > 1
    liked = {side: items(learned, history=[f"i{n}" for n in range(side, 6, 2)]) for side in (0, 1)}
    assert liked[0] != liked[1]
    assert not {"i0", "i2", "i4"} & set(liked[0])


def test_a_history_speaks_for_a_stranger(opened: OpenRecommender) -> None:
    """A history alone, or with an unknown name, is the same; order and length matter."""
    past = ["i1", "i2", "i3"]
    assert items(opened, history=past) == items(opened, history=past, user="nobody")
    one = recommend(opened, history=["i1", "i2"], exclude_met=False)
    other = recommend(opened, history=["i5", "i7", "i9"], exclude_met=False)
    assert {o.item: o.score for o in one} != {o.item: o.score for o in other}
    longest = recommend(opened, history=[*["i8"] * 9, "i1", "i2", "i3", "i4", "i5"])
    # Only the last five of a history are read, but all of it is left out.
    last = recommend(opened, history=["i1", "i2", "i3", "i4", "i5"])
    scores = {found.item: found.score for found in last}
    assert "i8" in scores
    assert all(scores[found.item] == found.score for found in longest)
    assert "i8" not in {found.item for found in longest}


def test_unknown_items_of_a_history(opened: OpenRecommender) -> None:
    found = recommend(opened, history=["never", "heard"], k=100)
    assert len(found) == len(opened.item_keys)
    mixed = items(opened, history=["never", "i3"], k=100)
    assert set(mixed) == set(opened.item_keys) - {"i3"}


def test_a_known_user_with_another_history(opened: OpenRecommender) -> None:
    user = opened.user_keys[0]
    plain = recommend(opened, user=user, exclude_met=False)
    other = recommend(opened, user=user, history=["i1"], exclude_met=False)
    assert {o.item: o.score for o in plain} != {o.item: o.score for o in other}
    left = set(items(opened, user=user, history=["i1"], k=100))
    assert left == set(opened.item_keys) - met(opened, user) - {"i1"}


def test_the_bundle_is_not_changed(opened: OpenRecommender) -> None:
    before = [opened.users.ids.clone(), opened.items.ids.clone()]
    one = recommend(opened, user=opened.user_keys[0], history=["i2"])
    assert torch.equal(opened.users.ids, before[0])
    assert torch.equal(opened.items.ids, before[1])
    assert recommend(opened, user=opened.user_keys[0], history=["i2"]) == one


def test_bounds_of_k(opened: OpenRecommender) -> None:
    assert len(recommend(opened, user="nobody", k=1)) == 1
    assert len(recommend(opened, user="nobody", k=10_000)) == len(opened.item_keys)
    for k in (0, -1, 10_001):
        with pytest.raises(RequestError, match=f"k must be from 1 to 10000; got {k}"):
            recommend(opened, user="nobody", k=k)


def test_nobody_is_asked_for(opened: OpenRecommender) -> None:
    with pytest.raises(RequestError, match=re.escape("whom to recommend to? give a user or a hi")):
        recommend(opened)


def test_without_a_history_feature(tmp_path: Path) -> None:
    opened = opened_of(tmp_path / "bundle", ratings(tmp_path / "data", history=False), "deepfm")
    with pytest.raises(RequestError, match="reads no history, so a history alone tells it nothing"):
        recommend(opened, history=["i1"])
    found = items(opened, user=opened.user_keys[0], history=["i1"], k=100)
    assert "i1" not in found
    assert len({one.score for one in recommend(opened, user="nobody")}) > 1


def test_without_a_catalogue(tmp_path: Path) -> None:
    price = {"name": "price", "kind": "numeric"}
    dataset = make_data(tmp_path / "data", rating_rows(), [price], timestamp="time")
    opened = opened_of(tmp_path / "bundle", dataset, "lr")
    with pytest.raises(RequestError, match="has no catalogue: its schema names no item"):
        recommend(opened, user="u1")


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ({"name": "stars", "kind": "regression"}, "deepfm"),
        ({"name": "liked", "kind": "retrieval"}, "two-tower"),
    ],
)
def test_other_kinds_give_the_raw_score(
    tmp_path: Path, task: dict[str, object], model: str
) -> None:
    opened = opened_of(tmp_path / "bundle", ratings(tmp_path / "data", [task]), model)
    lists = [[found.score for found in recommend(opened, user=u)] for u in opened.user_keys]
    assert all(scores == sorted(scores, reverse=True) for scores in lists)
    assert not all(0 < score < 1 for scores in lists for score in scores)


def test_classes_do_not_rank(tmp_path: Path) -> None:
    tasks: list[dict[str, object]] = [
        {"name": "kind", "kind": "multiclass", "num_classes": 3}, LIKED,
    ]  # fmt: skip
    opened = opened_of(tmp_path / "bundle", ratings(tmp_path / "data", tasks))
    words = "cannot rank items: its first task 'kind' is multiclass; allowed: binary, regression"
    with pytest.raises(RequestError, match=words):
        recommend(opened, user="u1")
