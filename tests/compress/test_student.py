"""Students by name."""

import pytest

from scalerec.compress.student import read_student
from scalerec.errors import ConfigError
from scalerec.models.recommender import ModelSpec

TEACHER = ModelSpec(
    model="deepfm", settings={"dim": 16, "hidden": [400, 400], "dropout": 0.2}, init_std=0.1
)


def test_parts() -> None:
    own = read_student("64-32", TEACHER)
    assert own.settings == {"dim": 16, "hidden": [64, 32], "dropout": 0.2}
    assert own.init_std == 0.1
    assert read_student("dim8", TEACHER).settings == {**TEACHER.settings, "dim": 8}
    other = read_student("wide-deep+64", TEACHER)
    assert (other.model, other.settings) == ("wide-deep", {"dim": 16, "hidden": [64]})
    assert read_student("fm+dim4", TEACHER).settings == {"dim": 4}


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match=r"hidden sizes such as 64-32, dim8, .*; got 'small'"):
        read_student("small", TEACHER)
    with pytest.raises(ConfigError, match="got ''"):
        read_student("", TEACHER)
    with pytest.raises(ConfigError, match="model mmoe has no single row of hidden layers; it has"):
        read_student("mmoe+64", TEACHER)
