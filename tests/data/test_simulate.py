"""The simulated world is what its settings say, and its truth is a ceiling."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scalerec.data.problems import Problems
from scalerec.data.schema import Schema
from scalerec.data.simulate import Simulated, SimulatorConfig, simulate
from scalerec.data.sources import open_source
from scalerec.errors import ConfigError


@pytest.fixture(scope="module")
def world() -> Simulated:
    return simulate(SimulatorConfig(num_events=100_000, num_users=500, num_items=200))


def events(simulated: Simulated, column: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = simulated.events.column(column).to_numpy()
    return values


def test_the_seed_decides_everything() -> None:
    config = SimulatorConfig(num_events=500)
    one, same, other = simulate(config), simulate(config), simulate(config.replace(seed=1))
    assert (one.events, one.users, one.items) == (same.events, same.users, same.items)
    assert np.array_equal(one.truth()["click"], same.truth()["click"])
    assert one.events != other.events


def test_labels_follow_the_true_probabilities(world: Simulated) -> None:
    truth = world.truth()
    for task in ("click", "conversion"):
        label, probability = events(world, task), truth[task]
        # In every tenth of the scores the mean label is the mean probability, to 4 deviations.
        for part in np.array_split(np.argsort(probability), 10):
            deviation = np.sqrt(np.mean(probability[part] * (1 - probability[part])) / len(part))
            assert abs(label[part].mean() - probability[part].mean()) < 4 * deviation
    assert np.array_equal(truth["conversion"], truth["click"] * truth["conversion_given_click"])
    assert not np.any(events(world, "conversion") & (1 - events(world, "click")))


def test_rates_come_out_as_asked(world: Simulated) -> None:
    truth = world.truth()
    assert truth["click"].mean() == pytest.approx(0.2, abs=1e-6)
    rate = np.average(truth["conversion_given_click"], weights=truth["click"])
    assert rate == pytest.approx(0.3, abs=1e-6)


def test_the_truth_is_a_ceiling(world: Simulated) -> None:
    label, item = events(world, "click"), events(world, "item_id")
    truth = world.truth()["click"]
    ceiling = roc_auc_score(label, truth)
    half = len(label) // 2
    seen = np.bincount(item[:half], minlength=201)
    rate = (np.bincount(item[:half], label[:half], minlength=201) + 0.2) / (seen + 1)
    by_item = roc_auc_score(label[half:], rate[item[half:]])
    assert 0.5 < by_item < ceiling - 0.1
    noise = np.random.default_rng(0).normal(size=len(truth))
    assert roc_auc_score(label, truth + 0.1 * noise) < ceiling
    rows = np.array([5, 3])
    assert world.truth(rows)["click"].tolist() == truth[rows].tolist()


def test_popularity_has_a_long_tail() -> None:
    # One domain, no late items: the share of rank r is that of Zipf's law, 1/r over their sum.
    settings = {"num_items": 100, "num_domains": 1, "cold_items": 0.0, "num_events": 100_000}
    simulated = simulate(SimulatorConfig.from_dict(settings))
    counts = np.sort(np.bincount(events(simulated, "item_id"), minlength=101)[1:])[::-1]
    expected = 1 / np.arange(1, 101) / np.sum(1 / np.arange(1, 101))
    assert counts[:10] / 1e5 == pytest.approx(expected[:10], rel=0.05)
    flat = simulate(SimulatorConfig.from_dict({**settings, "popularity": 0.0}))
    counts = np.bincount(events(flat, "item_id"), minlength=101)[1:]
    assert counts.min() > 800


def test_cold_users_and_items_come_late(world: Simulated) -> None:
    time = events(world, "time")
    assert np.all(np.diff(time) >= 0)
    border = 1_700_000_000 + 0.7 * 30 * 86_400
    for column, cold in (("user_id", world.cold_users), ("item_id", world.cold_items)):
        is_cold = np.isin(events(world, column), cold)
        assert 10 < len(cold) < 100
        assert is_cold.any()
        assert time[is_cold].min() >= border - 1
    assert time.max() < 1_700_000_000 + 30 * 86_400


def test_positions_bias_clicks_only_if_asked(world: Simulated) -> None:
    def rates(simulated: Simulated) -> NDArray[np.float64]:
        position, click = events(simulated, "position"), simulated.truth()["click"]
        return np.bincount(position, click) / np.bincount(position)

    assert np.all(np.diff(rates(world)) < 0)
    flat = rates(simulate(SimulatorConfig(num_events=100_000, position_bias=0.0)))
    assert flat.max() - flat.min() < 0.02


def test_tastes_drift(world: Simulated) -> None:
    def agreement(drift: float) -> float:
        """Correlation of a pair's logits over the halves of the period."""
        config = SimulatorConfig(
            num_users=20, num_items=20, num_events=100_000, drift=drift, cold_items=0, cold_users=0
        )
        simulated = simulate(config.replace(num_positions=1))
        pair = events(simulated, "user_id") * 21 + events(simulated, "item_id")
        logit = np.log(simulated.truth()["click"] / (1 - simulated.truth()["click"]))
        ends = [slice(0, 20_000), slice(80_000, None)]
        means = []
        for end in ends:
            count = np.bincount(pair[end], minlength=21 * 21)
            means.append(
                np.bincount(pair[end], logit[end], minlength=21 * 21) / np.maximum(count, 1)
            )
        both = (means[0] != 0) & (means[1] != 0)
        return float(np.corrcoef(means[0][both], means[1][both])[0, 1])

    assert agreement(0.0) > 0.999
    assert agreement(1.0) < agreement(0.3) - 0.1


