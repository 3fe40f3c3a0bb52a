"""A write that ends at any moment leaves the old bundle or the new one, and nothing between."""

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import safetensors
import torch
from safetensors.torch import save_file

from scalerec.bundle import Contents, Step, read_bundle, write_bundle
from scalerec.bundle import weights as weights_module
from scalerec.errors import BundleError

MakeContents = Callable[..., Contents]
# What a write asks of the operating system, as it stands where it is asked.
CALLS: list[tuple[Any, str]] = [
    (os, "fsync"),
    (os, "rename"),
    (os, "chmod"),
    (Path, "mkdir"),
    (weights_module, "save_file"),
]


class Trap:
    """Counts the calls, and raises instead of one of them."""

    def __init__(self, moment: int, error: BaseException) -> None:
        self.calls = 0
        self.moment = moment
        self.error = error

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **words: Any) -> Any:
            self.calls += 1
            if self.calls == self.moment:
                raise self.error
            return real(*args, **words)

        return call


@contextmanager
def trapped(moment: int, error: BaseException, *, kill: bool = False) -> Iterator[Trap]:
    """Raise an error at one moment; a killed process tidies nothing up afterwards."""
    trap = Trap(moment, error)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, trap.wrap(getattr(owner, name)))
        if kill:
            patch.setattr(shutil, "rmtree", lambda *args, **words: None)
            patch.setattr(Path, "rename", rename_until_killed())
        yield trap


def num_calls(place: Path, contents: Contents, *, overwrite: bool) -> int:
    place.mkdir(exist_ok=True)
    with trapped(0, KeyboardInterrupt()) as trap:
        write_bundle(place / "b", contents, overwrite=overwrite)
    return trap.calls


@pytest.mark.parametrize(
    ("error", "caught", "words"),
    [
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (OSError(errno.ENOSPC, "No space left"), BundleError, "b: cannot be written: No space"),
    ],
)
def test_an_error_at_any_moment_leaves_nothing(
    tmp_path: Path,
    make_contents: MakeContents,
    error: BaseException,
    caught: type[BaseException],
    words: str,
) -> None:
    contents = make_contents()
    total = num_calls(tmp_path / "count", contents, overwrite=False)
    assert total >= 8
    for moment in range(1, total + 1):
        place = tmp_path / str(moment)
        place.mkdir()
        with trapped(moment, error), pytest.raises(caught, match=words):
            write_bundle(place / "b", contents)
        left = [path.name for path in place.iterdir()]
        # The last call waits for the disk after the rename; by then the bundle stands.
        assert left == ([] if moment < total else ["b"]), moment
        if left:
            read_bundle(place / "b")


def test_an_error_at_any_moment_of_an_overwrite_keeps_one(
    tmp_path: Path, make_contents: MakeContents
) -> None:
    old, new = make_contents(), make_contents(layout={})
    digests = [write_bundle(tmp_path / name, c).digest for name, c in [("o", old), ("n", new)]]
    write_bundle(tmp_path / "count" / "b", old)
    total = num_calls(tmp_path / "count", new, overwrite=True)
    for moment in range(1, total + 1):
        place = tmp_path / str(moment)
        write_bundle(place / "b", old)
        error = OSError(errno.ENOSPC, "No space left")
        with trapped(moment, error), pytest.raises(BundleError, match="No space left"):
            write_bundle(place / "b", new, overwrite=True)
        assert read_bundle(place / "b").digest == digests[moment == total]


def test_a_kill_at_any_moment(tmp_path: Path, make_contents: MakeContents) -> None:
    old, new = make_contents(), make_contents(layout={})
    write_bundle(tmp_path / "count" / "b", old)
    total = num_calls(tmp_path / "count", new, overwrite=True)
    known = {write_bundle(tmp_path / f"k{i}", c).digest for i, c in enumerate([old, new])}
    states = set()
    for moment in range(1, total + 1):
        place = tmp_path / str(moment)
        write_bundle(place / "b", old)
        error = KeyboardInterrupt("kill")
        with trapped(moment, error, kill=True), pytest.raises(KeyboardInterrupt, match="kill"):
            write_bundle(place / "b", new, overwrite=True)
        states.add(check_what_a_kill_left(place, known))
    assert states == {"whole", "aside"}


def rename_until_killed() -> Callable[[Path, Path], None]:
    """Stop for good at the first rename that fails: the way back is a rename too."""
    killed = False

    def rename(path: Path, target: Path) -> None:
        nonlocal killed
        if killed:
            raise KeyboardInterrupt("kill")
        killed = True
        os.rename(path, target)  # noqa: PTH104
        killed = False

    return rename


