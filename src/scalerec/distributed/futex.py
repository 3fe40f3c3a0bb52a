"""Wait for a number in shared memory to change: Linux's futex, on x86-64.

Who waits sleeps in the kernel and is woken by who writes, so processes that outnumber the cores do
not take time from those they wait for.
"""

import ctypes
from typing import Any

__all__ = ["sleep_until_changed", "wake_all"]

# asm/unistd_64.h and linux/futex.h
CALL, WAIT, WAKE = 202, 0, 1
EVERYBODY = 2**31 - 1

_libc: Any = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def sleep_until_changed(address: int, value: int, timeout_s: float) -> None:
    """Sleep while the four bytes at an address are those of a value, up to a time.

    Args:
        address: Of memory shared with who calls `wake_all`, a multiple of 4.
        value: If the memory holds another one by then, there is no sleep.
        timeout_s: Seconds, at most; it may wake sooner for no reason.
    """
    seconds = int(timeout_s)
    limit = _Timespec(seconds, int((timeout_s - seconds) * 1e9))
    word = ctypes.c_uint32(value & 0xFFFFFFFF)
    _libc.syscall(CALL, ctypes.c_void_p(address), WAIT, word, ctypes.byref(limit), None, 0)


def wake_all(address: int) -> None:
    """Wake all that sleep at an address."""
    _libc.syscall(CALL, ctypes.c_void_p(address), WAKE, EVERYBODY, None, None, 0)
