"""Modules that give new ids rows: by hand, in a recommender, and the words of errors."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch

from scalerec.errors import ConfigError
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.warming import Pace, RowGenerator, RowScaler, WarmUp, build_warmer

ITEMS = WarmUp(key="item", features=("price", "genres", "image"))
SCALED = WarmUp(
    key="item", features=("genres",), method="mwuf", partner="user", hidden=(4,), steps=2
)


def spec_with(*warm_ups: WarmUp) -> ModelSpec:
    settings = {"dim": 4, "hidden": [6]}
    return ModelSpec(model="deepfm", settings=settings, warm_ups=warm_ups)


@torch.no_grad()
def test_a_generated_row_by_hand(generator: torch.Generator) -> None:
    own = RowGenerator(2, 3, (), generator)
    (layer,) = own.layers
    assert isinstance(layer, torch.nn.Linear)
    layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    own.centre.copy_(torch.tensor([0.0, 1.0, 2.0]))
    own.scale.copy_(torch.tensor([1.0, 0.5, 9.0]))
    rows = own(torch.tensor([[math.log(3.0), -math.log(3.0)]]))
    # tanh(log 3) = (3 - 1/3) / (3 + 1/3) = 0.8
    torch.testing.assert_close(rows, torch.tensor([[0.8, 1.0 - 0.4, 2.0]]))


def test_a_generator_starts_at_the_mean_and_keeps_to_the_range(
    generator: torch.Generator,
) -> None:
    own = RowGenerator(5, 3, (7,), generator)
    known = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, -1.0], [4.0, 1.0, 2.0]])
    own.fit_range(known)
    features = torch.randn(20, 5, generator=generator) * 100
    torch.testing.assert_close(own(features), torch.tensor([[2.0, 1.0, 2.0]]).expand(20, 3))
    last = own.layers[2]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, generator=generator)
    gaps = (own(features).detach() - known.mean(0)).abs()
    assert bool((gaps <= torch.tensor([2.0, 0.0, 3.0])).all())
    assert float(gaps.sum()) > 0


@torch.no_grad()
def test_a_scaled_row_by_hand(generator: torch.Generator) -> None:
    own = RowScaler(1, 3, 1, generator)
    for net, bias in ((own.scaling, 0.5), (own.shifting, 0.25)):
        first, last = net[0], net[2]
        assert isinstance(first, torch.nn.Linear)
        assert isinstance(last, torch.nn.Linear)
        first.weight.fill_(1.0)
        last.weight.fill_(2.0)
        last.bias.fill_(bias)
    rows = own(torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0, -4.0]]))
    # Scaled by 1 + 2 * 3 + .5; the partners' sum is below 0, so the shift is its bias.
    torch.testing.assert_close(rows, torch.tensor([[7.75, 15.25, -7.25]]))


def test_a_scaler_starts_by_doing_nothing(generator: torch.Generator) -> None:
    own = RowScaler(2, 4, 16, generator)
    own.fit_range(torch.tensor([[0.0, 2.0, 4.0, 1.0], [2.0, 2.0, 0.0, 0.0]]))
    cold = own.cold(3)
    assert cold.tolist() == [[1.0, 2.0, 2.0, 0.5]] * 3
    noise = torch.randn(3, 5, generator=generator)
    assert torch.equal(own(cold, noise[:, :2], noise[:, 2:]), cold)


def test_a_pace_by_hand() -> None:
    pace = Pace(2)
    pace.fill(0.4, 3.0)
    rates = pace(torch.tensor([0, 1, 9])).detach()
    # 0 / 3, 1 / 4 and 9 / 12 of the rate.
    torch.testing.assert_close(rates, torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.3, 0.3]]))


def test_without_a_prior_numbers_do_not_matter() -> None:
    pace = Pace(1)
    pace.fill(0.5, 0.0)
    rates = pace(torch.tensor([0, 1, 50]))
    torch.testing.assert_close(rates.detach().flatten(), torch.tensor([0.0, 0.5, 0.5]))
    rates.sum().backward()
    assert pace.log_prior.grad is not None
    assert float(pace.log_prior.grad) == 0.0


def test_places_in_the_layout() -> None:
    layout = LAYOUTS["mixed"]
    # Fields in order: user, item, day, age, price, genres, seen, image.
    assert ITEMS.places(layout) == [4, 5, 7]
    assert (ITEMS.field(layout), SCALED.partner_field(layout)) == (1, 0)


def test_a_recommender_scores_as_without(generator: torch.Generator) -> None:
    bare = build_recommender(LAYOUTS["mixed"], spec_with(), 1)
    own = build_recommender(LAYOUTS["mixed"], spec_with(ITEMS), 1)
    batch = draw_batch(LAYOUTS["mixed"], 9, generator)
    assert torch.equal(bare.eval()(batch), own.eval()(batch))
    assert own.dense_parameters().keys() == bare.dense_parameters().keys()
    assert not any(parameter.requires_grad for parameter in own.warmers.parameters())


@pytest.mark.parametrize("warm_up", [ITEMS, SCALED])
def test_its_tensors_travel(warm_up: WarmUp, generator: torch.Generator) -> None:
    spec = ModelSpec.from_dict(spec_with(warm_up).to_dict())
    assert spec == spec_with(warm_up)
    one = build_recommender(LAYOUTS["mixed"], spec, 1)
    for tensor in one.warmers.state_dict().values():
        tensor.normal_(generator=generator)
    other = Recommender(LAYOUTS["mixed"], spec, generator, draw_tables=False)
    other.load_tensors(one.to_tensors())
    names = one.warmers.state_dict()
    assert "0.pace.log_rates" in names
    assert all(torch.equal(names[n], own) for n, own in other.warmers.state_dict().items())


def test_a_spec_without_says_nothing_of_it() -> None:
    assert "warm_ups" not in spec_with().to_dict()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"features": ()}, "a row for 'item' needs features to be generated from"),
        ({"features": ("item",)}, "a row for 'item' cannot be generated from the key itself"),
        ({"hidden": (0,)}, r"hidden must hold sizes of at least 1; got \(0,\)"),
        ({"steps": -1}, "steps must be at least 0; got -1"),
        ({"partner": "user"}, "partner belongs to method 'mwuf', which needs one"),
        ({"method": "mwuf"}, "partner belongs to method 'mwuf', which needs one"),
        ({"method": "mwuf", "partner": "user"}, r"one hidden layer in each net; got hidden=\(\)"),
    ],
)
def test_wrong_settings(values: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        WarmUp(**{"key": "item", "features": ("genres",), **values})


def test_fields_that_are_not_there(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="rows for 'item' need field 'price', which is left out"):
        build_warmer(ITEMS, LAYOUTS["ids"], 4, generator)
    shop = WarmUp(key="shop", features=("genres",))
    with pytest.raises(ConfigError, match=r"needs the id field 'shop'; the layout has \['user'"):
        build_warmer(shop, LAYOUTS["mixed"], 4, generator)
    with pytest.raises(ConfigError, match="warm_ups: one a key; got keys item, item"):
        spec_with(ITEMS, SCALED)
