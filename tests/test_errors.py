"""The tree of errors."""

import pytest

from scalerec import errors
from scalerec.errors import MissingExtraError, ScalerecError

BUILTIN = {
    "ConfigError": ValueError,
    "SchemaError": ValueError,
    "DataError": ValueError,
    "NotFittedError": RuntimeError,
    "BundleError": ValueError,
    "RoundError": RuntimeError,
    "TrainError": RuntimeError,
    "GroupError": RuntimeError,
    "CompressError": RuntimeError,
    "RequestError": ValueError,
    "MissingExtraError": ImportError,
}


@pytest.mark.parametrize("name", BUILTIN)
def test_every_error_is_ours_and_a_builtin(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, ScalerecError)
    assert issubclass(kind, BUILTIN[name])


def test_the_tree_is_complete_and_drawn() -> None:
    assert set(errors.__all__) == {*BUILTIN, "ScalerecError"}
    assert errors.__doc__ is not None
    for name, builtin in BUILTIN.items():
        line = next(line for line in errors.__doc__.splitlines() if f"── {name}" in line)
        assert f"({builtin.__name__})" in line


def test_a_missing_extra_names_what_to_install() -> None:
    error = MissingExtraError("flwr", "federated")
    assert str(error) == "flwr is not installed; install it with: pip install 'scalerec[federated]'"
    assert (error.package, error.extra) == ("flwr", "federated")
