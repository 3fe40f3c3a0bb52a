"""Graphs agree with the bundle's own code: as modules here, and in ONNX Runtime."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.models.toys import LAYOUTS
from tests.train.toys import narrow

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.errors import ConfigError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.scoring.onnx_forms import traceable
from scalerec.scoring.onnx_graph import SIDES, ScoringGraph, TowerGraph
from scalerec.scoring.onnx_inputs import draw_batch, feeds_of, graph_inputs
from scalerec.scoring.scores import predict

# Sums of a few hundred float32 products, in another order.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def built(model: str, layout: Layout, **settings: object) -> Recommender:
    spec = narrow(model, **settings).replace(init_std=0.5)
    return build_recommender(layout, spec, 1).eval()


def fits(model: str, layout: Layout) -> bool:
    try:
        built(model, layout)
    except ConfigError:
        return False
    return True


PAIRS = [(model, name) for model in ZOO for name in LAYOUTS if fits(model, LAYOUTS[name])]


def tensors_of(recommender: Recommender, batch: Batch) -> list[torch.Tensor]:
    layout = recommender.layout
    feeds = feeds_of(layout, batch, graph_inputs(layout))
    return [torch.from_numpy(values) for values in feeds.values()]


@pytest.mark.parametrize(("model", "layout"), PAIRS)
@torch.inference_mode()
def test_the_module_gives_what_the_recommender_gives(model: str, layout: str) -> None:
    recommender = built(model, LAYOUTS[layout])
    batch = draw_batch(recommender.layout, 9, seed=2)
    graph = ScoringGraph(recommender)
    *predictions, logits = graph(*tensors_of(recommender, batch))
    expected = recommender(batch)
    torch.testing.assert_close(logits, expected, **CLOSE)
    together = torch.cat([own.reshape(9, -1) for own in predictions], 1)
    torch.testing.assert_close(together, predict(recommender.layout, expected), **CLOSE)
    assert len(graph.outputs) == len(predictions) + 1


@torch.inference_mode()
def test_padding_and_absent_vectors_may_hold_anything() -> None:
    recommender = built("din", LAYOUTS["mixed"])
    batch = draw_batch(recommender.layout, 9, seed=2)
    layout = recommender.layout
    feeds = feeds_of(layout, batch, graph_inputs(layout))
    places = np.arange(feeds["seen"].shape[1])
    feeds["seen"] = np.where(places < feeds["seen.length"][:, None], feeds["seen"], 3)
    feeds["image"] = np.where(feeds["image.present"][:, None], feeds["image"], np.nan)
    feeds["image"] = feeds["image"].astype(np.float32)
    logits = ScoringGraph(recommender)(*(torch.from_numpy(own) for own in feeds.values()))[-1]
    torch.testing.assert_close(logits, recommender(batch), **CLOSE)


@torch.inference_mode()
def test_ids_that_share_rows_are_followed() -> None:
    recommender = built("deepfm", LAYOUTS["ids"])
    tensors = {name: own.clone() for name, own in recommender.to_tensors().items()}
    tensors["tables.user.weight"] = tensors["tables.user.weight"][:5]
    tensors["tables.user.rows"] = torch.tensor([0, 1, 2, 3, 4, 2, 2, 3, 1, 4, 0, 1])
    recommender.load_tensors(tensors)
    batch = draw_batch(recommender.layout, 40, seed=2)
    logits = ScoringGraph(recommender)(*tensors_of(recommender, batch))[-1]
    torch.testing.assert_close(logits, recommender(batch), **CLOSE)


@torch.inference_mode()
def test_towers_multiply_to_the_logit() -> None:
    recommender = built("two-tower", LAYOUTS["mixed"])
    batch = draw_batch(recommender.layout, 9, seed=2)
    layout = recommender.layout
    vectors = []
    for side in SIDES:
        graph = TowerGraph(recommender, side)
        feeds = feeds_of(layout, batch, graph.inputs)
        vectors.append(graph(*(torch.from_numpy(own) for own in feeds.values()))[0])
    torch.testing.assert_close((vectors[0] * vectors[1]).sum(1), recommender(batch)[:, 0], **CLOSE)


@torch.inference_mode()
def test_normalisations_fold_into_the_layers_before_them() -> None:
    recommender = built("deepfm", LAYOUTS["ids"], batch_norm=True)
    for own in recommender.modules():
        if isinstance(own, torch.nn.BatchNorm1d):
            assert own.running_mean is not None
            assert own.running_var is not None
            own.running_mean.copy_(torch.linspace(-1, 1, own.num_features))
            own.running_var.copy_(torch.linspace(0.5, 2, own.num_features))
    folded = traceable(recommender.net)
    assert not any(isinstance(own, torch.nn.BatchNorm1d) for own in folded.modules())
    inputs = recommender.read(draw_batch(recommender.layout, 9, seed=2))
    torch.testing.assert_close(folded(inputs), recommender.net(inputs), **CLOSE)
    assert any(isinstance(own, torch.nn.BatchNorm1d) for own in recommender.net.modules())
