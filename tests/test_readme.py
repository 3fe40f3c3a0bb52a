"""The README's Python example runs as it is written, and so does the schema it shows."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scalerec.data.schema import Schema

README = Path(__file__).parents[1] / "README.md"


def block(language: str, number: int = 0) -> str:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    return found[number]


def test_the_python_example_runs(
    public_data: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    public_data("ml-100k")
    monkeypatch.chdir(tmp_path)
    code = block("python")
    assert len(code.strip().splitlines()) < 10
    exec(compile(code, str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert 0.6 < float(lines[0]) < 0.8
    assert [line.split()[0] for line in lines[1:]] == [str(rank) for rank in range(1, 11)]


def test_the_schema_it_shows_is_one(tmp_path: Path) -> None:
    (tmp_path / "ratings.toml").write_text(block("toml"))
    schema = Schema.from_toml(tmp_path / "ratings.toml")
    assert [feature.name for feature in schema.features] == ["user_id", "item_id", "history"]
    assert schema.tasks[0].at_least == 4.0
