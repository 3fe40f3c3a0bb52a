"""Shared memory: tensors there, their places, and what becomes of memory that nobody uses."""

import os

import pytest
import torch

from scalerec.federated.sharing import Arena, FullError


def test_a_place_is_seen_by_a_forked_process() -> None:
    arena = Arena(4096)
    tensor = arena.put(torch.arange(6.0).view(2, 3))
    back, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        arena.view(arena.place(tensor)).mul_(2)
        os.write(out, b"x")
        os._exit(0)
    assert os.read(back, 1) == b"x"
    os.waitpid(pid, 0)
    os.close(back)
    os.close(out)
    assert tensor.tolist() == [[0, 2, 4], [6, 8, 10]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_a_view_is_the_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    arena = Arena(4096)
    arena.put(torch.ones(5))
    tensor = arena.put(torch.ones(shape).to(dtype))
    found = arena.view(arena.place(tensor))
    assert found.dtype == dtype
    assert found.shape == shape
    assert torch.equal(found, torch.ones(shape).to(dtype))


def test_memory_is_used_again() -> None:
    arena = Arena(1024)
    first, second = arena.take((64,), torch.float32), arena.take((64,), torch.float32)
    assert arena.place(second)["start"] == 256
    kept = first[3:5]
    del first
    assert arena.place(arena.take((8,), torch.float32))["start"] == 512
    del kept
    assert arena.place(arena.take((65,), torch.float32))["start"] == 512
    again = arena.take((64,), torch.float32)
    assert arena.place(again)["start"] == 0


def test_what_does_not_fit_is_refused() -> None:
    arena = Arena(256)
    held = arena.take((32,), torch.float32)
    with pytest.raises(FullError):
        arena.take((33,), torch.float32)
    assert arena.take((32,), torch.float32).data_ptr() == held.data_ptr() + 128


def test_names_of_places() -> None:
    arena = Arena(1024)
    tensors = {"a": arena.put(torch.ones(2)), "b": arena.put(torch.zeros(3))}
    views = arena.views(arena.places(tensors))
    assert views is not None
    assert views["a"].tolist() == [1, 1]
    assert arena.places(None) is None
    assert arena.views(None) is None
