"""Documents: the markers and pointers that are JSON, read as the pydantic models they follow.

Each carries the number of its format and the release that wrote it, before its model's own fields.
A model's `FORMAT` is the number that this release writes, and the highest that it reads. It rises
with the first field that a release adds, since earlier ones refuse what they do not know; a fixture
store in tests/stores is added then. Each kind of document has a number of its own: older jobs go on
with those that have not changed. What 48723a8 wrote has no number, and counts as 1.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from graft import __version__
from graft.errors import ObjectDamaged, ObjectExists, ObjectNotFound
from graft.store.store import Store


class Marker(BaseModel):
    """A marker that names the folder in which the payloads that it lists lie."""

    @property
    def folder(self) -> str:
        """The store's folder, which must be the marker's own."""
        raise NotImplementedError


_RELEASE = re.compile(r"[0-9][0-9a-z.+-]{0,30}")

Document = TypeVar("Document", bound=BaseModel)
Read = TypeVar("Read")
Tell = Callable[[ObjectDamaged], object]
"""Is told of a damaged object, which a list then leaves out."""


def read_document(
    store: Store, key: str, model: type[Document], advice: str | None = None
) -> Document:
    """Return the document at `key`.

    Raises:
        ObjectNotFound: there is no object.
        ObjectDamaged: as `parse_document`.
    """
    return parse_document(store, key, store.read(key).data, model, advice)


def find_document(store: Store, key: str, model: type[Document]) -> Document | None:
    """Return the document at `key`, None where there is no object.

    Raises:
        ObjectDamaged: as `parse_document`.
    """
    try:
        return read_document(store, key, model)
    except ObjectNotFound:
        return None


def record_once(
    store: Store, key: str, model: type[Document], make: Callable[[], Document]
) -> Document:
    """Return the document at `key`; where there is none, make it, so that all have the first one.

    Raises:
        ObjectDamaged: as `parse_document`.
    """
    if document := find_document(store, key, model):
        return document
    document = make()
    try:
        store.create(key, document_bytes(document))
    except ObjectExists:  # another was first
        return read_document(store, key, model)
    return document


def unless_damaged(read: Callable[[], Read], tell: Tell | None) -> Read | None:
    """Return what `read` does; where that is damaged, tell and return None.

    Raises:
        ObjectDamaged: it is, and nobody is to be told.
    """
    try:
        return read()
    except ObjectDamaged as error:
        if tell is None:
            raise
        tell(error)
        return None


def document_bytes(model: BaseModel, compact: bool = False) -> bytes:
    """Return a marker or a pointer as it lies in the store; `compact`: on one line."""
    fields = model.model_dump_json(by_alias=True, indent=None if compact else 1)
    head = f'{{"format": {format_of(type(model))}, "release": "{__version__}",'
    return (head + fields.removeprefix("{")).encode()


def format_of(model: type[BaseModel]) -> int:
    """Return the number of the format that this release writes of a kind of document."""
    number: int = getattr(model, "FORMAT", 1)
    return number


def parse_document(
    store: Store, key: str, data: bytes, model: type[Document], advice: str | None = None
) -> Document:
    """Return the document in `data`, which was read from `key`.

    For callers that need the object's etag, too; others use `read_document`.

    Raises:
        ObjectDamaged: the data do not follow `model`, are in a newer format, or are a marker of
            another folder; the message ends with `advice`.
    """
    location = f"{store.uri}/{key}"
    try:
        content = from_json(data)
    except ValueError as error:
        raise unreadable(location, f"Invalid JSON: {error}", advice) from error
    if isinstance(content, dict):
        content = _without_format(location, content, format_of(model))
    try:
        document = model.model_validate(content)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        problem = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
        problem += f", and {more} more" if more else ""
        raise unreadable(location, problem, advice) from error
    if isinstance(document, Marker) and document.folder != key.rpartition("/")[0]:
        raise ObjectDamaged(
            f"{store.uri}/{key} is the marker of {document.folder}, not of its own folder; it was "
            "moved or changed since it was written" + (f"; {advice}" if advice else "")
        )
    return document


def _without_format(location: str, content: dict[str, Any], newest: int) -> dict[str, Any]:
    """Return a document's own fields.

    Raises:
        ObjectDamaged: it is in a newer format than `newest`, the last that this release knows.
    """
    number, release = content.pop("format", 1), content.pop("release", None)
    if isinstance(number, int) and number > newest:
        known = isinstance(release, str) and _RELEASE.fullmatch(release)
        raise ObjectDamaged(
            f"{location} is in format {number}; this is Graft {__version__}, which reads up to "
            f"format {newest}. Install {f'Graft {release}, or newer' if known else 'a newer one'}"
        )
    return content


def unreadable(location: str, problem: str, advice: str | None = None) -> ObjectDamaged:
    """Return the error of an object that is there, and is not what it should be."""
    return ObjectDamaged(
        f"{location} cannot be read by this release of Graft ({problem}); it is damaged, or "
        "a newer release wrote it" + (f"; {advice}" if advice else "")
    )


def read_text(store: Store, key: str) -> str:
    """Return the text at `key`.

    Raises:
        ObjectNotFound: there is no object.
        ObjectDamaged: it is no text.
    """
    try:
        return store.read(key).data.decode()
    except UnicodeDecodeError as error:
        raise ObjectDamaged(f"{store.uri}/{key} is damaged: it is no UTF-8 text") from error
