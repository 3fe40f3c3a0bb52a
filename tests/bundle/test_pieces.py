"""Tensors that come piece by piece give the bundle that whole ones give."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalerec.bundle import Contents, read_bundle, write_bundle
from scalerec.bundle.pieces import Pieces, write_pieces
from scalerec.errors import BundleError, ConfigError

MakeContents = Callable[..., Contents]


def in_pieces(tensor: Tensor, rows: int) -> Pieces:
    """A tensor of which a few rows come at a time."""

    def read() -> Iterator[Tensor]:
        yield from tensor.split(rows)

    return Pieces(tensor.dtype, tuple(tensor.shape), read)


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_a_bundle_in_pieces_is_the_whole_one(
    rows: int, make_contents: MakeContents, tmp_path: Path
) -> None:
    contents = make_contents()
    tensors = dict(contents.tensors)
    pieces = {name: in_pieces(tensors.pop(name), rows) for name in ("table.item", "table.user")}
    for shard_bytes in (1 << 30, 400):
        place = str(shard_bytes)
        whole = write_bundle(tmp_path / "whole" / place, contents, shard_bytes=shard_bytes)
        apart = make_contents(tensors=tensors, pieces=pieces)
        found = write_bundle(tmp_path / "apart" / place, apart, shard_bytes=shard_bytes)
        assert found.digest == whole.digest
        # One dtype has one order, so that the very files are equal.
        assert found.files == whole.files
        assert read_bundle(found.path).digest == whole.digest


def test_dtypes_and_shapes_come_back(tmp_path: Path) -> None:
    tensors = {
        "b": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "half": torch.arange(12, dtype=torch.float16).view(6, 2),
        "long": torch.arange(5),
        "scalar": torch.tensor(2.5),
        "strided": torch.arange(12.0).view(3, 4).T,
    }
    write_pieces(tmp_path / "w", {**tensors, "half": in_pieces(tensors["half"], 4)})
    found = load_file(tmp_path / "w")
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "s")
    assert (tmp_path / "w").read_bytes() == (tmp_path / "s").read_bytes()


def test_pieces_must_be_the_tensor(make_contents: MakeContents, tmp_path: Path) -> None:
    short = Pieces(torch.float32, (3, 2), lambda: iter([torch.zeros(2, 2)]))
    with pytest.raises(BundleError, match="'x' has 24 bytes; its pieces have 16"):
        write_pieces(tmp_path / "short", {"x": short})
    other = Pieces(torch.float32, (2,), lambda: iter([torch.zeros(2, dtype=torch.float16)]))
    with pytest.raises(BundleError, match=r"pieces must be torch.float32; got torch.float16"):
        write_pieces(tmp_path / "other", {"x": other})
    with pytest.raises(ConfigError, match=r"whole or in pieces, not both; got \['bias'\]"):
        write_bundle(tmp_path / "out", make_contents(pieces={"bias": short}))
    assert not (tmp_path / "out").exists()
