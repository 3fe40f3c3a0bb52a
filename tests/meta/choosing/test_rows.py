"""Choosing among a task's rows, by what a model reads of them."""

import numpy as np
import pytest
import torch
from tests.train.toys import narrow

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.meta.choosing import RowChooser, herding
from scalerec.meta.tasks import TaskSet
from scalerec.models.recommender import Recommender, build_recommender


@pytest.fixture(scope="module")
def model(rated: Dataset) -> Recommender:
    """A model with drawn rows, in training mode."""
    own = build_recommender(rated.layout, narrow(embedding_dropout=0.5), 1)
    return own.train()


def test_rows_lie_where_their_fields_put_them(rated: Dataset, model: Recommender) -> None:
    events, rows = rated.split("train"), torch.arange(10, 40)
    got = RowChooser("herding", model, events)(rows, 5, torch.Generator())
    with torch.no_grad():
        fields = model.eval().read(events.take(rows.numpy())).fields.flatten(1)
    model.train()
    assert torch.equal(got, herding(fields, 5))
    assert model.training


def test_supports_are_chosen_and_queries_are_not(
    rated: Dataset, model: Recommender, generator: torch.Generator
) -> None:
    events = rated.split("train")
    tasks = TaskSet(events, "user", least_rows=10)
    state = generator.get_state()
    chance = tasks.episode(torch.arange(5), 4, 3, generator)
    generator.set_state(state)
    chooser = RowChooser("class-balanced:k-centre", model, events)
    episode = tasks.episode(torch.arange(5), 4, 3, generator, choose=chooser)
    assert torch.equal(episode.query.rows, chance.query.rows)
    assert episode.support.lengths.tolist() == [4] * 5
    assert not np.isin(episode.support.rows.numpy(), episode.query.rows.numpy()).any()
    labels = events.take(episode.support.rows.numpy()).labels[:, 0].view(5, 4)
    # Every user liked about half of the items.
    assert labels.sum(1).tolist() == [2.0] * 5


def test_a_domain_is_an_id_field(rated: Dataset, model: Recommender) -> None:
    events, rows = rated.split("train"), torch.arange(60)
    chooser = RowChooser("domain-balanced", model, events, domain="item")
    chosen = rows[chooser(rows, 10, torch.Generator().manual_seed(1))]
    assert len(events.take(chosen.numpy()).ids[1].unique()) == 10


def test_wrong_words_are_told_at_once(rated: Dataset, model: Recommender) -> None:
    events = rated.split("train")
    with pytest.raises(ConfigError, match="a choice of examples must be one of"):
        RowChooser("nearest", model, events)
    with pytest.raises(ConfigError, match="domain must be one of the id fields user, item; got"):
        RowChooser("random", model, events, domain="shop")
    with pytest.raises(ConfigError, match="needs the domain of each candidate; got none"):
        RowChooser("domain-balanced", model, events)
