"""Rows of items' features go with the rows of their ids, so a decoy cannot be told by them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.toys import make_data, rating_rows

from scalerec.data.dataset import Dataset
from scalerec.federated.hiding import Hider, Hiding, table_blocks
from scalerec.federated.hiding_links import Links, link_items
from scalerec.federated.private import private_rows
from scalerec.federated.splitting_text import split_parties
from scalerec.federated.supply import Negatives, open_supply
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.train.cohort.holdings import Holdings

FILMS = (
    {"name": "user", "kind": "categorical", "role": "user"},
    {"name": "item", "kind": "categorical", "role": "item"},
    {"name": "year", "kind": "categorical", "role": "item"},
    {"name": "genres", "kind": "sequence", "role": "item", "max_length": 3},
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten films, each of a year of three and with two genres of five."""
    path: Path = tmp_path_factory.mktemp("films") / "data"
    columns = rating_rows()
    numbers = [int(name[1:]) for name in columns["item"]]
    columns["year"] = [f"y{number % 3}" for number in numbers]
    columns["genres"] = [[f"g{n % 5}", f"g{(n + 1) % 5}"] for n in numbers]
    return make_data(path, columns, FILMS, user="user", item="item", timestamp="time")


def model_of(films: Dataset) -> tuple[Recommender, Links]:
    recommender = build_recommender(films.layout, ModelSpec(model="fm", settings={"dim": 4}), 1)
    links = link_items(films.layout, "item", recommender.tables, films.items)
    assert links is not None
    return recommender, links


def test_a_film_goes_with_its_year_and_genres(films: Dataset) -> None:
    recommender, links = model_of(films)
    tables = recommender.tables
    assert links.table == "item"
    assert links.features == links.alone == frozenset({"year", "genres"})
    assert len(links.rows) == 10
    batch = films.split("train").read(0, 50)
    rows = tables.rows_of(batch).numpy()
    ids = rows[: batch.ids.numel()].reshape(batch.ids.shape)
    place = {field.name: at for at, field in enumerate(films.layout.ids)}
    bag = batch.bags[0]
    genres = np.split(rows[batch.ids.numel() :], bag.offsets[1:-1].numpy())
    for event in range(50):
        found = links.of(ids[[place["item"]], event])
        assert found.tolist() == sorted({ids[place["year"], event], *genres[event].tolist()})
    both = links.of(np.unique(ids[place["item"]]))
    assert both.tolist() == np.unique([*ids[place["year"]], *np.concatenate(genres)]).tolist()
    assert links.of(ids[place["user"]]).tolist() == []


def test_features_without_an_item_have_no_links(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, ModelSpec(model="fm", settings={"dim": 4}), 1)
    item = rated.schema.item
    assert link_items(rated.layout, item, recommender.tables, rated.items) is None


@pytest.mark.parametrize("count", [0, 3])
def test_what_a_party_sends_could_all_be_true(films: Dataset, count: int) -> None:
    recommender, links = model_of(films)
    tables = recommender.tables
    parties = split_parties(films, "user", 1)
    supply = open_supply(recommender, films, parties, 1, Negatives(count=count) if count else None)
    private = private_rows(films, recommender, parties, ("auto",))
    shared = ~private
    shared[tables.get_buffer("padding")] = False
    blocks = table_blocks(tables.start, tables.num_rows, shared)
    hider = Hider(Hiding.parse("touched+decoys"), blocks, supply.holdings, 1, links)
    for number in range(3):
        cohort = supply.gather(np.arange(len(parties)), number)
        for party in range(len(parties)):
            low, high = cohort.offsets[party], cohort.offsets[party + 1]
            read = cohort.rows[low:high]
            touched = read[shared[read]].numpy()
            sent = hider._padded(int(cohort.parties[party]), touched, number)
            assert set(touched.tolist()) <= set(sent.tolist())
            features = links.of(sent[np.isin(sent, blocks["item"])])
            assert set(features[shared.numpy()[features]].tolist()) <= set(sent.tolist())
            whole = np.isin(sent, blocks["item"]).sum()
            assert whole in (1, 2, 4, 8, len(blocks["item"]))


def test_tables_that_others_read_too_are_padded_as_well() -> None:
    # Items 0 to 9, words 10 to 29: item i goes with word 10 + i.
    links = Links(
        table="item",
        features=frozenset({"word"}),
        alone=frozenset(),
        rows=np.arange(10),
        offsets=np.arange(11),
        linked=np.arange(10, 20),
    )
    blocks = table_blocks({"word": 10, "item": 0}, {"word": 20, "item": 10}, torch.ones(30).bool())
    rows = torch.tensor([2, 12, 25])
    none = np.zeros(2, np.int64)
    holdings = Holdings(none[:0], none, rows, torch.tensor([0, 3]), torch.zeros(3).bool())
    cover = Hider(Hiding.parse("touched+decoys"), blocks, holdings, 1, links).cover(0)
    items, words = cover[cover < 10], cover[cover >= 10]
    assert len(items) == 2
    assert {*(items + 10).tolist(), 25} <= set(words.tolist())
    assert len(words) == 8
