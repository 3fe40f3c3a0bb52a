"""Steps as words: what is read, and what is refused in which words."""

import pytest

from scalerec.compress.distil_step import Distil
from scalerec.compress.other_steps import Recalibrate, Tune
from scalerec.compress.pruning_step import Prune
from scalerec.compress.quantising_step import Quantise
from scalerec.compress.shrinking_step import Shrink
from scalerec.compress.steps import STEPS, read_steps
from scalerec.config import Config
from scalerec.errors import ConfigError

READ: dict[str, Config] = {
    "prune=0.8": Prune(ratio=0.8),
    "prune=0.8:what=weights:gradual=0.5:rescale=true": Prune(
        ratio=0.8, what="weights", gradual=0.5, rescale=True
    ),
    "distil=64-32": Distil(student="64-32"),
    "distil=64": Distil(student="64"),
    "distil=dim8+64-32:weight=0.9:temperature=2": Distil(
        student="dim8+64-32", weight=0.9, temperature=2.0
    ),
    "distil=dim10+64-32+dropout0.2:tables=teacher": Distil(
        student="dim10+64-32+dropout0.2", tables="teacher"
    ),
    "quantize=int8": Quantise(to="int8"),
    "quantize=int8:tables=int4:aware=1": Quantise(to="int8", tables="int4", aware=1),
    "shrink=rare:times=5": Shrink(how="rare", times=5),
    "shrink=hash:share=0.25:epochs=0": Shrink(how="hash", share=0.25, epochs=0),
    "tune=2": Tune(epochs=2),
    "recalibrate": Recalibrate(),
}


@pytest.mark.parametrize("text", READ)
def test_a_step_is_read(text: str) -> None:
    (found,) = read_steps(text)
    assert found.text == text
    wanted: object = READ[text]
    assert found.step == wanted


def test_steps_stand_in_order() -> None:
    found = read_steps("prune=0.8, distil=64-32,quantize=int8")
    assert [own.text for own in found] == ["prune=0.8", "distil=64-32", "quantize=int8"]
    assert {text.partition("=")[0] for text in READ} == set(STEPS)


REFUSED = {
    "": "steps must be separated by single commas; got ''",
    "prune=0.5,,tune=1": "steps must be separated by single commas; got 'prune=0.5,,tune=1'",
    "prunne=0.5": (
        "a step must be one of prune, shrink, distil, quantize, tune, recalibrate; got 'prunne'"
    ),
    "prune": "step prune needs its ratio: prune=...; got 'prune'",
    "prune=2.0": "step prune: ratio must be in (0, 1); got 2.0",
    "prune=much": "step prune: ratio must be a number; got 'much'",
    "prune=0.5:rescale": "step prune needs NAME=VALUE after a colon; got 'rescale'",
    "prune=0.5:ratio=0.6": "step prune has ratio twice; got 'prune=0.5:ratio=0.6'",
    "prune=0.5:wat=units": "step prune: unknown setting 'wat'; did you mean 'what'?",
    "prune=0.5:rescale=true": "step prune: rescale belongs to what=weights; got what=units",
    "distil=nothing": (
        "step distil: a student is hidden sizes such as 64-32, dim8, dropout0.2, or a net's name, "
        "joined by +; got 'nothing'"
    ),
    "quantize=int2": ("step quantize: to must be one of float32, float16, int8, int4; got 'int2'"),
    "quantize=int8:layers=int4": (
        "step quantize: layers must be one of float32, float16, int8; got int4"
    ),
    "shrink=rare": "step shrink: how=rare needs times above 0; got 0",
    "shrink=rare:times=2:dim=3": "step shrink: how=rare does not read dim; got 3",
    "shrink=hash:share=1.0": "step shrink: share must be in (0, 1); got 1.0",
    "tune=0": "step tune: epochs must be at least 1; got 0",
    "recalibrate=1": "step recalibrate has no setting behind its name; got 'recalibrate=1'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_said(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_steps(text)
    assert str(error.value).startswith(REFUSED[text])
