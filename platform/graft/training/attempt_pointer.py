"""Attempts at a run, a sweep or a report, of which only the newest may publish.

<folder>/attempt-<n>/attempt.json  claims attempt n
<folder>/head.json                 points at the current attempt
<folder>/lease.json                who works on a sweep or a report now; gone when that ends
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from graft.activations.lease import DEFAULT_TERMS, LeaseTerms, hold_lease
from graft.errors import InputError, ObjectChanged, ObjectExists, ObjectNotFound, RunFailed
from graft.registry import Fence
from graft.spec import Section
from graft.store import Store, document_bytes, find_document, parse_document
from graft.store.retries import swaps


class AttemptPointer(Section):
    """The pointer ``head.json`` to the current attempt."""

    attempt: int
    """Its number, from 1."""
    token: str
    """Unique to the claim: tells this attempt from another of the same number."""


def read_pointer(store: Store, folder: str) -> AttemptPointer | None:
    """Return the current attempt at what lies in a folder of the store, None before the first."""
    return find_document(store, _key(folder), AttemptPointer)


def claim_attempt(store: Store, folder: str) -> AttemptPointer:
    """Take the next attempt; whoever held it before can publish nothing any more.

    Raises:
        StoreError: others claim attempts without end.
    """
    turn = swaps(f"{store.uri}/{_key(folder)}")
    while True:
        next(turn)
        try:
            current = store.read(_key(folder))
        except ObjectNotFound:
            current = None
        etag = current.etag if current else None
        number = 1
        if current:
            number += parse_document(store, _key(folder), current.data, AttemptPointer).attempt
        pointer = AttemptPointer(attempt=number, token=secrets.token_hex(8))
        data = document_bytes(pointer)
        claim = f"{folder}/attempt-{number}/attempt.json"
        try:
            store.create(claim, data)
        except ObjectExists:
            # Claimed by another, which may have died before it moved the pointer: move it on.
            _move(store, folder, store.read(claim).data, etag)
            continue
        if _move(store, folder, data, etag):
            return pointer


def check_attempt(store: Store, folder: str, pointer: AttemptPointer) -> None:
    """Refuse to publish for an attempt that is no longer the current one.

    Raises:
        RunFailed: a newer attempt has taken over.
    """
    current = read_pointer(store, folder)
    if current != pointer:
        newer = current.attempt if current else "none"
        name = folder.rpartition("/")[2]
        raise RunFailed(
            f"{name}: attempt {pointer.attempt} was overtaken by attempt {newer}; "
            "it publishes nothing"
        )


@contextmanager
def hold_attempt(
    store: Store,
    folder: str,
    say: Callable[[str], object],
    take_over: bool = False,
    terms: LeaseTerms = DEFAULT_TERMS,
) -> Iterator[Fence]:
    """Hold the next attempt at a sweep or report during the block; yield its fence.

    The lease of an earlier attempt that has died is waited for; it expires in half a minute.

    Args:
        store: where it is recorded.
        folder: the store's folder of it, such as ``sweeps/<sweep>``.
        say: called with a line where another process holds it.
        take_over: do not ask for the lease: whatever held it is known to be over, or overtaken.
        terms: of the lease.

    Raises:
        InputError: an earlier attempt is at work.
    """
    name, key = folder.rpartition("/")[2], f"{folder}/lease.json"

    def waiting(holder: str) -> None:
        say(f"{holder} had {name}; waiting up to {terms.expiry_s:g} s to see whether it has died")

    def alive(holder: str) -> None:
        raise InputError(
            f"{name} is at work already: {holder}; let it end, or stop it there and try again"
        )

    if take_over:
        store.delete(key)
    with hold_lease(store, key, replace(terms, waiting=waiting, alive=alive)):
        yield partial(check_attempt, store, folder, claim_attempt(store, folder))


def _key(folder: str) -> str:
    return f"{folder}/head.json"


def _move(store: Store, folder: str, data: bytes, etag: str | None) -> bool:
    """Point at a claim, unless the pointer was moved meanwhile; return whether it was ours."""
    try:
        if etag is None:
            store.create(_key(folder), data)
        else:
            store.replace(_key(folder), data, etag)
    except (ObjectExists, ObjectChanged):
        return False
    return True
