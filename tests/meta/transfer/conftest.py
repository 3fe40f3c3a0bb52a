"""A source's data and its bundles, made once."""

from pathlib import Path

import pytest
from tests.meta.transfer.shops import source_data, taught, trained

from scalerec.data.dataset import Dataset


@pytest.fixture(scope="session")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return source_data(tmp_path_factory.mktemp("shops") / "data")


@pytest.fixture(scope="session")
def plain(shops: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was trained."""
    return trained(tmp_path_factory.mktemp("plain") / "bundle", shops).path


@pytest.fixture(scope="session")
def learned(shops: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was taught to adapt to shops."""
    return taught(tmp_path_factory.mktemp("learned") / "bundle", shops).path
