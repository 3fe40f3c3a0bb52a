"""Every bundle that is incomplete, changed, unsafe or too new is refused, with the reason."""

import contextlib
import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from scalerec.bundle import Bundle, Contents, read_bundle, write_bundle
from scalerec.bundle.canonical import sealed
from scalerec.bundle.files import file_digest
from scalerec.bundle.manifest import Manifest, content_digest
from scalerec.bundle.tables import read_table, write_table
from scalerec.errors import BundleError

MakeContents = Callable[..., Contents]
EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]
WEIGHTS = "weights-00001-of-00001.safetensors"


@pytest.fixture
def bundle(tmp_path: Path, make_contents: MakeContents) -> Bundle:
    return write_bundle(tmp_path / "b", make_contents())


def refuse(path: Path, words: str, *, verify: bool = True) -> None:
    with pytest.raises(BundleError, match=words):
        read_bundle(path, verify=verify)


def redigest(plain: dict[str, Any]) -> None:
    """Compute the content's digest anew, as a careful attacker would."""
    plain["digest"] = content_digest(Manifest.from_dict(plain))


def test_what_is_not_a_bundle(tmp_path: Path) -> None:
    refuse(tmp_path / "absent", "absent: does not exist$")
    refuse(tmp_path, "has no manifest.json, so it is not a bundle")
    (tmp_path / "file").write_text("x")
    refuse(tmp_path / "file", "file: is a file; a bundle is a directory")


@pytest.mark.parametrize("verify", [True, False])
def test_a_manifest_cut_short_anywhere(bundle: Bundle, verify: bool) -> None:
    path = bundle.path / "manifest.json"
    text = path.read_bytes()
    for length in [0, 1, len(text) // 3, len(text) // 2, len(text) - 3]:
        path.write_bytes(text[:length])
        refuse(bundle.path, "manifest.json: not valid JSON, so it was cut short", verify=verify)
    path.write_bytes(text[:-1])
    refuse(bundle.path, "its text is not as scalerec writes it", verify=verify)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"{}", b'{"format": NaN}', b"\xff\xfe{}"])
def test_a_manifest_that_is_something_else(bundle: Bundle, text: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(text)
    refuse(bundle.path, "manifest.json: (not valid JSON|must hold a table|was changed)")


def test_a_later_format(bundle: Bundle) -> None:
    # The seal is not looked at: a later format may compute it in another way.
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps({"format": 2, "new": "things"}))
    refuse(bundle.path, "format 2, this version reads up to 1: upgrade scalerec")


def test_a_manifest_that_was_edited(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    text = path.read_text()
    for old, new in [('"rate": 0.1', '"rate": 0.2'), ('"time": "20', '"time": "30')]:
        assert old in text
        path.write_text(text.replace(old, new))
        refuse(bundle.path, "manifest.json: was changed: its seal is [0-9a-f]{64}, its content")
    for same in [text.replace("{\n", "{ \n", 1), text.replace('"b', '"\\u0062', 1), text + "\n"]:
        path.write_text(same)
        refuse(bundle.path, "its text is not as scalerec writes it")


def test_one_flipped_byte_in_any_file(bundle: Bundle) -> None:
    random_ = random.Random(5)
    names = sorted(path.name for path in bundle.path.iterdir())
    assert names == ["catalogue.arrow", "encoders.arrow", "manifest.json", WEIGHTS]
    for name in names:
        path = bundle.path / name
        good = path.read_bytes()
        offsets = [0, len(good) - 1, *random_.sample(range(len(good)), 60)]
        for offset in offsets:
            bad = bytearray(good)
            bad[offset] ^= random_.randrange(1, 256)
            path.write_bytes(bad)
            with pytest.raises(BundleError) as caught:
                read_bundle(bundle.path)
            words = str(caught.value)
            assert words.startswith(str(path)), (offset, words)
            if name != "manifest.json":
                assert "was changed: its SHA-256 is" in words
        path.write_bytes(good)
    assert read_bundle(bundle.path).digest == bundle.digest


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", [WEIGHTS, "encoders.arrow"])
def test_a_missing_or_short_file(bundle: Bundle, name: str, verify: bool) -> None:
    path = bundle.path / name
    content = path.read_bytes()
    for wrong in [content[:-1], content + b"x", b""]:
        path.write_bytes(wrong)
        words = f"{name}: has {len(wrong)} bytes, the manifest says {len(content)}"
        refuse(bundle.path, words, verify=verify)
    path.unlink()
    refuse(bundle.path, f"{name}: is missing", verify=verify)
    path.mkdir()
    refuse(bundle.path, f"{name}: is not a regular file", verify=verify)
    path.rmdir()
    os.mkfifo(path)
    refuse(bundle.path, f"{name}: is not a regular file", verify=verify)


def test_without_verifying_a_changed_weight_is_not_found(bundle: Bundle) -> None:
    path = bundle.path / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read_bundle(bundle.path, verify=False).digest == bundle.digest


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "..", "C:\\x", "\\\\host\\x", "weights/../../x", "/"],
)
def test_a_file_name_that_leaves_the_directory(
    bundle: Bundle, edit_manifest: EditManifest, name: str
) -> None:
    entry = {"size": 1, "sha256": "0" * 64}
    edit_manifest(bundle.path, lambda plain: plain["files"].update({name: entry}))
    refuse(bundle.path, f"names the file {re.escape(repr(name))}, which leaves the directory")


