"""Memory of CPU tensors."""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free, for the next ones; elsewhere nothing happens.

    By default every large block goes back to the kernel when it is freed, and is zeroed
    page by page when it is asked for again: a quarter of a training step of SqueezeNet
    on 2 cores.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
