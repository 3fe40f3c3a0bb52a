"""Attachments name their bundle and leave it as it is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scalerec.bundle import Bundle, Contents, read_bundle, write_bundle
from scalerec.bundle import attachments as module
from scalerec.errors import BundleError, ConfigError


@pytest.fixture
def bundle(tmp_path: Path, make_contents: Callable[..., Contents]) -> Bundle:
    return write_bundle(tmp_path / "b", make_contents())


def test_attaching_does_not_change_the_bundle(bundle: Bundle) -> None:
    manifest = (bundle.path / "manifest.json").read_bytes()
    path = bundle.attach("evaluation.json", {"metrics": {"auc": 0.75}})
    bundle.attach("report.html", b"<p>\xff")
    found = read_bundle(bundle.path)
    assert found.digest == bundle.digest
    assert (bundle.path / "manifest.json").read_bytes() == manifest
    assert path == bundle.path / "attachments" / "evaluation.json"
    assert found.attachment_json("evaluation.json") == {
        "bundle": bundle.digest,
        "metrics": {"auc": 0.75},
    }
    assert found.attachment("report.html") == b"<p>\xff"
    assert {name: entry.size for name, entry in found.attachments().items()} == {
        "evaluation.json": path.stat().st_size,
        "report.html": 4,
    }


def test_none_at_first(bundle: Bundle) -> None:
    assert bundle.attachments() == {}
    with pytest.raises(BundleError, match=r"has no attachment 'x.json'; it has: none"):
        bundle.attachment("x.json")


def test_a_taken_name(bundle: Bundle) -> None:
    bundle.attach("a.json", {"x": 1})
    with pytest.raises(BundleError, match=r"a.json: exists; pass overwrite=True"):
        bundle.attach("a.json", {"x": 2})
    bundle.attach("a.json", {"x": 2}, overwrite=True)
    assert bundle.attachment_json("a.json")["x"] == 2


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "", ".hidden", "index.json", "a b", "ä", "x" * 129]
)
def test_names_that_are_not_allowed(bundle: Bundle, name: str) -> None:
    with pytest.raises(ConfigError, match="the name of an attachment must be letters"):
        bundle.attach(name, b"")
    assert not (bundle.path / "attachments").exists()


def test_values_that_are_not_allowed(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"the name of a JSON attachment ends in .json; got 'a'"):
        bundle.attach("a", {})
    with pytest.raises(ConfigError, match=r"a.json.auc must be a finite number; got nan"):
        bundle.attach("a.json", {"auc": float("nan")})
    with pytest.raises(ConfigError, match=r"a.json names the bundle other; it is attached to"):
        bundle.attach("a.json", {"bundle": "other"})


def test_a_changed_attachment(bundle: Bundle) -> None:
    path = bundle.attach("a.json", {"auc": 0.75})
    path.write_text(path.read_text().replace("0.75", "0.99"))
    with pytest.raises(BundleError, match=r"a.json: was changed: its SHA-256 is"):
        bundle.attachment_json("a.json")
    path.unlink()
    with pytest.raises(BundleError, match=r"a.json: is missing"):
        bundle.attachment("a.json")
    read_bundle(bundle.path)  # the bundle itself is whole


def test_a_changed_index(bundle: Bundle) -> None:
    bundle.attach("a.json", {})
    path = bundle.path / "attachments" / "index.json"
    good = path.read_bytes()
    path.write_bytes(good[:40])
    with pytest.raises(BundleError, match=r"index.json: not valid JSON, so it was cut short"):
        bundle.attachments()
    path.write_bytes(good.replace(b"a.json", b"b.json"))
    with pytest.raises(BundleError, match=r"index.json: was changed: its seal is"):
        bundle.attachments()


def test_attachments_of_another_bundle(
    bundle: Bundle, tmp_path: Path, make_contents: Callable[..., Contents]
) -> None:
    other = write_bundle(tmp_path / "other", make_contents(layout={}))
    bundle.attach("a.json", {"auc": 0.75})
    shutil.copytree(bundle.path / "attachments", other.path / "attachments")
    words = f"index.json: belongs to the bundle {bundle.digest}, not to {other.digest}"
    with pytest.raises(BundleError, match=words):
        other.attachments()
    with pytest.raises(BundleError, match=words):
        other.attach("b.json", {})


def test_bytes_that_are_no_json_table(bundle: Bundle) -> None:
    bundle.attach("text.json", b"{")
    bundle.attach("list.json", b"[]")
    with pytest.raises(BundleError, match=r"attachment 'text.json' is not JSON"):
        bundle.attachment_json("text.json")
    with pytest.raises(BundleError, match=r"attachment 'list.json' is not a JSON table"):
        bundle.attachment_json("list.json")


def test_links_are_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.attach("a.json", {})
    shutil.move(path, tmp_path / "a.json")
    path.symlink_to(tmp_path / "a.json")
    with pytest.raises(BundleError, match="a link that leaves the directory"):
        bundle.attachment("a.json")
    shutil.move(bundle.path / "attachments", tmp_path / "attachments")
    (bundle.path / "attachments").symlink_to(tmp_path / "attachments")
    with pytest.raises(BundleError, match="attachments: is a link"):
        bundle.attach("b.json", {})


def test_a_kill_while_replacing_leaves_nothing_wrong(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.attach("a.json", {"x": 1})
    bundle.attach("b.json", {"x": 1})
    real = module._replace
    for moment in range(3):
        left = moment

        def stop(path: Path, content: bytes) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            real(path, content)

        monkeypatch.setattr(module, "_replace", stop)
        with pytest.raises(KeyboardInterrupt):
            bundle.attach("a.json", {"x": 2}, overwrite=True)
        monkeypatch.undo()
        for name in bundle.attachments():
            assert bundle.attachment_json(name)["x"] == 1
        bundle.attach("a.json", {"x": 1}, overwrite=True)


def test_a_full_disk(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_file", fail)
    with pytest.raises(BundleError, match=r"a.json: cannot be written: No space left on device"):
        bundle.attach("a.json", {})
    assert not [*(bundle.path / "attachments").iterdir()]
