"""What tests of warming up share."""

import pytest
from tests.meta.warm_up.shop import open_shop

from scalerec.data.dataset import Dataset


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop."""
    return open_shop(tmp_path_factory.mktemp("shop") / "data")


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop, in which the items of the later parts are new."""
    folder = tmp_path_factory.mktemp("cold") / "data"
    return open_shop(folder, split={"by": "item", "valid": 0.1, "test": 0.1})
