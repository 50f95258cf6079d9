"""SHA-256 of many files as one array, which is compared and sorted without an object for each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 32
Digests = NDArray[np.bytes_]
"""(n,) of S32, the type of `DTYPE`; `.tobytes()` alone keeps the zeros that one may end with."""
DTYPE = np.dtype(f"S{DIGEST_BYTES}")


def hexadecimal(digests: Digests) -> list[str]:
    """Return digests in hexadecimal digits."""
    digits = digests.tobytes().hex()
    return [digits[i : i + 2 * DIGEST_BYTES] for i in range(0, len(digits), 2 * DIGEST_BYTES)]


def from_hexadecimal(digests: Sequence[str]) -> Digests:
    """Return digests of hexadecimal digits, 64 each.

    Raises:
        ValueError: one is malformed.
    """
    return np.frombuffer(bytes.fromhex("".join(digests)), DTYPE)


def sorting_order(digests: Digests) -> NDArray[np.int64]:
    """Return the places that sort digests; those of equal ones stay in order: (n,)."""
    begins = first_bytes(digests)
    order = np.argsort(begins, kind="stable")
    sorted_ = digests[order]
    if (sorted_[1:] < sorted_[:-1]).any():  # two begin alike and are not the same
        return np.argsort(digests, kind="stable")
    return order


def first_of_each(digests: Digests) -> NDArray[np.int64]:
    """Return the places of the distinct digests, where each comes first, in order."""
    order = sorting_order(digests)
    sorted_ = digests[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = sorted_[1:] != sorted_[:-1]
    return np.sort(order[is_first])


def numbered(digests: Digests) -> tuple[NDArray[np.int64], int]:
    """Return a number for each digest, from 0 in the order in which they first come, and how many.

    Equal ones have the same number: (n,).
    """
    order = sorting_order(digests)
    sorted_ = digests[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = sorted_[1:] != sorted_[:-1]
    count = int(begins.sum())
    rank = np.empty(count, np.int64)
    rank[np.argsort(order[begins])] = np.arange(count)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = rank[np.cumsum(begins) - 1]
    return numbers, count


def first_bytes(digests: Digests) -> NDArray[np.uint64]:
    """Return the first eight bytes of each digest, as numbers that sort alike: (n,)."""
    words = np.ascontiguousarray(digests).view(">u8")
    return words[:: DIGEST_BYTES // 8].astype(np.uint64)
