"""Threads for compiled kernels: as many as torch uses, made once.

A kernel runs without Python's lock and does the share of the work that its thread has. Numba's own
threads would come beside those of torch and wait for them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

__all__ = ["run_shares"]


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
        return
    others = [_pool(num - 1).submit(kernel, *args, share, num) for share in range(1, num)]
    kernel(*args, 0, num)
    for other in others:
        other.result()
