"""Compressed parts in exported graphs: few bits stay few bits, whole numbers whole numbers."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.toys import LAYOUTS
from tests.scoring.test_onnx_graphs import built
from tests.train.toys import narrow

from scalerec.models.forming import formed, quantise_linear
from scalerec.models.forms import Forms
from scalerec.models.layers import IntLinear
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.scoring.onnx_agreement import measure_agreement
from scalerec.scoring.onnx_forms import TracedIntLinear, traceable
from scalerec.scoring.onnx_graph import ScoringGraph
from scalerec.scoring.onnx_inputs import draw_batch, feeds_of
from scalerec.scoring.onnx_trace import trace

LAYOUT = LAYOUTS["mixed"]
# Sums of a few hundred float32 products, in another order.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
TABLES = ("user", "item", "day", "genre")
CONVERTED: dict[str, dict[str, Any]] = {
    **{f"{bits} bits": {"tables": {n: {"bits": bits} for n in TABLES}} for bits in (16, 8, 4)},
    "low rank": {"tables": {"user": {"dim": 3}, "item": {"dim": 5}}},
    "several numbers of bits": {"tables": {"user": {"bits": 4}, "item": {"dim": 5, "bits": 8}}},
    "low rank of 4 bits": {"tables": {n: {"dim": 5, "bits": 4} for n in TABLES}},
    "layers of 16 bits": {"layers": {"net.tower.0": {"bits": 16}}},
    "layers of 8 bits": {"layers": {"net.tower.0": {"bits": 8}, "net.tower.2": {"bits": 8}}},
    "layers of factors": {"layers": {"net.tower.0": {"rank": 4, "bits": 8}}},
    "recalibrated": {"recalibrated": True},
}
BUILT: dict[str, dict[str, Any]] = {
    "hash": {"tables": {"item": {"sharing": "hash", "rows": 6}}},
    "quotient": {"tables": {"item": {"sharing": "quotient", "rows": 9}}},
    "without fields": {"fields": ["day", "price", "genres", "image"]},
}


def converted(forms: dict[str, Any]) -> Recommender:
    recommender = formed(built("deepfm", LAYOUT), Forms.from_dict(forms))
    if recommender.calibration is not None:
        recommender.calibration.scale.fill_(0.5)
        recommender.calibration.shift.fill_(-2.0)
    return recommender


def drawn(forms: dict[str, Any]) -> Recommender:
    spec = narrow("deepfm").replace(init_std=0.5, forms=forms)
    return build_recommender(LAYOUT, spec, 1).eval()


CASES = [
    *[pytest.param(converted, forms, id=name) for name, forms in CONVERTED.items()],
    *[pytest.param(drawn, forms, id=name) for name, forms in BUILT.items()],
]


@pytest.mark.parametrize(("make", "forms"), CASES)
@torch.no_grad()
def test_the_module_gives_what_the_recommender_gives(make: Any, forms: dict[str, Any]) -> None:
    recommender = make(forms)
    batch = draw_batch(LAYOUT, 30, seed=2)
    graph = ScoringGraph(recommender)
    feeds = feeds_of(LAYOUT, batch, graph.inputs)
    logits = graph(*(torch.from_numpy(own) for own in feeds.values()))[-1]
    torch.testing.assert_close(logits, recommender(batch), **CLOSE)
    left_out = {name for name in forms.get("fields", []) if name in feeds}
    assert not left_out


def saved(recommender: Recommender, path: Path) -> Any:
    import onnx_ir

    model = trace(ScoringGraph(recommender))
    onnx_ir.save(model, path)
    return model


def types_of(model: Any) -> dict[str, str]:
    return {name: str(own.dtype) for name, own in model.graph.initializers.items()}


def test_codes_stay_codes_and_integers_integers(tmp_path: Path) -> None:
    forms = {
        "tables": {"user": {"bits": 4}, "item": {"bits": 8}, "genre": {"bits": 16}},
        "layers": {f"net.tower.{number}": {"bits": 8} for number in (0, 2, 4)},
        "recalibrated": True,
    }
    recommender = converted(forms)
    model = saved(recommender, tmp_path / "net.onnx")
    types = types_of(model)
    assert types["tables.user.codes"] == "UINT8"
    assert types["tables.item.codes"] == "INT8"
    assert types["tables.item.halves"] == "FLOAT16"
    assert types["tables.genre.weight"] == "FLOAT16"
    assert types["net.tower.0.columns"] == "INT8"
    ops = Counter(node.op_type for node in model.graph)
    assert ops["MatMulInteger"] == ops["QuantizeLinear"] == 3
    # Only the read-out and the image of vectors are products of floats.
    assert ops["MatMul"] + ops["Gemm"] == 2
    agreement = measure_agreement(tmp_path / "net.onnx", recommender, 300)
    assert agreement.holds


def test_each_row_keeps_its_scale_in_layers_with_biases(tmp_path: Path) -> None:
    """ONNX Runtime must not take the scale of the first row for all."""
    start = built("deepfm", LAYOUT, hidden=[20, 20])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, own in start.named_parameters():
            if name.endswith("bias"):
                own.add_(torch.randn(own.shape, generator=generator))
    layers = {f"net.tower.{number}": {"bits": 8} for number in (0, 2, 4)}
    recommender = formed(start, Forms.from_dict({"layers": layers}))
    saved(recommender, tmp_path / "net.onnx")
    assert measure_agreement(tmp_path / "net.onnx", recommender, 300).holds


def test_calibrated_layers_and_shared_rows_agree(tmp_path: Path) -> None:
    start = drawn({
        "tables": {
            "item": {"sharing": "hash", "rows": 6},
            "user": {"sharing": "quotient", "rows": 9, "dim": 3},
        },
        "fields": ["day", "genres"],
    })  # fmt: skip
    forms = start.spec.forms.replace(layers={"net.tower.0": {"bits": 8, "calibrated": True}})
    layer = quantise_linear(start.get_submodule("net.tower.0"), (-1.5, 1.0))
    recommender = formed(start, forms, layers={"net.tower.0": layer})
    model = saved(recommender, tmp_path / "net.onnx")
    ops = Counter(node.op_type for node in model.graph)
    assert ops["MatMulInteger"] == ops["QuantizeLinear"] == 1
    assert ops["ReduceMax"] == 0
    assert "net.tower.0.codes" not in types_of(model)
    assert measure_agreement(tmp_path / "net.onnx", recommender, 300).holds


def test_factors_and_halves_agree_and_stay_small(tmp_path: Path) -> None:
    start = built("deepfm", LAYOUT, hidden=[300, 300])
    forms = {"layers": {"net.tower.0": {"bits": 16}, "net.tower.2": {"bits": 16, "rank": 30}}}
    recommender = formed(start, Forms.from_dict(forms))
    types = types_of(saved(recommender, tmp_path / "net.onnx"))
    assert Counter(types.values())["FLOAT16"] == 3
    inputs = LAYOUT.num_fields * 8
    weights = 2 * (300 * inputs + 30 * 600)
    assert (tmp_path / "net.onnx").stat().st_size < weights + 16_000
    assert measure_agreement(tmp_path / "net.onnx", recommender, 300).holds


def test_hashes_wrap_around_as_torchs_do() -> None:
    """Ids are multiplied beyond 64 bits; the graph's whole numbers must wrap as the bundle's do."""
    shares = drawn(BUILT["hash"]).tables.shares["item"]
    ids = torch.arange(14)
    rows = shares.first(ids).tolist()
    assert rows[:2] == [0, 1]
    assert set(rows[2:]) <= {2, 3, 4, 5}
    assert np.unique(rows).size > 3


def test_a_layer_after_a_relu_needs_no_zero() -> None:
    net = traceable(converted(CONVERTED["layers of 8 bits"]).net)
    own = {n: m.positive for n, m in net.named_modules() if isinstance(m, TracedIntLinear)}
    assert own == {"tower.0": False, "tower.2": True}
    assert type(converted(CONVERTED["layers of 8 bits"]).net.tower[0]) is IntLinear  # type: ignore[index]
