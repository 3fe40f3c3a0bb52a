"""Every step on a small recommender: what it changes, and that the old one stays."""

import pytest
import torch
from torch import Tensor

from scalerec.compress.quantising import Grid, few_bits, formable_linears, input_ranges, quantised
from scalerec.compress.shrinking import fit_shared
from scalerec.compress.steps import read_steps
from scalerec.compress.teacher import Teacher
from scalerec.compress.work import Work
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.forming import formed
from scalerec.models.forms import LayerForm, TableForm
from scalerec.models.packed import pack_rows, unpack_rows
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.models.sharing import plan_shares
from scalerec.scoring.cost import count_numbers
from scalerec.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = ModelSpec(model="deepfm", settings={"dim": 8, "hidden": [32, 16]}, init_std=0.1)
CONFIG = TrainConfig.from_dict({"epochs": 1, "batch_size": 512, "patience": -1})


@pytest.fixture(scope="module")
def given(simulated: Dataset) -> Recommender:
    return train(simulated, SPEC, CONFIG).recommender


@pytest.fixture
def work(simulated: Dataset, given: Recommender) -> Work:
    return Work(recommender=given, teacher=Teacher([given]), dataset=simulated, training=CONFIG)


def after(work: Work, text: str) -> Recommender:
    for own in read_steps(text):
        work = own.step.apply(work)
    return work.recommender


def logits(recommender: Recommender, dataset: Dataset) -> Tensor:
    events = dataset.split("valid")
    with torch.no_grad():
        found: Tensor = recommender.eval()(events.read(0, min(500, len(events))))
    return found


CHANGES = {
    "prune=0.5:epochs=0": "layers",
    "prune=0.5:scope=global:epochs=1:teach=0.0": "layers",
    "prune=0.8:what=weights:epochs=0": "layers",
    "prune=0.8:what=weights:gradual=0.5:rate=0.1": "layers",
    "prune=0.2:what=fields:epochs=0": "fields",
    "prune=0.3:what=columns:epochs=0": "tables",
    "shrink=hash:share=0.5:least_rows=16:epochs=0": "tables",
    "shrink=quotient:share=0.5:least_rows=16:epochs=0": "tables",
    "shrink=lowrank:dim=4:epochs=0": "tables",
    "quantize=float16": "tables",
    "quantize=int8:calibrated=true": "layers",
    "quantize=int8:tables=int4:aware=1": "tables",
}


@pytest.mark.parametrize("text", CHANGES)
def test_a_step_gives_another_model_and_leaves_the_old(
    text: str, work: Work, given: Recommender, simulated: Dataset
) -> None:
    before = {name: tensor.clone() for name, tensor in given.to_tensors().items()}
    found = after(work, text)
    forms = found.spec.forms
    assert getattr(forms, CHANGES[text])
    assert not given.spec.forms
    for name, tensor in given.to_tensors().items():
        assert torch.equal(tensor, before[name]), name
    scores = logits(found, simulated)
    assert bool(scores.isfinite().all())
    # The spec and the tensors say all.
    again = formed(found, forms)
    torch.testing.assert_close(logits(again, simulated), scores)


@pytest.mark.parametrize(
    "text", ["prune=0.5:what=rows:epochs=0", "shrink=rare:times=30:least_rows=16:epochs=0"]
)
def test_ids_that_share_a_row_need_no_form(text: str, work: Work) -> None:
    found = after(work, text)
    tables = found.tables
    assert any(row_map.rows is not None for row_map in tables.maps.values())
    assert tables.num_weights < work.recommender.tables.num_weights


def test_low_rank_leaves_tables_that_would_not_get_smaller(work: Work) -> None:
    found = after(work, "shrink=lowrank:dim=4:epochs=0")
    rows = work.recommender.tables.num_rows
    # 8 columns become 4 and a basis of 4 x 8: from 9 rows on that is less.
    assert set(found.spec.forms.tables) == {name for name, num in rows.items() if num > 8}
    assert min(rows.values()) <= 8 < max(rows.values())
    assert count_numbers(found)[0] < count_numbers(work.recommender)[0]
    coded = after(work, "quantize=float32:tables=int8")
    with pytest.raises(ConfigError, match=r"rows and columns of table .* go before it is given 8"):
        after(work.with_model(coded), "shrink=lowrank:dim=4:epochs=0")
    with pytest.raises(ConfigError, match="has a basis of 4 already; got dim 2"):
        after(work.with_model(found), "shrink=lowrank:dim=2:epochs=0")


def test_columns_stay_where_a_basis_would_take_more(work: Work) -> None:
    found = after(work, "prune=0.5:what=columns:epochs=0")
    rows = work.recommender.tables.num_rows
    assert set(found.spec.forms.tables) == {name for name, num in rows.items() if num > 8}
    assert {form.dim for form in found.spec.forms.tables.values()} == {4}
    assert count_numbers(found)[0] < count_numbers(work.recommender)[0]