def test_vectors_carry_taste_and_some_are_missing(world: Simulated) -> None:
    items = world.items.to_pylist()
    for name in ("image", "text"):
        missing = sum(item[name] is None for item in items)
        assert 5 < missing < 45  # 10 % of 200, to 3.5 deviations
        assert {len(item[name]) for item in items if item[name] is not None} == {16}
    # Items of one domain share a part of their taste, so their images agree more.
    there = [item for item in items if item["image"] is not None]
    view = np.array([item["image"] for item in there])
    view -= view.mean(axis=0)
    same = np.array([[a["domain"] == b["domain"] for b in there] for a in there])
    assert (view @ view.T)[same].mean() > (view @ view.T)[~same].mean() + 1


def test_items_have_names_and_domains(world: Simulated) -> None:
    item = world.items.to_pylist()[11]
    assert item["title"] == "Item 12 of domain music"
    assert set(world.items.column("domain").to_pylist()) == {"books", "films", "music"}
    many = simulate(SimulatorConfig(num_domains=8, num_events=10))
    assert many.items.column("domain")[7].as_py() == "domain 7"


def test_raw_data_fits_its_schema(world: Simulated) -> None:
    raw = world.raw()
    assert [task.name for task in raw.schema.tasks] == ["click", "conversion"]
    sources = {"events": raw.splits["all"], "users": raw.users, "items": raw.items}
    for table in ("events", "users", "items"):
        source = sources[table]
        assert source is not None
        wanted = tuple(feature.source for feature in raw.schema.of_table(table))
        assert next(iter(source.chunks(wanted, Problems()))).table.num_columns == len(wanted)
    bare = simulate(SimulatorConfig(num_events=10, image_dim=0, text_dim=0))
    assert not {"image", "text"} & {feature.name for feature in bare.schema.features}
    assert not {"image", "text"} & set(bare.items.column_names)


def test_what_is_written_can_be_read(tmp_path: Path, world: Simulated) -> None:
    path = world.write(tmp_path / "out")
    assert {file.name for file in path.parent.iterdir()} == {
        *("events.parquet", "users.parquet", "items.parquet", "truth.parquet", "schema.toml"),
    }
    schema = Schema.from_toml(path.parent / "schema.toml")
    assert schema == world.schema
    assert pq.read_table(path) == world.events
    truth = pq.read_table(path.parent / "truth.parquet")
    assert truth.column("click").to_numpy().tolist() == world.truth()["click"].tolist()
    assert open_source(path.parent / schema.tables["items"].file).columns[1] == "title"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_users": 1}, "num_users must be at least 2; got 1"),
        ({"num_items": 5}, "num_items must be at least 6; got 5"),
        ({"click_rate": 1.0}, r"click_rate must be in \(0, 1\); got 1.0"),
        ({"drift": 1.5}, r"drift must be in \[0, 1\]; got 1.5"),
        ({"cold_items": 1.0}, r"cold_items must be in \[0, 1\); got 1.0"),
        ({"nmu_users": 3}, "unknown setting 'nmu_users'; did you mean 'num_users'"),
    ],
)
def test_impossible_worlds_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SimulatorConfig.from_dict(settings)
