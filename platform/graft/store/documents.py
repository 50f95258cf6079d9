"""Documents: the markers and pointers that are JSON, read as the pydantic models they follow."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from graft.errors import ObjectNotFound, StoreError
from graft.store.store import Store


class Marker(BaseModel):
    """A marker that names the folder in which the payloads that it lists lie."""

    @property
    def folder(self) -> str:
        """The store's folder, which must be the marker's own."""
        raise NotImplementedError


Document = TypeVar("Document", bound=BaseModel)


def read_document(
    store: Store, key: str, model: type[Document], advice: str | None = None
) -> Document:
    """Return the document at `key`.

    Raises:
        ObjectNotFound: there is no object.
        StoreError: as `parse_document`.
    """
    return parse_document(store, key, store.read(key).data, model, advice)


def find_document(store: Store, key: str, model: type[Document]) -> Document | None:
    """Return the document at `key`, None where there is no object.

    Raises:
        StoreError: as `parse_document`.
    """
    try:
        return read_document(store, key, model)
    except ObjectNotFound:
        return None


def parse_document(
    store: Store, key: str, data: bytes, model: type[Document], advice: str | None = None
) -> Document:
    """Return the document in `data`, which was read from `key`.

    For callers that need the object's etag, too; others use `read_document`.

    Raises:
        StoreError: the data do not follow `model`, or are a marker of another folder; the message
            ends with `advice`.
    """
    try:
        document = model.model_validate_json(data)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        problem = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
        raise StoreError(
            f"{store.uri}/{key} cannot be read by this release of Graft ({problem}"
            + (f", and {more} more" if more else "")
            + "); it is damaged, or a newer release wrote it"
            + (f"; {advice}" if advice else "")
        ) from error
    if isinstance(document, Marker) and document.folder != key.rpartition("/")[0]:
        raise StoreError(
            f"{store.uri}/{key} is the marker of {document.folder}, not of its own folder; it was "
            "moved or changed since it was written" + (f"; {advice}" if advice else "")
        )
    return document


def read_text(store: Store, key: str) -> str:
    """Return the text at `key`.

    Raises:
        ObjectNotFound: there is no object.
        StoreError: it is no text.
    """
    try:
        return store.read(key).data.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{store.uri}/{key} is damaged: it is no UTF-8 text") from error
