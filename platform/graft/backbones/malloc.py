"""How the C library's allocator treats memory that was freed."""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
ARENAS = 2


def keep_freed_memory() -> None:
    """Make glibc reuse the memory that tensors free; does nothing with another C library.

    By default glibc returns every large block to the kernel, which zeroes it page by page when
    it is asked for again: that took a quarter of a training step of SqueezeNet on 2 cores.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def share_freed_memory() -> None:
    """Have threads allocate from the same few arenas of glibc, and not each from its own.

    Each arena keeps what its threads have freed. Of a server that was asked ten thousand hostile
    things, memory grew by 5 to 6.5 % after the first thousand; so it is 2 to 3 %.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, ARENAS)
