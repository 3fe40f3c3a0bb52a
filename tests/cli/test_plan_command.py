"""`scalerec plan` as a person and as a program use it."""

import json
from pathlib import Path

import pytest

from scalerec.cli import main
from scalerec.data.dataset import Dataset

HALF = ("--set", "tables.weights=fp16")
LIGHT = ("--set", "tables.optimiser=rowwise_adagrad", "--set", "patience=-1")


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["plan", *words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_plan_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    many = ("--rows", "1e9", "--dim", "15", "--nodes", "16", "--link", "25Gbit", "--memory")
    found = planned(capsys, *many, "64GiB", "--examples", "1e9", "--price", "2", *LIGHT)
    memory = found["memory_per_process_bytes"]
    assert isinstance(memory, dict)
    # A sixteenth of 10^9 rows of 16 numbers.
    assert memory["rows of tables"] == pytest.approx(1e9 / 16 * 64)
    assert memory["state of rows"] == pytest.approx(1e9 / 16 * 4)
    assert memory["best weights so far"] == 0
    assert found["fits"] is True
    assert found["processes"] == 16
    assert found["batch_size"] == 16 * 4096
    step = found["step_s"]
    assert isinstance(step, dict)
    assert found["epoch_s"] == pytest.approx(1e9 / (16 * 4096) * step["total"])
    assert found["price"] == pytest.approx(16 * 2 * 1e9 / (16 * 4096) * step["total"] / 3600)
    half = planned(capsys, *many, "64GiB", *LIGHT, *HALF)
    short = half["memory_per_process_bytes"]
    assert isinstance(short, dict)
    assert short["rows of tables"] == memory["rows of tables"] / 2


def test_a_person_sees_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rows", "1e9", "--dim", "64", "--nodes", "2", "--memory", "32GiB", "--link", "1Gbit"]
    assert main(["plan", *words, *LIGHT]) == 0
    seen = capsys.readouterr().out
    for text in (
        "26 with 1e9 rows of 65 numbers; 26 kept by row",
        "sent by a process in a step",
        "what binds",
        "does not fit",
        "the fewest nodes that hold it are",
        "tables.weights=fp16",
    ):
        assert text in seen


def test_tables_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    tables = ("--table", "user=1e8", "--table", "item=2e6:3", "--table", "hour=24")
    words = (*tables, "--nodes", "4", "--set", "distributed.sharding=auto", *LIGHT)
    found = planned(capsys, *words)
    assert found["placements"] == {"user": "row", "item": "row", "hour": "table:0"}
    assert found["rows"] == 102_000_024


def test_a_data_set_tells_what_a_batch_reads(
    simulated: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", str(simulated.directory), "--nodes", "2", "--set", "batch_size=128", *LIGHT)
    found = planned(capsys, *words)
    assert found["rows"] == sum(simulated.layout.tables.values())
    reads = found["distinct_rows_per_step"]
    assert isinstance(reads, float)
    assert 0 < reads <= sum(simulated.layout.tables.values())
    assert isinstance(found["epoch_s"], float)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "a plan needs tables: give one of --rows, --table or --data"),
        (("--rows", "1e9x"), "--rows must be a number such as 1e9 or 40M; got '1e9x'"),
        (("--rows", "1e6", "--link", "25"), "--link must be a rate with its unit, such as 25Gbit"),
        (("--rows", "1e6", "--memory", "64"), "--memory must be a size with its unit"),
        (("--table", "user"), "--table needs NAME=ROWS or NAME=ROWS:IDS, each name once"),
        (("--table", "a=2", "--table", "a=3"), "each name once; got 'a=3'"),
        (("--rows", "1e6", "--set", "distributed.shard=row"), "unknown setting 'shard'"),
        (("--rows", "1e6", "--set", "model.dmi=3"), "unknown setting 'dmi'; did you mean 'dim'?"),
        (("--rows", "1e6", "--model", "fn"), "model must be one of lr, fm"),
        (("--rows", "1e6", "--machine", "none.json"), "none.json: not a file of a machine's"),
        (("--rows", "1e6", "--overlap", "3"), "overlap must be in [0, 1]; got 3.0"),
        (("--calibrate", "a", "--machine", "b"), "--calibrate measures what --machine would read"),
    ],
)
def test_wrong_use_is_one_line(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["plan", *words]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: ")
    assert says in seen.err


def test_constants_are_shown_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scalerec.distributed.planning import calibrate, read_machine, stored_machine

    monkeypatch.setattr(calibrate, "calibrate", lambda tell: stored_machine())
    path = tmp_path / "here.json"
    assert main(["plan", "--calibrate", str(path)]) == 0
    assert "net_gflops.bf16" in capsys.readouterr().out
    assert read_machine(path) == stored_machine()
