"""Recorded specs: what a run, a sweep or a job was begun with, under its id."""

import secrets
from datetime import UTC, datetime

from graft.errors import InputError, NotFoundError, ObjectNotFound
from graft.spec import Kind, nearest, parse_job, parse_yaml
from graft.store.documents import read_text, unreadable
from graft.store.store import Store


def id_ending() -> str:
    """Return what makes an id new: ``-20260131-235959-1a2b``, the time in UTC and a random part."""
    return f"-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def recorded_text(store: Store, sort: str, name: str) -> str:
    """Return the text of the spec of a `sort`: ``run``, ``sweep`` or ``job``.

    Raises:
        NotFoundError: there is none of this name; the nearest is named.
    """
    folder = f"{sort}s/"
    try:
        return read_text(store, f"{folder}{name}/spec.yaml")
    except ObjectNotFound as error:
        hint = nearest(name, store.children(folder))
        raise NotFoundError(f"no {sort} '{name}' in {store.uri}{hint}") from error


def read_recorded_spec(store: Store, sort: str, name: str, kind: type[Kind]) -> Kind:
    """Return the spec of a run or a sweep, with all resolved.

    Raises:
        NotFoundError: as `recorded_text`.
        ObjectDamaged: it is no such spec, or a newer release's.
    """
    key = f"{sort}s/{name}/spec.yaml"
    text = recorded_text(store, sort, name)
    try:
        return parse_job(parse_yaml(text, key), key, kind)
    except InputError as error:
        raise unreadable(f"{store.uri}/{key}", str(error)) from error
