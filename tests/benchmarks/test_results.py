"""Results have the promised form, and the page that shows them is theirs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_has_the_promised_form(path: Path) -> None:
    result = json.loads(path.read_text("utf-8"))
    assert {"date", "machine", "versions", "command", "seeds", "figures", "claims"} <= set(result)
    assert {"processor", "cores", "memory"} <= set(result["machine"])
    for name, value in result["figures"].items():
        good = isinstance(value, int | float) or {"median", "min", "max", "n"} <= set(value)
        assert good, name
    for claim in result["claims"]:
        assert {"name", "value", "bar", "holds"} <= set(claim)
        assert isinstance(claim["holds"], bool)


def test_the_page_is_generated_from_the_results() -> None:
    script = ROOT / "benchmarks" / "docs.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_there_are_results() -> None:
    assert RESULTS