@pytest.mark.parametrize(
    "name",
    ["", ".", "model.pkl", "sub/encoders.arrow", "weights-1-of-1.safetensors", f"{WEIGHTS}\n"],
)
def test_a_file_name_that_no_bundle_has(
    bundle: Bundle, edit_manifest: EditManifest, name: str
) -> None:
    entry = {"size": 1, "sha256": "0" * 64}
    edit_manifest(bundle.path, lambda plain: plain["files"].update({name: entry}))
    refuse(bundle.path, f"names the file {re.escape(repr(name))}; allowed: weights-NNNNN")


@pytest.mark.parametrize("name", [WEIGHTS, "encoders.arrow", "manifest.json"])
def test_a_link_that_leaves_the_directory(bundle: Bundle, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(bundle.path / name, outside)
    (bundle.path / name).symlink_to(outside)
    refuse(bundle.path, f"{name}: is a link that leaves the directory, to {outside}")
    (bundle.path / name).unlink()
    shutil.move(outside, bundle.path / "beside")
    (bundle.path / name).symlink_to("beside")
    assert read_bundle(bundle.path).digest == bundle.digest


@pytest.mark.parametrize("name", ["weights-00002-of-00002.safetensors", "weights-x.bin"])
def test_weights_that_the_manifest_does_not_name(bundle: Bundle, name: str) -> None:
    (bundle.path / "notes.txt").write_text("what is no weights file does no harm")
    read_bundle(bundle.path)
    shutil.copy(bundle.path / WEIGHTS, bundle.path / name)
    refuse(bundle.path, f"{name}: is not in the manifest; a bundle has no other weights")


def drop(plain: dict[str, Any]) -> None:
    del plain["tensors"]["bias"]


def add(plain: dict[str, Any]) -> None:
    plain["tensors"]["ghost"] = plain["tensors"]["bias"]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, "holds tensor 'bias', which is missing from the index"),
        (add, "lacks tensor 'ghost', which the index says it holds"),
        (
            lambda plain: plain["tensors"]["bias"].update(dtype="int32"),
            r"tensor 'bias' is float32 \[\], the index says int32 \[\]",
        ),
        (
            lambda plain: plain["tensors"]["table.user"].update(shape=[10, 8]),
            r"tensor 'table.user' is float32 \[20, 4\], the index says float32 \[10, 8\]",
        ),
        (
            lambda plain: plain["tensors"]["bias"].update(file="encoders.arrow"),
            "tensor 'bias' is said to be in 'encoders.arrow', which is not among the weights",
        ),
        (
            lambda plain: plain["tensors"]["bias"].update(file="../x"),
            "tensor 'bias' is said to be in '../x', which is not among the weights",
        ),
        (lambda plain: plain["files"].pop(WEIGHTS), "which is not among the weights"),
        (lambda plain: plain.update(more=1), "malformed: unknown setting 'more'"),
        (lambda plain: plain.pop("schema"), "malformed: setting 'schema' is missing"),
        (lambda plain: plain.update(lineage=[{"verb": 3}]), "malformed: .*verb must be text"),
        (
            lambda plain: plain["files"]["encoders.arrow"].update(size="big"),
            "malformed: files.encoders.arrow: size must be a whole number; got 'big'",
        ),
        (
            lambda plain: plain.update(rows={"bias": {"rows": "r", "values": "v", "shape": [1]}}),
            "rows of 'bias' need tensor 'r', not in the index",
        ),
    ],
)
def test_an_index_that_lies(
    bundle: Bundle,
    edit_manifest: EditManifest,
    change: Callable[[dict[str, Any]], object],
    words: str,
    verify: bool,
) -> None:
    def lie(plain: dict[str, Any]) -> None:
        change(plain)
        with contextlib.suppress(ValueError, KeyError):  # it has to be readable for that
            redigest(plain)

    edit_manifest(bundle.path, lie)
    refuse(bundle.path, words, verify=verify)


