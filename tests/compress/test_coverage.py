"""What a step left alone, by net and step."""

import pytest
import torch
from tests.models.toys import LAYOUTS
from tests.train.toys import narrow

from scalerec.compress.coverage import left_alone, same_model
from scalerec.compress.quantising import few_bits, quantised
from scalerec.models.forming import formed
from scalerec.models.forms import LayerForm
from scalerec.models.recommender import Recommender, build_recommender

# What of each net keeps its bits; linear layers all get new ones.
KEPT = {
    "deepfm": (),
    "dcn-v2": (),
    "mmoe": (
        "net.experts.weights.0", "net.gate.weight",
        "net.heads.weight", "net.heads.towers.weights.0",
    ),
    "shared-bottom": ("net.heads.weight", "net.heads.towers.weights.0"),
}  # fmt: skip


def build(model: str) -> Recommender:
    layout = LAYOUTS["several" if model in ("mmoe", "shared-bottom") else "ids"]
    return build_recommender(layout, narrow(model), 1).eval()


@pytest.mark.parametrize("model", KEPT)
def test_what_keeps_its_bits_is_named(model: str) -> None:
    own = build(model)
    after = quantised(own, few_bits(own, 8, 8, frozenset()))
    told = left_alone(own, after)
    names = [name for name in told.rpartition(": ")[2].split(", ") if name]
    assert sorted(names) == sorted(KEPT[model])


def test_the_numbers_are_counted() -> None:
    own = build("deepfm")
    layers = {"net.tower.0": LayerForm(bits=16)}
    after = formed(own, own.spec.forms.replace(layers=layers))
    # 3 fields of 8 into 20, twice 20 into 20, and 20 into one.
    assert left_alone(own, after) == (
        "820 of the net's 1,300 weights are stored as before: net.tower.2.weight, "
        "net.tower.4.weight, net.tower.6.weight"
    )


def test_models_are_compared_by_what_a_bundle_holds() -> None:
    own = build("deepfm")
    again = formed(own, own.spec.forms)
    assert same_model(own, own)
    assert same_model(own, again)
    with torch.no_grad():
        again.get_parameter("net.tower.0.bias")[0] += 1.0
    assert not same_model(own, again)
    halved = quantised(own, few_bits(own, 32, 16, frozenset()))
    assert not same_model(own, halved)
