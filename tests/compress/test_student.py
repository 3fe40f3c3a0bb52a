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


def test_dropout() -> None:
    own = read_student("dim10+64-32+dropout0.25", TEACHER)
    assert own.settings == {"dim": 10, "hidden": [64, 32], "dropout": 0.25}
    assert own.net_config().to_dict()["dropout"] == 0.25
    assert read_student("dropout0", TEACHER).settings["dropout"] == 0.0
    assert read_student("mmoe+dropout.5", TEACHER).settings == {"dim": 16, "dropout": 0.5}
    with pytest.raises(ConfigError, match="model fm has no dropout; it has dim, embedding_dropout"):
        read_student("fm+dropout0.2", TEACHER)
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\); got 'dropout1.0'"):
        read_student("64+dropout1.0", TEACHER)
    for odd in ("dropout", "dropout-0.1", "dropout0.1.2"):
        with pytest.raises(ConfigError, match=f"got '{odd}'"):
            read_student(odd, TEACHER)


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match=r"hidden sizes such as 64-32, dim8, .*; got 'small'"):
        read_student("small", TEACHER)
    with pytest.raises(ConfigError, match="got ''"):
        read_student("", TEACHER)
    with pytest.raises(ConfigError, match="model mmoe has no single row of hidden layers; it has"):
        read_student("mmoe+64", TEACHER)
