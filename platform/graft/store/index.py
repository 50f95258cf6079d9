"""Index objects: what a list needs of many markers, in one object.

A row is made from a marker that never changes. Who commits a marker writes no row: whoever lists
adds those that the index lacks. So an index may lag, be damaged or be missing: that costs time.
"""

import contextlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from graft.errors import ObjectNotFound, StoreError
from graft.store.documents import Tell, unless_damaged
from graft.store.store import Store

READERS = 16
"""Markers that are read at once."""

Row = TypeVar("Row", bound=BaseModel)


class Rows(BaseModel):
    """The document: rows by the names of their markers."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    rows: dict[str, dict[str, Any]]


def indexed_rows(
    store: Store,
    key: str,
    row: type[Row],
    names: Collection[str],
    make: Callable[[str], Row | None],
    settled: Callable[[Row], bool] = lambda row: True,
    tell: Tell | None = None,
) -> dict[str, Row]:
    """Return the row of each name, in the names' order; read what the index lacks, and add it.

    Args:
        store: where the index is, and the markers are.
        key: the index's key.
        row: the type of a row.
        names: of the markers that there are, as a listing has them.
        make: reads a marker and returns its row; None: there is none.
        settled: whether a row will not change any more; others are read each time.
        tell: what is told of damaged markers, which have no row then.

    Raises:
        StoreError: the store cannot be read, or a marker is damaged and nobody is told.
    """
    etag, rows = _read(store, key, row)
    lacking = [name for name in names if name not in rows]
    with ThreadPoolExecutor(READERS) as pool:
        new_rows = pool.map(lambda name: unless_damaged(partial(make, name), tell), lacking)
        made = dict(zip(lacking, new_rows, strict=True))
    available = rows | {name: new for name, new in made.items() if new}
    complete = {name: available[name] for name in names if name in available}
    indexed = {name: new for name, new in complete.items() if name in rows or settled(new)}
    if indexed.keys() != rows.keys():
        # For whoever comes next: where another was faster, or may not write, nothing is lost.
        dumped = {name: new.model_dump(mode="json") for name, new in indexed.items()}
        data = Rows(rows=dumped).model_dump_json().encode()
        with contextlib.suppress(StoreError):
            if etag is None:
                store.create(key, data)
            else:
                store.replace(key, data, etag)
    return complete


def _read(store: Store, key: str, row: type[Row]) -> tuple[str | None, dict[str, Row]]:
    """Return the index's etag, None without one, and its rows; none where it cannot be read."""
    try:
        stored = store.read(key)
    except ObjectNotFound:
        return None, {}
    try:
        dumped = Rows.model_validate_json(stored.data).rows
        return stored.etag, {name: row.model_validate(fields) for name, fields in dumped.items()}
    except ValidationError:  # damaged, or of another release
        return stored.etag, {}
