"""What tests of warming up share."""

import pytest
from tests.meta.warm_up.shop import open_shop

from scalerec.data.dataset import Dataset


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop."""
    return open_shop(tmp_path_factory.mktemp("shop") / "data")
