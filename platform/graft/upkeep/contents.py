"""What a store holds at one moment: its listing, and the documents that are read of it."""

import bisect
import contextlib
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from pydantic import BaseModel

from graft.errors import InputError, ObjectDamaged, ObjectNotFound, ObjectUnreadable
from graft.spec import Job, parse_job, parse_yaml
from graft.store import Store, parse_document
from graft.store.backend import Entry
from graft.store.documents import unreadable
from graft.upkeep.references import Reference, kind_of

READERS = 16
"""Documents that are read at once."""
SPEC = re.compile(r"(runs|sweeps|reports|jobs|predictions|imports)/[^/]+/spec\.yaml")
_DIGEST = re.compile(rb"[0-9a-f]{64}")

Document = TypeVar("Document", bound=BaseModel)


@contextlib.contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield so many threads, which begin nothing more once the block fails, or is interrupted."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class Contents:
    """A store as it was listed."""

    store: Store
    entries: dict[str, Entry]
    """By key, in the keys' order."""
    damaged: dict[str, ObjectDamaged | ObjectUnreadable] = field(default_factory=dict)
    """By key, documents that could not be read, as they come to light."""
    _read: dict[str, BaseModel | None] = field(default_factory=dict)
    _digests: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, every: bool = False) -> "Contents":
        """List a store, and read the documents that refer to something, or else every one."""
        contents = cls(store, {entry.key: entry for entry in store.entries("")})
        keys = contents.entries
        kinds = ((key, kind_of(key)) for key in keys)
        wanted = [key for key, kind in kinds if kind and (every or kind.refers)]
        with workers(READERS) as pool:
            list(pool.map(contents.document, wanted))
            specs = contents.spec if every else contents.read
            list(pool.map(specs, filter(SPEC.fullmatch, keys)))
        return contents

    @cached_property
    def _keys(self) -> list[str]:
        return sorted(self.entries)

    def below(self, prefix: str) -> list[str]:
        """Return the keys that begin so."""
        first = bisect.bisect_left(self._keys, prefix)
        return self._keys[first : bisect.bisect_left(self._keys, prefix + "\U0010ffff", first)]

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder `prefix`, which ends in '/'."""
        rests = (key.removeprefix(prefix).partition("/") for key in self.below(prefix))
        return list(dict.fromkeys(name for name, slash, _ in rests if slash))

    def document(self, key: str) -> BaseModel | None:
        """Return the document at a key; None: there is none, it is damaged, or refers to nothing.

        Raises:
            StoreError: the store cannot be read.
        """
        kind = kind_of(key)
        if key not in self._read and kind and key in self.entries:
            document = None
            data = self.read(key)
            if data is not None:
                try:
                    document = parse_document(self.store, key, data, kind.model)
                except ObjectDamaged as error:
                    self.damaged[key] = error
            self._read[key] = document
        return self._read.get(key)

    def find(self, key: str, model: type[Document]) -> Document | None:
        """Return the document at a key as `document` does, where it is of that type."""
        document = self.document(key)
        return document if isinstance(document, model) else None

    def spec(self, key: str) -> Job | None:
        """Return the recorded spec at a key; None: there is none, or it is damaged."""
        if key not in self._read and key in self.entries:
            spec = None
            data = self.read(key)
            if data is not None:
                try:
                    spec = parse_job(parse_yaml(data.decode(), key), key, None)
                except (InputError, UnicodeDecodeError) as error:
                    self.damaged[key] = unreadable(f"{self.store.uri}/{key}", str(error))
            self._read[key] = spec
        return self._read.get(key)  # type: ignore[return-value]  # a spec's key has nothing else

    def references(self, key: str) -> Iterator[Reference]:
        """Yield what the document at a key cannot do without."""
        kind, document = kind_of(key), self.document(key)
        if kind and document:
            yield from kind.refer(document, key.rpartition("/")[0])

    def digests(self, keys: Iterable[str]) -> set[str]:
        """Return every SHA-256 that is written in documents and specs that were read."""
        return {digest for key in keys for digest in self._digests.get(key, ())}

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes; None: there is none any more, or it cannot be read."""
        try:
            data = self.store.read(key).data
        except ObjectNotFound:  # removed since it was listed
            return None
        except (ObjectDamaged, ObjectUnreadable) as error:
            self.damaged[key] = error
            return None
        if key.endswith((".yaml", "/plan.json", "/model.json")):
            self._digests[key] = frozenset(d.decode() for d in _DIGEST.findall(data))
        return data
