"""What a model costs: numbers and bytes by hand, memory from outside; no time is asserted."""

from pathlib import Path

import pytest
import torch
from tests.models.toys import LAYOUTS
from tests.scoring.test_split import make
from tests.train.toys import narrow

from scalerec.bundle import Step, open_recommender, write_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.layout import IdField, Layout
from scalerec.data.schema import Role, Task
from scalerec.errors import BundleError, ConfigError
from scalerec.models.forms import Forms, LayerForm
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.scoring.cost import (
    Cost,
    count_numbers,
    measure_cost,
    measure_times,
    own_resident_bytes,
    resident_bytes,
    sizes_of,
    tensor_bytes,
)

STEP = (Step(verb="train", settings={"seed": 1}),)


def test_numbers_by_hand() -> None:
    layout = Layout(
        ids=(IdField(name="user", role=Role.USER, table="user"),),
        tables={"user": 5},
        tasks=(Task(name="liked"),),
    )
    spec = ModelSpec(model="deepfm", settings={"dim": 2, "hidden": [3], "batch_norm": True})
    recommender = build_recommender(layout, spec, seed=1)
    # Five rows of 3; 2 x 3 + 3; scale, shift, mean and variance of 3; 3 + 1.
    size = 15 + 9 + 12 + 4
    # Padding is zero, first-order weights begin at zero, and so do biases, a shift and a mean.
    zeros = 3 + 4 + 3 + 6 + 1
    assert count_numbers(recommender) == (size, size - zeros)
    # Four bytes a number; where the matrix lies, its padding, and the one counter of batches.
    assert tensor_bytes(recommender) == 4 * size + 8 + 8 + 8


def test_zeros_in_layers_are_counted() -> None:
    recommender = make("wide-deep", LAYOUTS["ids"])
    size, filled = count_numbers(recommender)
    with torch.no_grad():
        recommender.to_tensors()["net.tower.0.weight"][:, 0] = 0.0
    assert count_numbers(recommender) == (size, filled - 20)


def test_scales_of_codes_are_no_parameters() -> None:
    forms = Forms(layers={"net.tower.0": LayerForm(bits=8)})
    plain = narrow("deepfm")
    sizes = [
        count_numbers(build_recommender(LAYOUTS["ids"], spec, seed=1))[0]
        for spec in (plain, plain.replace(forms=forms))
    ]
    assert sizes[0] == sizes[1]


def test_a_bundle(tmp_path: Path, rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow("deepfm"), seed=1)
    path = tmp_path / "bundle"
    write_recommender(path, recommender, rated, STEP)
    opened = open_recommender(path)
    sizes = sizes_of(opened)
    files = {file.name: file.stat().st_size for file in path.iterdir() if file.is_file()}
    weights = sum(size for name, size in files.items() if name.startswith("weights-"))
    assert sizes.weight_bytes == weights
    assert sizes.directory_bytes == sum(files.values())
    assert 4 * sizes.parameters < weights < 4 * sizes.parameters + 4096
    assert sizes.resident_bytes is None or 0 <= sizes.resident_bytes < 2**28
    cost = measure_cost(opened, rated, candidates=(1, 3), repeats=2)
    assert cost.candidates == (1, 3)
    assert all(0 < half <= most for half, most in zip(cost.p50_ms, cost.p99_ms, strict=True))
    assert Cost.from_dict(cost.to_dict()) == cost


def test_words(tmp_path: Path, rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow("deepfm"), seed=1)
    with pytest.raises(ConfigError, match="num_candidates must be at least 1; got 0"):
        measure_times(recommender, rated, candidates=(0,), repeats=1)
    with pytest.raises(ConfigError, match="must be at least 1; got 0"):
        measure_times(recommender, rated, candidates=(1,), repeats=0)
    if own_resident_bytes() is not None:
        with pytest.raises(BundleError, match="cannot be opened in a process of its own"):
            resident_bytes(tmp_path / "nothing")
