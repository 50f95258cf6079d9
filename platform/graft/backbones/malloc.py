"""How the C library's allocator treats the memory of CPU tensors."""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Make glibc reuse the memory that tensors free; does nothing with another C library.

    By default glibc returns every large block to the kernel, which zeroes it page by page when
    it is asked for again: that took a quarter of a training step of SqueezeNet on 2 cores.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
