"""Requests to a bucket, which its provider counts, charges and limits; pure.

Writing ones (PUT, POST, LIST) are charged alike, and reading ones (GET) less. A store in a
directory has none of them.
"""

import math
from dataclasses import dataclass
from typing import Self

from graft.store.s3 import PART_SIZE

LISTED = 1000
"""Keys in an answer to LIST."""


@dataclass(frozen=True)
class Requests:
    """How many requests."""

    writes: int = 0
    """PUT, POST and LIST."""
    reads: int = 0
    """GET."""

    def __add__(self, other: Self) -> Self:
        return type(self)(self.writes + other.writes, self.reads + other.reads)


def put_requests(size: int) -> int:
    """Return the requests that write a payload of so many bytes, which is looked for first."""
    if size < PART_SIZE:
        return 2
    return 3 + math.ceil(size / PART_SIZE)  # an upload in parts begins and ends with a POST


def list_requests(keys: int) -> int:
    """Return the requests that list so many keys."""
    return max(1, math.ceil(keys / LISTED))


def get_requests(size: int) -> int:
    """Return the requests that read a payload of so many bytes into the node-local cache."""
    return math.ceil(size / PART_SIZE)
