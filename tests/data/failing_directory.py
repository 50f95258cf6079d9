"""A store whose disk fails at a given write, or at which something else happens then."""

from collections.abc import Callable
from pathlib import Path

from graft.errors import StoreError
from graft.store.directory import Directory


class Failing(Directory):
    """A directory whose disk fails at write number `at`."""

    def __init__(self, root: Path, at: int, failure: Callable[[], object]):
        super().__init__(root)
        self.left = at
        self.failure = failure

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.failure()

    def write(self, key: str, data: bytes) -> None:
        self.count()
        super().write(key, data)

    def upload(self, key: str, path: Path) -> None:
        self.count()
        super().upload(key, path)

    def create(self, key: str, data: bytes) -> None:
        self.count()
        super().create(key, data)


def full_disk() -> None:
    raise StoreError("no space left")


def ctrl_c() -> None:
    raise KeyboardInterrupt
