"""What the tests of searches share."""

from collections.abc import Iterator

import pytest
import torch
from tests.train.toys import ratings

from scalerec.data.dataset import Dataset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can be compared bit for bit; and no waiting on toys."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The ratings made by hand."""
    return ratings(tmp_path_factory.mktemp("rated") / "data")