def check_what_a_kill_left(place: Path, known: set[str]) -> str:
    for path in place.iterdir():
        if path.name.endswith(".partial"):
            with pytest.raises(BundleError, match="is an unfinished write, not a bundle"):
                read_bundle(path)
    if (place / "b").exists():
        assert read_bundle(place / "b").digest in known
        return "whole"
    with pytest.raises(BundleError, match="an overwrite that was cut short left the old one at"):
        read_bundle(place / "b")
    (aside,) = [path for path in place.iterdir() if path.name.endswith(".old")]
    assert read_bundle(aside).digest in known
    return "aside"


def numbered(number: int) -> Contents:
    tensors = {f"t{i}": torch.full((300, 50), float(number)) for i in range(6)}
    step = Step(verb="train", settings={"number": number})
    return Contents(schema={}, spec={"kind": "net"}, layout={}, lineage=(step,), tensors=tensors)


def write_without_end(folder: str) -> None:
    torch.set_num_threads(1)
    number = 0
    while True:
        number += 1
        write_bundle(Path(folder) / "fresh" / str(number), numbered(number), shard_bytes=70_000)
        write_bundle(Path(folder) / "b", numbered(number), overwrite=True)


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scalerec.bundle"])
    random_ = random.Random(1)
    for attempt in range(6):
        place = tmp_path / str(attempt)
        process = context.Process(target=write_without_end, args=(str(place),))
        process.start()
        deadline = time.monotonic() + 60
        while not (place / "b").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random_.random() * 0.1)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        check_numbered(place)


def check_numbered(place: Path) -> None:
    for path in (place / "fresh").iterdir():
        if path.name.endswith(".partial"):
            continue
        bundle = read_bundle(path)
        assert all((t == float(path.name)).all() for t in bundle.tensors().values())
    if (place / "b").exists():
        read_bundle(place / "b")
    else:
        assert [path for path in place.iterdir() if path.name.endswith(".old")]


def test_a_partial_write_that_is_whole_is_no_bundle(
    tmp_path: Path, make_contents: MakeContents
) -> None:
    bundle = write_bundle(tmp_path / "b", make_contents())
    partial = tmp_path / ".b.0a1b2c3d.partial"
    shutil.copytree(bundle.path, partial)
    with pytest.raises(BundleError, match="is an unfinished write, not a bundle; it can be remov"):
        read_bundle(partial)


def test_an_existing_path_is_refused(tmp_path: Path, make_contents: MakeContents) -> None:
    bundle = write_bundle(tmp_path / "b", make_contents())
    with pytest.raises(BundleError, match="b: exists; choose another place or pass overwrite=True"):
        write_bundle(bundle.path, make_contents(layout={}))
    assert read_bundle(bundle.path).layout != {}
    bundle.attach("a.json", {})
    after = write_bundle(bundle.path, make_contents(layout={}), overwrite=True)
    assert after.attachments() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_only_a_bundle_is_overwritten(tmp_path: Path, make_contents: MakeContents) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("home", "file"):
        with pytest.raises(BundleError, match=f"{name}: is not a bundle .no manifest.json.; only"):
            write_bundle(tmp_path / name, make_contents(), overwrite=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_path_that_is_taken_while_writing(
    tmp_path: Path, make_contents: MakeContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(tensors: dict[str, torch.Tensor], path: Path) -> None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "other").write_text("x")
        save_file(tensors, path)

    monkeypatch.setattr(weights_module, "save_file", take)
    with pytest.raises(BundleError, match="b: cannot be written: Directory not empty"):
        write_bundle(tmp_path / "b", make_contents())
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "other"]


def test_the_words_of_safetensors_reach_the_user(
    tmp_path: Path, make_contents: MakeContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: dict[str, torch.Tensor], path: Path) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights_module, "save_file", fail)
    words = "weights-00001-of-00001.safetensors: cannot be written: I/O error: No space left"
    with pytest.raises(BundleError, match=words):
        write_bundle(tmp_path / "b", make_contents())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["tensors", "catalogue"])
def test_a_limit_of_the_operating_system(
    tmp_path: Path, make_contents: MakeContents, part: str
) -> None:
    large: dict[str, Any] = {
        "tensors": {"t": torch.zeros(1 << 15)},
        "catalogue": pa.table({"x": list(range(1 << 15))}),
    }
    contents = make_contents(**{part: large[part]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal, so a write past the limit fails as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(BundleError, match=r"cannot be written: .*File too large"):
            write_bundle(tmp_path / "b", contents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())
