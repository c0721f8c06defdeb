"""How this process's allocator treats memory that was freed."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST_KEPT_BLOCK = 1 << 30  # bytes; blocks above still come from the system and return to it
_NEVER_TRIM = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation; return whether the allocator could be told.

    glibc gives buffers of some hundred KiB and more back to the system when they are freed. An
    inner step frees and takes the same few megabytes again each time, and would get them as
    fresh pages, each a page fault and a page to be zeroed: a tenth of a small step's time, and
    more on virtual machines. The process then stays as large as it has been at its peak, which
    an inner loop reaches in its first steps.

    Lasts for the process, may be called again, and does nothing where malloc is not glibc's.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    told = [
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK),
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM),
    ]
    return all(told)
