"""What a search tries: default spaces, and the words for what it cannot try."""

import random
from typing import Any

import pytest

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.zoo import ZOO
from scalerec.tune import Choice, Range, make_plan, read_space
from scalerec.tune.defaults import default_space
from scalerec.tune.space import Domain


def drawn(domain: Domain, numbers: random.Random) -> Any:
    if isinstance(domain, Choice):
        return numbers.choice(domain.values)
    if domain.whole:
        return numbers.randrange(int(domain.low), int(domain.high) + 1, int(domain.step) or 1)
    return numbers.uniform(domain.low, domain.high)


@pytest.mark.parametrize("model", ZOO)
def test_every_net_has_a_space_whose_combinations_all_fit(rated: Dataset, model: str) -> None:
    plan = make_plan(rated, [model], {}, None)
    space = plan.spaces[model]
    assert {"dense.lr", "tables.lr", "tables.l2", "batch_size"} <= set(space)
    numbers = random.Random(model)
    for _ in range(50):
        plan.run(model, {name: drawn(domain, numbers) for name, domain in space.items()})


@pytest.mark.parametrize("model", ["deepfm", "dcn-v2", "din", "mmoe", "ple", "two-tower", "fm"])
def test_a_default_space_holds_the_defaults(rated: Dataset, model: str) -> None:
    plan = make_plan(rated, [model], {}, None)
    defaults = plan.defaults(model)
    assert defaults is not None
    assert set(defaults) == set(plan.spaces[model])
    (spec, config), (plain, plain_config) = plan.run(model, defaults), plan.run(model, {})
    assert spec.net_config() == plain.net_config()
    assert (spec.init_std, config) == (plain.init_std, plain_config)


def test_the_size_of_the_data_bounds_the_batches() -> None:
    for num_rows, smallest, largest in ((200_000, 256, 4096), (20_000_000, 4096, 65_536)):
        domain = default_space("deepfm", num_rows)["batch_size"]
        assert isinstance(domain, Choice)
        assert (min(domain.values), max(domain.values)) == (smallest, largest)


def test_what_is_fixed_is_not_searched(rated: Dataset) -> None:
    fixed = {"dense": {"lr": 0.01}, "model": {"dim": 4}, "epochs": 2}
    plan = make_plan(rated, ["deepfm"], fixed, None)
    assert not {"dense.lr", "model.dim"} & set(plan.spaces["deepfm"])
    spec, config = plan.run("deepfm", {"model.dropout": 0.5, "tables.lr": 0.1})
    assert spec.settings == {"dim": 4, "dropout": 0.5}
    assert (config.dense.lr, config.tables.lr, config.epochs) == (0.01, 0.1, 2)


def test_each_of_several_models_gets_what_is_its_own(rated: Dataset) -> None:
    fixed = {"model": {"num_layers": 2, "dim": 4}, "init_std": 0.05}
    space = read_space({"model": {"hidden": [[8], [16]]}, "dense": {"lr": "1e-3..1e-2:log"}})
    plan = make_plan(rated, ["fm", "dcn-v2"], fixed, space)
    assert list(plan.spaces["fm"]) == ["dense.lr"]
    assert list(plan.domains()) == ["model", "dense.lr", "dcn-v2:model.hidden"]
    assert plan.run("fm", {})[0].settings == {"dim": 4}
    assert plan.run("dcn-v2", {})[0].settings == {"num_layers": 2, "dim": 4}
    assert plan.run("fm", {})[0].init_std == 0.05


def test_settings_may_need_the_space_beside_them(rated: Dataset) -> None:
    """AutoInt has no tower until it is given one, and dropout belongs to the tower."""
    space = {"model.hidden": Choice(([8], [16]))}
    plan = make_plan(rated, ["autoint"], {"model": {"dropout": 0.2}}, space)
    assert plan.defaults("autoint") is None


@pytest.mark.parametrize(
    ("models", "fixed", "space", "says"),
    [
        (["deepfn"], {}, None, "model must be one of lr, fm"),
        (["fm", "fm"], {}, None, "model 'fm' is given 2 times"),
        ([], {}, None, "at least one model is needed"),
        (["fm"], {"epohcs": 1}, None, "unknown setting 'epohcs'; did you mean 'epochs'?"),
        (
            ["fm"],
            {"model": {"hidden": [8]}},
            None,
            "unknown setting 'model.hidden'; fm has: dim, embedding_dropout",
        ),
        (
            ["fm", "lr"],
            {},
            {"model.hidden": Choice(([8], [9]))},
            "unknown setting 'model.hidden'; fm, lr have: dim, embedding_dropout",
        ),
        (
            ["fm"],
            {"dense": {"lr": 0.1}},
            {"dense.lr": Range(0.1, 1.0)},
            "dense.lr: is fixed and searched; give it once",
        ),
        (
            ["deepfm"],
            {},
            {"model.dropout": Range(1.5, 2.5)},
            "the space of model.dropout has no value that is allowed: model deepfm: dropout must "
            "be in [0, 1); got 1.5",
        ),
        (["fm"], {}, {"dense.rate": Range(0.1, 1.0)}, "unknown setting 'rate'"),
        (["deepfm"], {"model": {"dropout": 3.0}}, None, "dropout must be in [0, 1); got 3.0"),
        (["fm"], {"model": "deepfm"}, None, "names go in --model"),
        (
            ["deepfm", "fm"],
            {},
            {"model.hidden": Choice(([8], [9]))},
            "nothing is left to search for fm",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(
    rated: Dataset, models: list[str], fixed: dict[str, Any], space: Any, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(rated, models, fixed, space)
    assert says in str(caught.value)
