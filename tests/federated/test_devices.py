"""Simulated devices: times by hand, laws of chance, and the same world whoever asks."""

import numpy as np
import pytest

from scalerec.errors import ConfigError
from scalerec.federated.chance import key_of, normals, numbers_of, weighted_draws
from scalerec.federated.devices import Devices, DevicesConfig

MANY = np.arange(20_000)
HOUR = 3600.0


def still(**more: float) -> Devices:
    """Devices that are all alike."""
    config = {"speed_sigma": 0.0, "jitter_sigma": 0.0, "link_sigma": 0.0}
    return Devices(DevicesConfig.from_dict({**config, **more}))


def test_times_by_hand() -> None:
    devices = still(speed=100.0, download=1000.0, upload=500.0, start_s=2.0)
    parties, examples = np.array([4, 9]), np.array([50, 300])
    times = devices.simulate(0, parties, examples, 3000, np.array([1000, 250]))
    assert times.download_s.tolist() == [5.0, 5.0]
    assert times.compute_s.tolist() == [0.5, 3.0]
    assert times.upload_s.tolist() == [2.0, 0.5]
    assert times.spent_s.tolist() == times.arrivals.tolist() == [7.5, 8.5]
    assert not times.dropped.any()
    expected = devices.expected_seconds(parties, examples, 3000, np.array([1000, 250]))
    assert expected.tolist() == [7.5, 8.5]


def test_the_same_whoever_else_is_asked() -> None:
    config = DevicesConfig(on=0.5, swing=0.5, drop_out=0.3, seed=5)
    devices, again = Devices(config), Devices(config)
    some = np.array([70, 3, 11])
    whole = devices.simulate(4, MANY, MANY, 1e5, 1e4)
    part = again.simulate(4, some, some, 1e5, 1e4)
    assert part.spent_s.tolist() == whole.spent_s[some].tolist()
    assert part.dropped.tolist() == whole.dropped[some].tolist()
    on = devices.available(MANY, 5000.0)
    assert again.available(some, 5000.0).tolist() == on[some].tolist()
    later = devices.simulate(5, MANY, MANY, 1e5, 1e4)
    assert (later.dropped != whole.dropped).any()
    assert (later.compute_s[1:] != whole.compute_s[1:]).all()
    other = Devices(config.replace(seed=6)).speeds(MANY)
    assert (other != devices.speeds(MANY)).all()


def test_speeds_are_lognormal() -> None:
    """Of 20,000 draws: mean within 4.5 of its standard errors, deviation within 3%."""
    logs = np.log(Devices(DevicesConfig(speed=50.0, speed_sigma=0.7)).speeds(MANY) / 50.0)
    assert logs.mean() == pytest.approx(0, abs=4.5 * 0.7 / 20_000**0.5)
    assert logs.std() == pytest.approx(0.7, rel=0.03)
    down, up = Devices(DevicesConfig(download=10.0, upload=2.0)).links(MANY)
    assert down == pytest.approx(5 * up)
    assert abs(np.corrcoef(np.log(down), logs)[0, 1]) < 4.5 / 20_000**0.5


def test_drop_outs_come_as_often_as_said_and_spend_a_part() -> None:
    devices = still(drop_out=0.3)
    times = devices.simulate(1, MANY, np.full(20_000, 1000), 0, 0)
    assert times.dropped.mean() == pytest.approx(0.3, abs=4.5 * (0.21 / 20_000) ** 0.5)
    assert np.isinf(times.arrivals).tolist() == times.dropped.tolist()
    whole = float(times.spent_s[~times.dropped][0])
    spent = times.spent_s[times.dropped] / whole
    assert (spent < 1).all()
    assert spent.mean() == pytest.approx(0.5, abs=4.5 * (1 / 12 / len(spent)) ** 0.5)
    often = np.mean(
        [devices.simulate(n, MANY[:50], np.ones(50), 0, 0).dropped for n in range(400)], axis=0
    )
    assert often == pytest.approx(np.full(50, 0.3), abs=4.5 * (0.21 / 400) ** 0.5)


def test_availability_follows_the_hour() -> None:
    """All by one clock: the chance is on (1 + swing cos) of the middle of the hour."""
    devices = Devices(DevicesConfig(on=0.4, swing=0.8, peak_hour=2.0, spread_h=0.0))
    found = [devices.available(MANY, hour * HOUR + 7.0).mean() for hour in range(24)]
    waves = np.cos(2 * np.pi * (np.arange(24) + 0.5 - 2.0) / 24)
    assert found == pytest.approx(0.4 * (1 + 0.8 * waves), abs=4.5 * (0.25 / 20_000) ** 0.5)
    assert np.mean(found) == pytest.approx(0.4, abs=0.01)
    # It stays for the hour, and is drawn anew in the next, also a day later.
    first = devices.available(MANY, 0.0)
    assert np.array_equal(first, devices.available(MANY, 3599.0))
    assert not np.array_equal(first, devices.available(MANY, 24 * HOUR))


def test_own_clocks_flatten_the_day() -> None:
    swings = []
    for spread in (0.0, 3.0, 24.0):
        devices = Devices(DevicesConfig(on=0.5, swing=1.0, spread_h=spread))
        shares = [devices.available(MANY, hour * HOUR).mean() for hour in range(24)]
        swings.append(max(shares) - min(shares))
    assert swings[0] > swings[1] > swings[2]
    assert Devices(DevicesConfig()).available(MANY, 1e6).all()


def test_normals_and_orders_of_chance() -> None:
    found = normals(key_of(1, "test"), MANY, 2)
    assert found.shape == (20_000, 2)
    assert found.mean(axis=0) == pytest.approx([0, 0], abs=4.5 / 20_000**0.5)
    assert found.std(axis=0) == pytest.approx([1, 1], rel=0.03)
    assert abs(np.asarray(np.corrcoef(found.T))[0, 1]) < 4.5 / 20_000**0.5
    assert key_of(1, "a", 2) != key_of(1, "b", 2)
    weights = np.log(np.array([1.0, 2.0, 7.0]))
    first = [weighted_draws(weights, 2, numbers_of(0, "test", n))[0] for n in range(4000)]
    shares = np.bincount(first) / 4000
    assert shares == pytest.approx([0.1, 0.2, 0.7], abs=4.5 * (0.25 / 4000) ** 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": 0.0}, "speed must be above 0 and finite; got 0"),
        ({"upload": float("nan")}, "upload must be above 0 and finite; got nan"),
        ({"link_sigma": -0.1}, "link_sigma must be from 0 to 5; got -0.1"),
        ({"peak_hour": 25.0}, "peak_hour must be from 0 to 24; got 25"),
        ({"on": 0.0}, "on must be above 0 and at most 1; got 0"),
        ({"drop_out": 1.0}, "drop_out must be at least 0 and below 1; got 1"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_words(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DevicesConfig.from_dict(settings)
