"""What the tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here runs on one thread."""
