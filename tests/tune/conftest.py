"""What the tests of searches share."""

import pytest


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here runs on one thread."""
