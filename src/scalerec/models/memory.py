"""A hint to the operating system about large blocks of memory; it does nothing where it cannot."""

import ctypes
import sys
from functools import cache
from typing import Any

from torch import Tensor

__all__ = ["keep_freed_memory", "use_large_pages"]

PAGE_BYTES = 4096
HUGEPAGE = 14  # MADV_HUGEPAGE of Linux
# Of glibc's mallopt: what is kept of freed memory, what is asked for at a time, and from which size
# on a block is asked for alone, each in bytes.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT, ASKED, ALONE = 2**30, 2**26, 2**25


@cache
def _library() -> Any:
    """The C library of Linux, or None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None)
    except OSError:
        return None


def use_large_pages(tensor: Tensor) -> None:
    """Ask for pages of 2 MiB for a tensor; call it before the tensor is first written.

    A random row then costs one miss and not two: the processor keeps few addresses of small pages.
    """
    library = _library()
    size = tensor.numel() * tensor.element_size()
    if library is None or not hasattr(library, "madvise") or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // PAGE_BYTES) * PAGE_BYTES
    stop = (tensor.data_ptr() + size) // PAGE_BYTES * PAGE_BYTES
    if stop > start:
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), HUGEPAGE)


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to a GiB of the memory that it frees, and use it again.

    Work that makes and drops tensors of some megabytes at every step otherwise gets each anew from
    the operating system, page by page: a third of the time of federated rounds of a large net.
    """
    library = _library()
    if library is None or not hasattr(library, "mallopt"):
        return
    for name, value in ((TRIM_THRESHOLD, KEPT), (TOP_PAD, ASKED), (MMAP_THRESHOLD, ALONE)):
        library.mallopt(name, value)
