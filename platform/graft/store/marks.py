"""Marks: what `graft gc` is about to remove, so that nobody relies on it meanwhile.

gc/marks/<area>.json   of the keys that begin with ``<area>/``: marked, and being removed

Collecting garbage has one hole: a writer finds that what it needs is there already, does not send
it again, and commits a marker that refers to it; between the two it is removed, since nothing
referred to it yet. Neither S3 nor a directory has a delete that is conditional on that, so who
removes and who relies agree on this one object, which moves by compare-and-swap alone:

- What is to be removed is *marked* first, and removed a grace period later at the earliest. A
  writer that has found no mark has that long to commit.
- A writer that finds a payload marked sends it again under a name that nothing ever had
  (`Store.put`). No removal, however late, can meet that name.
- What is named by what it is, such as a stage, has one place alone: a writer takes the mark away
  (`Store.rely_on`), or waits, where it is *sweeping*: claimed by the swap that precedes removal.
  Either swap excludes the other one. Only after it has claimed, a collector looks once more at all
  that refers to anything. So what it then removes, nobody refers to, and nobody can begin to.

A writer of an earlier release does not look at marks: none may be at work beside `gc --delete`.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from graft.errors import ObjectChanged, ObjectDamaged, ObjectExists, ObjectNotFound, StoreError
from graft.store.backend import Versioned
from graft.store.retries import swaps

FOLDER = "gc/marks/"
_AREA = re.compile(r"([a-z]+(?:-[a-z]+)*)/")
POLL_S = 0.5
PATIENCE_S = 900.0
"""Seconds for which what is being removed is waited for; a pass claims no more than it removes in
that time."""


class Documents(Protocol):
    """What a store, and its backend, can do with marks."""

    uri: str

    def read(self, key: str) -> Versioned:
        """See `Backend`."""

    def create(self, key: str, data: bytes) -> None:
        """See `Backend`."""

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """See `Backend`."""


class Mark(BaseModel):
    """That an object was seen to be unreachable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: float
    """When it was first, in seconds since 1970 by the storage's clock."""
    modified: float
    """When it was written last, likewise: one that is written again loses its mark."""


class Marks(BaseModel):
    """The document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    marked: Mapping[str, Mark] = {}
    sweeping: tuple[str, ...] = ()
    """Keys that are being removed, or that a collector which died had claimed."""

    def data(self) -> bytes:
        """Return it as it lies in the store."""
        return self.model_dump_json().encode()


def area_of(key: str) -> str:
    """Return the area of a key: its top folder, if that is one of Graft's."""
    area = _AREA.match(key)
    return area[1] if area else "other"


def marks_key(area: str) -> str:
    """Return where the marks of an area lie."""
    return f"{FOLDER}{area}.json"


def read_marks(store: Documents, area: str) -> tuple[Marks, str | None]:
    """Return the marks of an area, and the tag to move them by; None: there are none yet.

    Raises:
        ObjectDamaged: they cannot be read.
    """
    try:
        stored = store.read(marks_key(area))
    except ObjectNotFound:
        return Marks(), None
    try:
        return Marks.model_validate_json(stored.data), stored.etag
    except ValidationError as error:
        raise ObjectDamaged(
            f"{store.uri}/{marks_key(area)} is damaged, or a newer release's; remove it while no "
            "`graft gc` is at work, and marking begins anew"
        ) from error


def move_marks(store: Documents, area: str, marks: Marks, etag: str | None) -> bool:
    """Write the marks of an area, unless they have changed since; return whether it was ours."""
    with suppress(ObjectExists, ObjectChanged, ObjectNotFound):
        if etag is None:
            store.create(marks_key(area), marks.data())
        else:
            store.replace(marks_key(area), marks.data(), etag)
        return True
    return False


def is_marked(store: Documents, key: str) -> bool:
    """Whether an object may be removed at any moment."""
    marks, _ = read_marks(store, area_of(key))
    return key in marks.marked or key in marks.sweeping


def rely_on(store: Documents, prefixes: Sequence[str]) -> None:
    """Take away the marks of all that begins so; wait for what is being removed.

    Raises:
        StoreError: that does not end.
    """
    for area in sorted({area_of(prefix) for prefix in prefixes}):
        begins = tuple(prefix for prefix in prefixes if area_of(prefix) == area)
        turn = swaps(f"{store.uri}/{marks_key(area)}")
        for marks, etag in _once_free(store, area, begins):
            rest = {k: mark for k, mark in marks.marked.items() if not k.startswith(begins)}
            if len(rest) == len(marks.marked):
                break
            next(turn)
            if move_marks(store, area, marks.model_copy(update={"marked": rest}), etag):
                break


def _once_free(
    store: Documents, area: str, begins: tuple[str, ...]
) -> Iterator[tuple[Marks, str | None]]:
    """Yield the marks of an area, whenever nothing that begins so is being removed."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        marks, etag = read_marks(store, area)
        going = next((key for key in marks.sweeping if key.startswith(begins)), None)
        if going is None:
            yield marks, etag
        elif time.monotonic() > deadline:
            raise StoreError(
                f"{store.uri}/{going} is being removed by a `graft gc` that does not end, or has "
                "died; `graft gc --delete` ends what it has begun"
            )
        else:
            time.sleep(POLL_S)
