"""Threads for compiled kernels: those that torch has already.

Torch's matrix products run on the threads of an OpenMP library, and each of those spins for some
milliseconds after its work, so that the next product finds it awake. A thread of our own would wait
for it on a machine with few cores: kernels ran at a third of their speed. So the same library is
asked to run a kernel, through its C interface; where that cannot be, a pool of Python's does.

A kernel runs without Python's lock and does the share of the work that its thread has.
"""

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["one_thread", "run_shares"]

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NEEDED = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, what runs on its threads, and threads that are begun meanwhile, use one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _openmp() -> Any:
    """The OpenMP library that torch has loaded, or None if it is of another make or system."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    except OSError:
        return None
    loaded = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    # Torch's own copy, where it brings one; another library may have loaded the system's.
    own = {path for path in loaded if Path(path).parent.parent == Path(torch.__file__).parent}
    found = own or loaded
    if len(found) != 1:
        return None
    try:
        library = ctypes.CDLL(found.pop())
    except OSError:
        return None
    return library if all(hasattr(library, name) for name in NEEDED) else None


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="scalerec-kernel")


def run_shares(kernel: Callable[..., Any], *args: Any, most: int = 64) -> None:
    """Call ``kernel(*args, share, num_shares)`` for each share, one in this thread.

    Args:
        kernel: Compiled without Python's lock; its shares must not write to the same memory.
        args: Given to each.
        most: Shares at most, where the work is small.
    """
    num = max(1, min(torch.get_num_threads(), most))
    if num == 1:
        kernel(*args, 0, 1)
    elif (library := _openmp()) is not None:
        _run_openmp(library, kernel, args, num)
    else:
        others = [_pool(num - 1).submit(kernel, *args, share, num) for share in range(1, num)]
        kernel(*args, 0, num)
        for other in others:
            other.result()


def _run_openmp(library: Any, kernel: Callable[..., Any], args: tuple[Any, ...], num: int) -> None:
    errors: list[BaseException] = []

    def run(_: Any) -> None:
        try:
            # The library may give fewer threads than were asked for.
            kernel(*args, library.omp_get_thread_num(), library.omp_get_num_threads())
        except BaseException as error:
            errors.append(error)

    # Kept in a name: the library holds only its address.
    callback = CALLBACK(run)
    library.GOMP_parallel(callback, None, num, 0)
    if errors:
        raise errors[0]
