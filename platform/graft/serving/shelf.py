"""What models have of their own is kept in memory up to a budget; the least recently used goes."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from threading import Lock, RLock
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Keeps things by their keys, up to a budget of bytes. Any thread may use it.

    What is dropped lives on until those who use it have ended. A thing that is larger than the
    whole budget is handed out, and not kept.
    """

    def __init__(self, budget: int, size: Callable[[T], int]):
        """`size` returns the bytes of a thing."""
        self.budget = budget
        self._size = size
        self._things: OrderedDict[Hashable, T] = OrderedDict()  # least recently used first
        self._bytes = 0
        # Reentrant: whoever is freed while it is held may drop what they kept here.
        self._lock = RLock()
        self._loading: defaultdict[Hashable, Lock] = defaultdict(Lock)

    @property
    def bytes(self) -> int:
        """What lies here, in bytes."""
        return self._bytes

    def find(self, key: Hashable) -> T | None:
        """Return a thing that is here, which is a use of it."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
            return self._things.get(key)

    def take(self, key: Hashable, load: Callable[[], T]) -> T:
        """Return a thing, loaded first where it is not here, and once for all who wait for it."""
        with self._lock:
            loading = self._loading[key]
        with loading:
            thing = self.find(key)
            if thing is None:
                thing = load()
                self._put(key, thing)
            return thing

    def drop(self, key: Hashable) -> None:
        """Drop a thing that nobody will ask for again, if it is here."""
        with self._lock:
            self._loading.pop(key, None)
            self._remove(key)

    def _put(self, key: Hashable, thing: T) -> None:
        size = self._size(thing)
        with self._lock:
            self._remove(key)
            if size > self.budget:
                return
            while self._bytes + size > self.budget:
                self._remove(next(iter(self._things)))
            self._things[key] = thing
            self._bytes += size

    def _remove(self, key: Hashable) -> None:
        if key in self._things:
            self._bytes -= self._size(self._things.pop(key))
