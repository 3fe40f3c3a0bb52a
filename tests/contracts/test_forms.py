"""What every form keeps to in every net: it is built, scores, converts, and comes back the same."""

from pathlib import Path

import pytest
import torch
from tests.bundle.test_recommenders import STEP, scores, trained
from tests.models.test_recommender import make
from tests.models.toys import draw_batch

from scalerec.bundle import open_recommender, write_recommender
from scalerec.data.dataset import Dataset
from scalerec.models.forming import float_names, formed, quantise_linear
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.layers import IntLinear
from scalerec.models.placing import formable_layers
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = pytest.mark.parametrize("name", ZOO)
LAYERS = {
    "full": LayerForm(),
    "factors": LayerForm(rank=1),
    "half": LayerForm(bits=16),
    "whole": LayerForm(bits=8),
    "sparse": LayerForm(sparse=True),
    "all": LayerForm(rank=1, bits=8, sparse=True),
}
TABLES = {
    "whole": TableForm(bits=8),
    "nibbles": TableForm(bits=4),
    "half": TableForm(bits=16),
    "narrow": TableForm(dim=2),
    "both": TableForm(dim=2, bits=8),
}


def linears(recommender: Recommender) -> list[str]:
    layers = formable_layers(recommender)
    return [name for name, layer in layers.items() if isinstance(layer, torch.nn.Linear)]


@NAMES
@pytest.mark.parametrize("form", LAYERS)
def test_every_layer_of_every_net_in_every_form(
    name: str, form: str, generator: torch.Generator
) -> None:
    plain = make(name).eval()
    forms = Forms(layers=dict.fromkeys(linears(plain), LAYERS[form]))
    found = formed(plain, forms)
    batch = draw_batch(plain.layout, 6, generator)
    logits = found(batch)
    assert logits.shape == plain(batch).shape
    # Whatever a row's numbers become does not depend on the other rows.
    alone = found(batch.take(torch.tensor([4])))
    torch.testing.assert_close(alone[0], logits[4], rtol=1e-4, atol=1e-5)
    if form in ("full", "half", "sparse"):
        torch.testing.assert_close(logits, plain(batch), rtol=1e-2, atol=1e-2)
    other = build_recommender(found.layout, found.spec, 9).eval()
    other.load_tensors({name: t.clone() for name, t in found.to_tensors().items()})
    assert torch.equal(other(batch), logits)
    assert set(float_names(found)) <= found.to_tensors().keys()


@NAMES
@pytest.mark.parametrize("form", TABLES)
def test_every_net_above_every_form_of_table(
    name: str, form: str, generator: torch.Generator
) -> None:
    plain = make(name).eval()
    found = formed(plain, Forms(tables=dict.fromkeys(plain.layout.tables, TABLES[form])))
    batch = draw_batch(plain.layout, 6, generator)
    logits = found(batch)
    rows = found.tables.read(found.tables.rows_of(batch))
    torch.testing.assert_close(found.score(rows, batch), logits, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(found(batch), logits, rtol=1e-4, atol=1e-5)
    other = build_recommender(found.layout, found.spec, 9).eval()
    other.load_tensors({name: t.clone() for name, t in found.to_tensors().items()})
    assert torch.equal(other(batch), logits)


@NAMES
def test_every_net_without_a_field(name: str, generator: torch.Generator) -> None:
    plain = make(name)
    kept = ("user", "item", "seen")
    names = [field.name for field in plain.layout.fields if field.name not in kept]
    spec = plain.spec.replace(forms=Forms(fields=tuple(names)))
    found = build_recommender(plain.layout, spec, 1).eval()
    batch = draw_batch(plain.layout, 6, generator)
    logits = found(batch)
    rows = found.tables.read(found.tables.rows_of(batch))
    torch.testing.assert_close(found.score(rows, batch), logits, rtol=1e-4, atol=1e-5)
    batch.ids[[field.name in names for field in plain.layout.ids]] = 1
    batch.dense.zero_()
    assert torch.equal(found(batch), logits)
    assert "tables.day.weight" not in found.to_tensors()


def combined(plain: Recommender) -> Recommender:
    """Everything at once: layers of whole numbers, tables of few bits and columns, calibrated."""
    names = linears(plain)
    layers = {name: LayerForm(bits=8, sparse=place % 2 == 0) for place, name in enumerate(names)}
    made = {}
    if names:
        layers[names[0]] = LayerForm(bits=8, calibrated=True)
        made[names[0]] = quantise_linear(plain.get_submodule(names[0]), (-1.0, 1.0))
    kinds = list(TABLES.values())
    tables = {n: kinds[i % len(kinds)] for i, n in enumerate(plain.layout.tables)}
    forms = Forms(layers=layers, tables=tables, recalibrated=True)
    scale = torch.full((plain.layout.num_outputs,), 1.5)
    return formed(plain, forms, {"calibration.scale": scale}, made)


@NAMES
def test_all_forms_at_once_in_a_bundle(tmp_path: Path, simulated: Dataset, name: str) -> None:
    plain = trained(simulated, name)
    small = combined(plain)
    write_recommender(tmp_path / "small", small, simulated, STEP)
    opened = open_recommender(tmp_path / "small").recommender
    assert opened.spec == small.spec
    assert torch.equal(scores(opened, simulated), scores(small, simulated))
    held = small.to_tensors()
    assert all(torch.equal(t, held[n]) for n, t in opened.to_tensors().items())
    assert held.keys() == opened.to_tensors().keys()
    bundle = open_recommender(tmp_path / "small").bundle
    assert bundle.spec["forms"] == small.spec.forms.to_dict()


def test_shared_rows_and_left_out_fields_in_a_bundle(tmp_path: Path, simulated: Dataset) -> None:
    spec = trained(simulated).spec
    tables = {
        name: TableForm(sharing="hash" if i % 2 else "quotient", rows=24, dim=2 * (i % 2))
        for i, (name, size) in enumerate(simulated.layout.tables.items())
        if size > 30
    }
    assert len(tables) > 1
    left = simulated.layout.numbers[0].name
    forms = Forms(tables=tables, fields=(left,), layers={"net.tower.0": LayerForm(outputs=7)})
    forms = forms.replace(layers={**forms.layers, "net.tower.2": LayerForm(inputs=7)})
    found = build_recommender(simulated.layout, spec.replace(forms=forms), 3).eval()
    write_recommender(tmp_path / "small", found, simulated, STEP)
    opened = open_recommender(tmp_path / "small").recommender
    assert torch.equal(scores(opened, simulated), scores(found, simulated))
    assert all(form.divisor for form in opened.spec.forms.tables.values() if form.dim == 0)
    packed = formed(
        found,
        forms.replace(tables={n: f.replace(bits=8) for n, f in found.spec.forms.tables.items()}),
    )
    near = (scores(packed, simulated) - scores(found, simulated)).abs().max()
    assert float(near) < 0.05


def test_no_layer_of_whole_numbers_is_left_out(generator: torch.Generator) -> None:
    found = formed(make("deepfm"), Forms(layers={"net.tower.0": LayerForm(bits=8)}))
    assert isinstance(found.get_submodule("net.tower.0"), IntLinear)
    assert not found.training
