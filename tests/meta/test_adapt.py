"""Bundles that adapt: what is learned lasts on disk, and few rows make a delta of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.worlds import NUM_ITEMS, parity, small

from scalerec.bundle import Bundle, read_bundle
from scalerec.bundle.adaptation import Adaptation
from scalerec.bundle.recommenders import OpenRecommender, open_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.pairing import pair
from scalerec.data.sources import TableSource
from scalerec.errors import BundleError, ConfigError, DataError, RequestError
from scalerec.meta.adapt import Adapter, adaptation_from, write_adapted
from scalerec.meta.adapting import dense_after
from scalerec.meta.config import MetaConfig
from scalerec.meta.few import read_few, rows_of_history
from scalerec.meta.learning import MetaTrained, meta_train
from scalerec.meta.parts import OWN
from scalerec.meta.personal import PersonalModel
from scalerec.meta.tasks import TaskSet
from scalerec.meta.told import Told, read_told
from scalerec.meta.writing import write_meta
from scalerec.scoring import recommend

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS: dict[str, Any] = {
    "adapt": "decision,own", "rate": 0.5, "steps": 3, "num_support": 5, "num_query": 6,
    "tasks": 16, "updates": 60, "evaluate_every": 60, "lr": 0.02, "rows_lr": 0.02,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return parity(tmp_path_factory.mktemp("parity") / "data")


def learned(dataset: Dataset, path: Path, **settings: Any) -> tuple[MetaTrained, Bundle]:
    config = MetaConfig.from_dict({**SETTINGS, **settings})
    tasks = TaskSet(dataset.split("train"), "user", least_rows=2)
    found = meta_train(small(dataset), tasks, config)
    return found, write_meta(path, found, dataset, "user", config, ())


@pytest.fixture(scope="module")
def bundle(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return learned(dataset, tmp_path_factory.mktemp("bundle") / "meta")[1]


def few(opened: OpenRecommender, items: list[int], parity: int = 0) -> Any:
    columns = {
        "user": ["nobody"] * len(items),
        "item": [f"i{item}" for item in items],
        "liked": [int(item % 2 == parity) for item in items],
    }
    return read_few(opened, TableSource(columns, "few"))


def test_a_bundle_knows_how_it_adapts(bundle: Bundle) -> None:
    opened = open_recommender(bundle.path)
    how = opened.adaptation
    assert how is not None
    assert (how.by, how.key, how.own, how.as_new, how.steps) == ("user", "user", True, True, 3)
    assert all(name.startswith("net.") for name in how.parts)
    assert {*how.parts, OWN} == opened.rates.keys()
    assert all(float(rate) == 0.5 for rate in opened.rates.values())
    assert bundle.adaptable == tuple(sorted([*how.parts, "tables.user.weight"]))


def test_rates_for_each_number_are_tensors_of_the_bundle(dataset: Dataset, tmp_path: Path) -> None:
    found, bundle = learned(dataset, tmp_path / "meta", algorithm="meta-sgd", updates=3)
    opened = open_recommender(bundle.path)
    assert opened.adaptation is not None
    assert opened.adaptation.rates == {}
    for name, rate in found.rates.items():
        assert torch.equal(opened.rates[name], rate)
    assert f"adaptation.rates.{OWN}" in bundle.tensor_infos()


@pytest.mark.parametrize("parity", [0, 1])
def test_few_rows_make_a_delta_that_knows_the_taste(
    bundle: Bundle, tmp_path: Path, parity: int
) -> None:
    adapter = Adapter(open_recommender(bundle.path))
    rows = few(adapter.opened, [0, 1, 2, 3, 4], parity)
    made = write_adapted(tmp_path / "own", adapter, rows, overwrite=False)
    assert made.base is not None
    assert made.base.digest == bundle.digest
    changed = made.lineage[-1]
    assert (changed.verb, changed.parents, changed.settings["examples"]) == (
        "adapt",
        (bundle.digest,),
        5,
    )
    best = recommend(open_recommender(made.path), user="nobody", k=4)
    assert [int(item.item[1:]) % 2 for item in best] == [parity] * 4
    # The base stays, and what did not adapt is the base's.
    before = read_bundle(bundle.path).tensors()
    own = {name for name, tensor in made.tensors().items() if not torch.equal(tensor, before[name])}
    assert own <= {*adapter.adaptation.parts, "tables.user.weight"}
    assert "net.tower.0.weight" in own


def test_a_recommender_is_adapted_for_a_while_and_goes_back(bundle: Bundle) -> None:
    adapter = Adapter(open_recommender(bundle.path))
    before = {n: t.clone() for n, t in adapter.opened.recommender.to_tensors().items()}
    own = adapter.one(few(adapter.opened, [0, 1, 2, 3, 4], 1))
    with adapter.adapted(own) as ready:
        best = recommend(ready, history=["i1", "i3"], k=3, adapted=True)
    assert [int(item.item[1:]) % 2 for item in best] == [1, 1, 1]
    for name, tensor in adapter.opened.recommender.to_tensors().items():
        assert torch.equal(tensor, before[name])


def test_what_is_tried_once_is_tried_when_an_adapter_gets_ready(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_recommender(bundle.path)
    before = {name: own.clone() for name, own in opened.recommender.to_tensors().items()}
    tried: list[int] = []
    own_try = PersonalModel._try

    def watched(model: PersonalModel, *args: Any) -> bool:
        tried.append(1)
        return own_try(model, *args)

    monkeypatch.setattr(PersonalModel, "_try", watched)
    Adapter(opened).ready()
    assert not tried, "the kernel tries nothing"
    adapter = Adapter(opened, compiled=False).ready()
    assert len(tried) == 1
    adapter.one(few(opened, [1, 2, 3]))
    assert len(tried) == 1
    after = opened.recommender.to_tensors()
    assert all(torch.equal(own, after[name]) for name, own in before.items())


def test_the_kernel_and_torch_adapt_alike(bundle: Bundle) -> None:
    adapter = Adapter(open_recommender(bundle.path))
    rows, offsets = few(adapter.opened, [0, 1, 2, 3, 4, 1]), torch.tensor([0, 5, 6])
    found = adapter.many(adapter.examples(rows, offsets))
    assert not found.products
    other = Adapter(adapter.opened, compiled=False)
    wanted = dense_after(other.model, other.shared, other.many(other.examples(rows, offsets)))
    assert list(found.tensors) == list(wanted)
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
def test_many_tasks_are_each_what_one_would_be(bundle: Bundle, *, compiled: bool) -> None:
    adapter = Adapter(open_recommender(bundle.path), compiled=compiled)
    rows = few(adapter.opened, [0, 1, 2, 3, 4, 1, 3, 5, 2])
    offsets = torch.tensor([0, 5, 6, 9])
    fast = adapter.many(adapter.examples(rows, offsets))
    tensors = dense_after(adapter.model, adapter.shared, fast)
    model, shared = adapter.model, adapter.shared
    for size, threads in ((2, 1), (1, 2), (3, 2)):
        grouped = [
            dense_after(model, shared, own)
            for own in adapter.groups(rows, offsets, size, threads=threads)
        ]
        for name, tensor in tensors.items():
            parts = torch.cat([own[name] for own in grouped])
            torch.testing.assert_close(parts, tensor, rtol=1e-4, atol=1e-5)
    places = torch.arange(NUM_ITEMS).repeat(3, 1)
    queries = pair(
        adapter.opened.layout, rows.take(torch.tensor([0, 5, 6])), adapter.opened.items, places
    )
    scores = adapter.scores(fast, adapter.read(queries, 3)).view(3, NUM_ITEMS)
    for task, (start, stop) in enumerate(((0, 5), (5, 6), (6, 9))):
        own = adapter.one(rows.slice(start, stop))
        # Float32, sums in another order.
        for name, tensor in own.dense.items():
            torch.testing.assert_close(tensors[name][task], tensor, rtol=1e-4, atol=1e-5)
        with adapter.adapted(own) as ready, torch.no_grad():
            wanted = ready.recommender(queries.slice(task * NUM_ITEMS, (task + 1) * NUM_ITEMS))
        torch.testing.assert_close(scores[task], wanted[:, 0], rtol=1e-4, atol=1e-5)


def test_few_rows_are_encoded_as_the_data_were(dataset: Dataset, bundle: Bundle) -> None:
    opened = open_recommender(bundle.path)
    events = dataset.split("train").read(0, 3)
    keys = {name: {n: k for k, n in numbers.items()} for name, numbers in (
        ("item", opened.item_numbers), ("user", opened.user_numbers))}  # fmt: skip
    columns = {
        "user": [keys["user"][int(n)] for n in events.users],
        "item": [keys["item"][int(n)] for n in events.items],
        "liked": events.labels[:, 0].int().tolist(),
    }
    found = read_few(opened, TableSource(columns, "few"))
    assert torch.equal(found.ids, events.ids)
    assert torch.equal(found.labels, events.labels)
    assert found.label_mask.all()
    strange = read_few(opened, TableSource({"item": ["i99"], "liked": [None]}, "few"))
    assert strange.ids.flatten().tolist() == [1, 1]
    assert not strange.label_mask.any()


def test_a_history_is_liked_and_as_much_else_is_not(
    bundle: Bundle, generator: torch.Generator
) -> None:
    opened = open_recommender(bundle.path)
    rows = rows_of_history(opened, ["i1", "i3", "i77"], generator)
    liked = {opened.item_numbers[key] for key in ("i1", "i3")}
    assert rows.labels[:, 0].tolist() == [1, 1, 0, 0]
    assert set(rows.items[:2].tolist()) == liked
    assert not liked & set(rows.items[2:].tolist())


def test_a_history_may_say_what_was_not_liked(bundle: Bundle, generator: torch.Generator) -> None:
    opened = open_recommender(bundle.path)
    told = read_told(opened, ["i1", "i3:1", "i5:0", "i77", "i88:1"])
    assert told == Told(("i1", "i3", "i5", "i77", "i88:1"), (None, 1.0, 0.0, None, None))
    assert (told.liked, told.disliked) == (["i1", "i3", "i77", "i88:1"], ["i5"])
    rows = rows_of_history(opened, told.keys, generator, told.labels)
    # One was disliked of three, so one other makes as many of both.
    assert rows.labels[:, 0].tolist() == [1, 1, 0, 0]
    assert rows.items[:3].tolist() == [opened.item_numbers[key] for key in ("i1", "i3", "i5")]
    again = [
        rows_of_history(opened, ["i1", "i3"], torch.Generator().manual_seed(7)) for _ in range(2)
    ]
    assert torch.equal(again[0].items, again[1].items)
    alone = rows_of_history(opened, ["i1", "i3"], generator, [0.0, 0.0])
    assert alone.labels[:, 0].tolist() == [0, 0]


def test_wrong_histories_are_named(bundle: Bundle, generator: torch.Generator) -> None:
    opened = open_recommender(bundle.path)
    with pytest.raises(RequestError, match="the history is empty; name items by their keys"):
        read_told(opened, [])
    with pytest.raises(RequestError, match="at most 1,000 items is read; got 1,001"):
        read_told(opened, ["i1"] * 1001)
    with pytest.raises(RequestError, match="item i1 has the label '5'; task 'liked' allows 0 or 1"):
        read_told(opened, ["i1:5"])
    with pytest.raises(RequestError, match="item i1 has the label ''"):
        read_told(opened, ["i1:"])
    with pytest.raises(RequestError, match="knows none of the history's items: i77, i78"):
        rows_of_history(opened, ["i77", "i78"], generator)


def test_what_was_asked_for_comes_before_what_was_learned(bundle: Bundle) -> None:
    opened = open_recommender(bundle.path)
    how, rates = adaptation_from(opened, "head", 7, 0.25)
    assert (how.steps, how.own, len(how.parts)) == (7, False, 2)
    assert {float(rate) for rate in rates.values()} == {0.25}
    how, rates = adaptation_from(opened)
    assert how == opened.adaptation
    assert rates.keys() == opened.rates.keys()


def test_what_cannot_adapt_is_refused(dataset: Dataset, bundle: Bundle, tmp_path: Path) -> None:
    opened = open_recommender(learned(dataset, tmp_path / "head", adapt="head", updates=2)[1].path)
    how, rates = adaptation_from(opened, "decision")
    with pytest.raises(BundleError, match=r"parameters are frozen: net\.tower\.0"):
        Adapter(opened, how, rates)
    with pytest.raises(ConfigError, match=r"the rate of 'net\.tower\.2\.weight' must be one"):
        Adapter(opened, opened.adaptation, {})
    with pytest.raises(DataError, match=r"few: no column 'liked', which holds the label"):
        read_few(opened, TableSource({"item": ["i1"]}, "few"))
    with pytest.raises(DataError, match="few: no rows to adapt on"):
        read_few(opened, TableSource({"item": [], "liked": []}, "few"))
    with pytest.raises(ConfigError, match="steps must be at least 0; got -1"):
        Adaptation(by="user", parts=(), steps=-1, rates={})
    with pytest.raises(ConfigError, match="own needs a key"):
        Adaptation(by="user", parts=(), steps=1, rates={}, own=True)
