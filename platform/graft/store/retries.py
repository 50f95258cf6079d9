"""How often something in a store is tried again, and after which pause.

Not tenacity, whose `Retrying` with these bounds and messages takes as many lines: what is tried
again is mostly an answer and no exception, and a body that came on begins its count anew.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from graft.errors import StoreError

Result = TypeVar("Result")

TRIES = 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
"""Longest pause before the second try, which doubles with each, and before any."""


def tries(
    problem: str, count: int = TRIES, failure: type[StoreError] = StoreError
) -> Iterator[None]:
    """Yield once for each try; the caller leaves the loop once it has succeeded.

    All but the first wait for a random time, so that writers who met do not meet again.

    Raises:
        StoreError: no try succeeded, a `failure`; the message is `problem`, which says what does
            not hold.
    """
    for number in range(count):
        if number:
            time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number)))
        yield
    raise failure(f"{problem} ({count} tries)")


def persist(work: Callable[[], Result], count: int = 3) -> Result:
    """Return what `work` returns; where the store fails it, `work` is done again, after a second.

    For what takes long and is begun anew; requests are repeated much sooner, by themselves.

    Raises:
        StoreError: the last of `count` tries failed of it.
    """
    for _ in range(count - 1):
        with contextlib.suppress(StoreError):
            return work()
        time.sleep(1)
    return work()


def swaps(location: str) -> Iterator[None]:
    """Yield once for each try at a compare-and-swap of the object at `location`; as `tries`.

    Raises:
        StoreError: another writer was first each time.
    """
    return tries(
        f"{location} was changed by others whenever it was to be; either many processes write it "
        "at once, or the storage's conditional writes do not hold, which `graft store check` "
        "finds out"
    )
