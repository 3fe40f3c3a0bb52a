"""The constants of machines: stored, read, written, measured."""

from pathlib import Path

import pytest
from tests.distributed.planning.jobs import MACHINE

from scalerec.distributed.planning import Machine, read_machine, stored_machine, write_machine
from scalerec.distributed.planning.calibrate import _fit, disk_rates, parameter_ns
from scalerec.errors import ConfigError


def test_the_stored_machine_is_whole() -> None:
    found = stored_machine()
    assert found.cores == 2
    assert found.product_gflops["bf16"] > found.product_gflops["fp32"] > 1


def test_a_machine_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    write_machine(path, MACHINE)
    assert read_machine(path) == MACHINE


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: not a file of a machine's constants"):
        read_machine(tmp_path / "none.json")
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match="must hold one JSON object; got list"):
        read_machine(path)
    path.write_text('{"name": "x"}')
    with pytest.raises(ConfigError, match="setting 'date' is missing"):
        read_machine(path)
    with pytest.raises(ConfigError, match="net_gflops must hold fp32 and bf16; got fp32"):
        Machine.from_dict({**MACHINE.to_dict(), "net_gflops": {"fp32": 1.0}})


def test_costs_are_fitted_and_none_is_negative() -> None:
    facts = [[1.0, 10.0], [2.0, 5.0], [3.0, 1.0]]
    assert _fit(facts, [21.0, 12.0, 5.0]) == pytest.approx([1.0, 2.0])
    found = _fit([[1.0, 10.0], [1.0, 1.0]], [10.0, 0.5])
    assert found[0] == 0.0
    assert found[1] > 0
    assert _fit(facts, [-1.0, -2.0, -3.0], [1.0, 1.0, 1.0]).tolist() == [0.0, 0.0]
    # Held against its scale, the last time counts for nothing.
    found = _fit(facts, [21.0, 12.0, 50.0], [1.0, 1.0, 1e9])
    assert found == pytest.approx([1.0, 2.0])


def test_measured_rates_are_positive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalerec.distributed.planning import calibrate

    monkeypatch.setattr(calibrate, "DISK_BYTES", 2**16)
    assert all(rate > 0 for rate in disk_rates(tmp_path).values())
    monkeypatch.setattr(calibrate, "ROUNDS", 1)
    assert parameter_ns() > 0