def test_pruned_weights_stay_zero_through_training(work: Work) -> None:
    found = after(work, "prune=0.8:what=weights:epochs=1:rate=0.1")
    layers = [own.weight for own in found.net.modules() if isinstance(own, torch.nn.Linear)]
    zeros = sum(int((own == 0).sum()) for own in layers)
    assert zeros / sum(own.numel() for own in layers) == pytest.approx(0.8, abs=0.01)


def test_training_further_moves_a_copy(work: Work, given: Recommender, simulated: Dataset) -> None:
    found = after(work, "tune=1:rate=0.1")
    assert found is not given
    assert not torch.equal(logits(found, simulated), logits(given, simulated))


def test_eight_bits_score_nearly_alike(work: Work, given: Recommender, simulated: Dataset) -> None:
    wanted = logits(given, simulated)
    near = (logits(after(work, text), simulated) for text in ("quantize=int8", "quantize=float16"))
    spread = float(wanted.std())
    assert [float((own - wanted).abs().max()) / spread < 0.1 for own in near] == [True, True]


def test_a_student_leaves_out_what_was_left_out(work: Work) -> None:
    found = after(work, "prune=0.2:what=fields:epochs=0,distil=8+dropout0.1")
    assert found.spec.settings["hidden"] == [8]
    assert found.spec.settings["dropout"] == 0.1
    assert len(found.spec.forms.fields) > 0


def test_calibration_that_did_not_move_is_left(work: Work, given: Recommender) -> None:
    (step,) = read_steps("recalibrate")
    found = step.step.apply(work)
    assert found.recommender is given
    assert len(found.notes) == len(work.dataset.schema.tasks)
    assert all(told.endswith(": neither NE nor ECE moved beyond noise") for told in found.notes)


def test_what_is_adaptable_in_particular_stays_float(work: Work) -> None:
    own = Work(
        recommender=work.recommender,
        teacher=work.teacher,
        dataset=work.dataset,
        training=work.training,
        adaptable=("net.tower.0.*", "tables.item_id.*"),
    )
    forms = after(own, "quantize=int8").spec.forms
    assert "net.tower.0" not in forms.layers
    assert "item_id" not in forms.tables
    assert forms.layers["net.tower.2"] == LayerForm(bits=8)
    assert TableForm(bits=8) in forms.tables.values()


def test_ranges_hold_every_input(work: Work, simulated: Dataset) -> None:
    own = work.recommender
    ranges = input_ranges(own, simulated)
    assert set(formable_linears(own)) == {"net.tower.0", "net.tower.2", "net.tower.4"}
    # A ReLU stands before all but the first, which reads numbers folded where there are any.
    assert set(ranges) >= {"net.tower.2", "net.tower.4"}
    assert all(0 <= ranges[name][0] < ranges[name][1] for name in ("net.tower.2", "net.tower.4"))
    forms = few_bits(own, 32, 8, frozenset({"net.tower.4"}))
    found = quantised(own, forms, ranges)
    assert found.spec.forms.layers["net.tower.2"] == LayerForm(bits=8, calibrated=True)
    assert "net.tower.4" not in found.spec.forms.layers


def test_a_grid_adds_what_a_step_moved_to_exact_weights(work: Work) -> None:
    own = formed(work.recommender, work.recommender.spec.forms)
    exact = own.tables.table("item_id").clone()
    grid = Grid(own, few_bits(own, 8, 32, frozenset()))
    rounded = own.tables.table("item_id").clone()
    assert torch.equal(rounded, unpack_rows(pack_rows(exact, 8), 8, 8))
    assert not torch.equal(rounded, exact)
    own.tables.table("item_id").add_(0.25)
    grid(1)
    grid.restore()
    torch.testing.assert_close(own.tables.table("item_id"), exact + 0.25)


@pytest.mark.parametrize("sharing", ["hash", "quotient"])
def test_rows_that_can_be_shared_are_found_again(sharing: str) -> None:
    """Rows that were made of shared ones are given back; padding stays zero."""
    form = TableForm(sharing=sharing, rows=40)  # type: ignore[arg-type]
    shares = plan_shares("items", form, 200)
    assert shares is not None
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(40, 3, generator=generator) * 0.3
    shared[0] = 0.0
    ids = torch.arange(200)
    rows = shares.join(shared[shares.first(ids)], shared[shares.second(ids)])
    counts = torch.randint(1, 9, (200,), generator=generator)
    found = fit_shared(rows, counts, shares)
    again = shares.join(found[shares.first(ids)], found[shares.second(ids)])
    left = float((again - rows).square().mean() / rows.square().mean())
    assert left < 0.01
    assert not found[0].any()
    torch.testing.assert_close(again[1], rows[1])
