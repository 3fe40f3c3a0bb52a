"""From a trained recommender to one of other forms: what is kept, converted, given and refused."""

import pytest
import torch
from tests.models.test_recommender import make, spec
from tests.models.toys import LAYOUTS, draw_batch

from scalerec.errors import ConfigError
from scalerec.models.forming import (
    float_names,
    formed,
    halve_linear,
    quantise_linear,
    unrounded,
)
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.recommender import build_recommender

LAYOUT = LAYOUTS["mixed"]


def test_nothing_else_changes(generator: torch.Generator) -> None:
    plain = make("deepfm", batch_norm=True).eval()
    before = {name: t.clone() for name, t in plain.to_tensors().items()}
    found = formed(plain, Forms(layers={"net.tower.3": LayerForm(bits=8)}))
    assert found.spec == plain.spec.replace(forms=found.spec.forms)
    after = found.to_tensors()
    assert after.keys() - before.keys() == {"net.tower.3.codes", "net.tower.3.scales"}
    assert all(torch.equal(before[n], t) for n, t in after.items() if n in before)
    assert all(torch.equal(t, before[n]) for n, t in plain.to_tensors().items())
    # Nothing is shared.
    found.load_tensors({n: torch.zeros_like(t) for n, t in after.items()})
    assert all(torch.equal(t, before[n]) for n, t in plain.to_tensors().items())


def test_one_form_after_the_other(generator: torch.Generator) -> None:
    plain, batch = make().eval(), draw_batch(LAYOUT, 50, generator)
    one = formed(plain, Forms(tables={"user": TableForm(dim=3)}))
    two = formed(one, one.spec.forms.replace(layers={"net.tower.0": LayerForm(rank=12)}))
    three = formed(two, two.spec.forms.replace(tables={"user": TableForm(dim=3, bits=8)}))
    four = formed(three, three.spec.forms.replace(recalibrated=True))
    assert four.spec.forms == Forms(
        tables={"user": TableForm(dim=3, bits=8)},
        layers={"net.tower.0": LayerForm(rank=12)},
        recalibrated=True,
    )
    assert torch.equal(four(batch), three(batch))
    near = (four(batch) - two(batch)).detach().abs().max()
    assert 0 < float(near) < 0.1
    back = formed(four, four.spec.forms.replace(tables={"user": TableForm(dim=3)}))
    torch.testing.assert_close(back(batch), four(batch), rtol=1e-5, atol=1e-5)


def test_given_tensors_and_layers_go_before_conversion(generator: torch.Generator) -> None:
    plain, batch = make().eval(), draw_batch(LAYOUT, 5, generator)
    half = halve_linear(plain.get_submodule("net.tower.0"))
    half.weight.mul_(2)
    forms = Forms(layers={"net.tower.0": LayerForm(bits=16), "net.tower.2": LayerForm(outputs=5)})
    forms = forms.replace(layers={**forms.layers, "net.tower.4": LayerForm(inputs=5)})
    state = plain.state_dict()
    cut = {
        "net.tower.2.weight": state["net.tower.2.weight"][:5],
        "net.tower.2.bias": state["net.tower.2.bias"][:5],
        "net.tower.4.weight": state["net.tower.4.weight"][:, :5],
    }
    found = formed(plain, forms, cut, {"net.tower.0": half})
    held = found.to_tensors()
    assert torch.equal(held["net.tower.0.weight"], half.weight)
    assert torch.equal(held["net.tower.4.weight"], cut["net.tower.4.weight"])
    assert found(batch).shape == (5, 1)


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (
            Forms(
                layers={
                    "net.tower.0": LayerForm(outputs=5),
                    "net.tower.2": LayerForm(inputs=5),
                }
            ),
            r"the new forms need tensors that cannot be converted: \['net.tower.0.weight', "
            r"'net.tower.0.bias', 'net.tower.2.weight'\]",
        ),
        (
            Forms(layers={"net.tower.0": LayerForm(bits=8, calibrated=True)}),
            r"cannot be converted: \['net.tower.0.codes', 'net.tower.0.scales', "
            r"'net.tower.0.range'\]",
        ),
        (
            Forms(tables={"user": TableForm(rows=5, sharing="hash")}),
            r"table 'user': the rows that ids are to share must be given",
        ),
        (
            Forms(fields=("day",)),
            r"the new forms need tensors that cannot be converted: \['net.tower.0.weight'\]",
        ),
    ],
)
def test_what_is_a_choice_must_be_given(forms: Forms, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        formed(make(), forms)


def test_tensors_of_nothing_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"with the new forms has no tensors \['net.top.weight'\]"
    ):
        formed(make(), Forms(), {"net.top.weight": torch.zeros(1)})


def test_what_can_still_be_trained() -> None:
    plain = make("deepfm", batch_norm=True)
    held = plain.to_tensors()
    assert set(float_names(plain)) == {n for n, t in held.items() if t.is_floating_point()}
    layers = {"net.tower.0": LayerForm(bits=8), "net.tower.3": LayerForm(bits=16)}
    layers["net.tower.6"] = LayerForm(sparse=True)
    found = float_names(formed(plain, Forms(layers=layers, tables={"user": TableForm(dim=2)})))
    assert "net.tower.6.weight.values" in found
    assert {"shaped.bases.0", "tables.user.weight", "net.tower.1.running_mean"} <= set(found)
    assert not [n for n in found if n.startswith(("net.tower.0.", "net.tower.3."))]
    packed = float_names(formed(plain, Forms(tables={"user": TableForm(bits=8)})))
    assert not [n for n in packed if n.startswith("tables.")]


def test_what_few_bits_stand_for_as_floats(generator: torch.Generator) -> None:
    plain, batch = make().eval(), draw_batch(LAYOUT, 50, generator)
    assert unrounded(plain) is plain
    sizes = Forms(layers={"net.tower.0": LayerForm(rank=5)}, tables={"user": TableForm(dim=3)})
    shaped = formed(plain, sizes)
    assert unrounded(shaped) is shaped
    few = formed(shaped, Forms(
        layers={
            "net.tower.0": LayerForm(rank=5, bits=16),
            "net.tower.2": LayerForm(bits=8),
            "net.tower.4": LayerForm(bits=16),
        },
        tables={"user": TableForm(dim=3, bits=8), "item": TableForm(bits=4)},
    ))  # fmt: skip
    found = unrounded(few)
    assert found.spec.forms == sizes
    assert set(float_names(found)) == set(shaped.to_tensors())
    # Inputs of the layer of 8 bits are rounded in the one and not in the other.
    torch.testing.assert_close(found(batch), few(batch), rtol=0.05, atol=0.02)
    assert not torch.equal(found(batch), shaped(batch))


def test_a_range_of_inputs_by_layer(generator: torch.Generator) -> None:
    plain, batch = make().eval(), draw_batch(LAYOUT, 50, generator)
    forms = Forms(layers={"net.tower.2": LayerForm(bits=8, calibrated=True)})
    whole = quantise_linear(plain.get_submodule("net.tower.2"), (0.0, 4.0))
    found = formed(plain, forms, layers={"net.tower.2": whole})
    assert found.to_tensors()["net.tower.2.range"].tolist() == [0.0, 4.0]
    assert float((found(batch) - plain(batch)).detach().abs().max()) < 0.2
    built = build_recommender(LAYOUT, spec().replace(forms=forms), 1)
    built.load_tensors(found.to_tensors())
    assert torch.equal(built.eval()(batch), found(batch))
