"""What every test may ask for. Nothing heavy is imported before a test needs it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

    from scalerec.data.dataset import Dataset

# Torch reads it once, when it is imported. The tensors of the tests are small: more threads than
# two only wait for each other. Processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# A busy machine is no failure, and a run that failed must fail again.
settings.register_profile("calm", deadline=None, derandomize=True)
settings.load_profile("calm")


@pytest.fixture
def generator() -> "torch.Generator":
    """A seeded source of randomness, the same at the start of every test."""
    import torch

    return torch.Generator().manual_seed(20250101)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can be compared bit for bit; and no waiting on toys."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """The simulated world."""
    from tests.train.toys import world

    return world(tmp_path_factory.mktemp("simulated") / "data")


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """The ratings made by hand."""
    from tests.train.toys import ratings

    return ratings(tmp_path_factory.mktemp("rated") / "data")


@pytest.fixture(scope="session")
def public_data() -> Callable[[str], Path]:
    """Find a public data set by name in `$SCALEREC_DATA`, or skip the test that asked for it.

    Example: `def test_frappe(public_data: Callable[[str], Path]) -> None: public_data("frappe")`.
    """

    def find(name: str) -> Path:
        root = os.environ.get("SCALEREC_DATA")
        if not root:
            pytest.skip(f"needs {name}: set SCALEREC_DATA to the folder that holds {name}/")
        folder = Path(root) / name
        if not folder.is_dir():
            pytest.skip(f"needs {name}: SCALEREC_DATA={root} holds no folder {name}/")
        return folder

    return find
