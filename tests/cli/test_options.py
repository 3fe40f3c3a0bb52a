"""How settings are read, and which options there are."""

from pathlib import Path

import pytest
import typer

from scalerec.cli.main import app
from scalerec.cli.options import merge, read_config, read_settings
from scalerec.errors import ConfigError

OPTIONS = Path(__file__).with_name("options.txt")


def test_settings_nest_and_keep_their_types() -> None:
    words = ["a.b.c=1", "a.b.d=2.5", "a.e=true", 'f="x"', "g=plain", "h=[1, 2]"]
    expected = {"a": {"b": {"c": 1, "d": 2.5}, "e": True}, "f": "x", "g": "plain", "h": [1, 2]}
    assert read_settings(words) == expected


def test_a_setting_cannot_be_a_value_and_a_table() -> None:
    with pytest.raises(ConfigError, match="'a' has a value already"):
        read_settings(["a=1", "a.b=2"])


def test_merge_is_table_by_table() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"c": 4}}, {"d": 5}) == {"a": {"b": 1, "c": 4}, "d": 5}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_a_settings_file_must_be_there_and_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("epochs =")
    with pytest.raises(ConfigError, match="not TOML"):
        read_config(tmp_path / "bad.toml")


def test_the_list_of_options_is_frozen() -> None:
    """Taking an option away breaks somebody's script: change `options.txt` in its own commit."""
    group = typer.main.get_command(app)
    context = typer.Context(group)
    lines = []
    for verb in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, verb)  # type: ignore[attr-defined]
        for parameter in command.params:
            lines.append(f"{verb} {' '.join(parameter.opts)}")
    assert OPTIONS.read_text().splitlines() == sorted(lines)
