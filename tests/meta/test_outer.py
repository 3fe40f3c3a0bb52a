"""What meta-learning moves, and where rates begin."""

import pytest
import torch
from tests.meta.worlds import parity, small

from scalerec.data.dataset import Dataset
from scalerec.data.vocabulary import FIRST_ID, OOV
from scalerec.errors import ConfigError
from scalerec.meta.algorithms import ALGORITHMS
from scalerec.meta.config import MetaConfig
from scalerec.meta.learning import meta_train
from scalerec.meta.outer import first_rates
from scalerec.meta.parts import OWN, choose_parts, own_field
from scalerec.meta.personal import PersonalModel
from scalerec.meta.tasks import TaskSet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return parity(tmp_path_factory.mktemp("parity") / "data")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_the_row_of_new_keys_moves_where_known_ones_are_to_be_served_as_before(
    dataset: Dataset, algorithm: str
) -> None:
    before = small(dataset).to_tensors()
    config = MetaConfig(
        algorithm=algorithm, adapt="own,head", moves="own", updates=4, evaluate_every=4, rate=0.1,
        num_support=4, num_query=4, tasks=8, l2=0.1, rows_lr=0.1, patience=-1,
    )  # fmt: skip
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    after = meta_train(small(dataset), tasks, config).recommender.to_tensors()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {"tables.user.weight"}
    rows = (before["tables.user.weight"] != after["tables.user.weight"]).any(1)
    assert rows.nonzero().flatten().tolist() == [OOV]


def test_scaled_rates_are_variances_of_the_rows_of_known_keys(dataset: Dataset) -> None:
    recommender = small(dataset)
    place = own_field(dataset.schema, dataset.layout, "user")
    model = PersonalModel(recommender, choose_parts(recommender, "own,head", place))
    rates = first_rates(model, MetaConfig(rate=3.0, scaled=True))
    rows = recommender.to_tensors()["tables.user.weight"][FIRST_ID:]
    torch.testing.assert_close(rates[OWN], 3.0 * rows.var(0, correction=0))
    assert all(rate.ndim == 0 for name, rate in rates.items() if name != OWN)


def test_moving_a_row_needs_one_that_adapts(dataset: Dataset) -> None:
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    with pytest.raises(ConfigError, match="moves=own needs `own` among what adapts"):
        meta_train(small(dataset), tasks, MetaConfig(adapt="head", moves="own"))
    with pytest.raises(ConfigError, match="moves=own needs as_new: known keys read rows of their"):
        MetaConfig(moves="own", as_new=False)
