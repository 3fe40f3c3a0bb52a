"""Which model a verb that trains is asked for."""

from typing import Any

import pytest

from scalerec.cli.training_options import named_model, wanted_spec
from scalerec.errors import ConfigError


def test_the_option_goes_before_the_file() -> None:
    values: dict[str, Any] = {"name": "fm", "model": {"dim": 8}, "epochs": 2}
    assert named_model(None, values) == ("fm", {"dim": 8}, {"epochs": 2})
    assert named_model("lr", values) == ("lr", {"dim": 8}, {"epochs": 2})
    assert values["name"] == "fm"
    assert named_model(None, {}) == (None, {}, {})


@pytest.mark.parametrize("wrong", ["fm", 3])
def test_a_name_in_the_place_of_settings_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[model\] holds the model's settings"):
        named_model(None, {"model": wrong})


def test_what_starts_anew_is_a_deepfm_unless_said() -> None:
    spec, rest = wanted_spec(None, None, {"init_std": 0.2, "model": {"dim": 8}, "seed": 3})
    assert (spec.model, spec.init_std, spec.settings["dim"]) == ("deepfm", 0.2, 8)
    assert rest == {"seed": 3}
    assert wanted_spec(None, "fm", {"name": "lr"})[0].model == "fm"