def test_a_digest_that_is_not_the_contents(bundle: Bundle, edit_manifest: EditManifest) -> None:
    edit_manifest(bundle.path, lambda plain: plain.update(digest="0" * 64))
    refuse(bundle.path, f"its digest is {'0' * 64}, its content gives {bundle.digest}")


def test_weights_exchanged_under_the_same_digest(
    bundle: Bundle, edit_manifest: EditManifest
) -> None:
    path = bundle.path / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    entry = {"size": len(content), "sha256": file_digest(path)}
    edit_manifest(bundle.path, lambda plain: plain["files"].update({WEIGHTS: entry}))
    refuse(bundle.path, "tensor '.*' has SHA-256 [0-9a-f]{64}, the index says")


def header_of(entries: dict[str, Any], size: int) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 62) + b"{}",
        header_of({"a": {**F32, "data_offsets": [4, 12]}}, 12),
        header_of({"a": {**F32, "data_offsets": [0, 12]}}, 12),
        header_of({"a": {**F32, "shape": [-2]}}, 8),
        header_of({"a": {**F32, "dtype": "F31"}}, 8),
        header_of({"a": F32}, 9),
        header_of({"a": F32, "b": F32}, 8),
        header_of({"a": {}}, 0),
        header_of({"a": "b"}, 0),
        struct.pack("<Q", 50_000) + b"[" * 50_000,
    ],
)
def test_a_weights_file_of_another_kind(
    bundle: Bundle, edit_manifest: EditManifest, content: bytes
) -> None:
    path = bundle.path / WEIGHTS
    path.write_bytes(content)
    entry = {"size": len(content), "sha256": file_digest(path)}
    edit_manifest(bundle.path, lambda plain: plain["files"].update({WEIGHTS: entry}))
    refuse(bundle.path, f"{WEIGHTS}: is not a safetensors file")


def test_a_table_that_is_no_table(bundle: Bundle, edit_manifest: EditManifest) -> None:
    path = bundle.path / "encoders.arrow"
    path.write_bytes(b"ARROW1 or not")

    def change(plain: dict[str, Any]) -> None:
        plain["files"][path.name] = {"size": 13, "sha256": file_digest(path)}
        redigest(plain)

    edit_manifest(bundle.path, change)
    opened = read_bundle(bundle.path)
    with pytest.raises(BundleError, match=r"encoders.arrow: is not a sound Arrow file"):
        _ = opened.encoders


def test_a_table_whose_offsets_leave_its_buffers(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    write_table(path, pa.table({"s": ["abcdefg", "hi"]}))
    content = path.read_bytes()
    good, bad = struct.pack("<3i", 0, 7, 9), struct.pack("<3i", 0, 1 << 20, 9)
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, bad))
    with pytest.raises(BundleError, match=r"t.arrow: is not a sound Arrow file"):
        read_table(path)


def test_nothing_is_unpickled(tmp_path: Path, bundle: Bundle) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    torch.save(Bomb(), bundle.path / WEIGHTS)
    refuse(bundle.path, "the manifest says")
    torch.save(Bomb(), bundle.path / "extra.pt")
    torch.save(Bomb(), bundle.path / "manifest.json")
    refuse(bundle.path, "not valid JSON")
    assert not (tmp_path / "exploded").exists()


def test_a_folder_that_cannot_be_read(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    refuse(bundle.path, "b: cannot be read: Permission denied")


def test_the_seal_is_the_last_entry(bundle: Bundle) -> None:
    text = (bundle.path / "manifest.json").read_bytes()
    plain = json.loads(text)
    assert list(plain)[-1] == "seal"
    del plain["seal"]
    assert sealed(plain) == text
