"""API keys of a server: a file of their hashes, names and scopes, which `graft keys` writes.

A key is 256 random bits, so its SHA-256 is enough: a salt and a slow hash are against the guessing
of what people choose. NIST SP 800-63B (5.1.2.2) asks of secrets of 112 bits or more for no more
than an approved one-way function.

The file is a person's own, or a mounted Secret's, so it lies in no store. Nothing here knows HTTP.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from graft.errors import InputError, NotFoundError
from graft.spec.section import Digest, Name, Section
from graft.store.directory import Directory

Scope = Literal["predict", "admin"]
"""What a key lets its holder do: ask models, or see how they are used."""

POLL_S = 5.0
"""How often a server reads its keys again, in seconds."""
LARGEST = 1_000_000
"""Most bytes of a file of keys: some thousands of them."""
PREFIX = "graft_"
"""How every key begins, by which scanners for leaked secrets find it."""
LONGEST = 200
"""Most characters of what is compared with the keys; one of ours has 49."""

logger = logging.getLogger(__name__)


class Key(Section):
    """A key as the file has it: whoever reads the file cannot use it."""

    name: Name
    """Whose it is, as logs say it."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """What it is for."""
    sha256: Digest
    """SHA-256 of the key."""
    created: AwareDatetime
    """When it was made."""


def _each_once(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    names = [key.name for key in keys]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"'{min(twice)}' stands twice")
    return keys


class KeyFile(Section):
    """What a file of keys has."""

    format: Literal[1] = 1
    """Its format; a later release may write another one."""
    keys: Annotated[tuple[Key, ...], AfterValidator(_each_once)]
    """The keys that are valid; who is in none may not enter."""


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file.

    Raises:
        NotFoundError: there is no such file.
        InputError: it cannot be read, or is no file of keys.
    """
    return _parsed(path, _content(path))


def new_key(path: Path, name: str, scopes: tuple[Scope, ...]) -> str:
    """Add a key to a file, which is made if there is none; return the key, which nobody has twice.

    Raises:
        InputError: it has a key of that name, or is no file of keys.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    with _locked(path):
        keys = read_keys(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise InputError(f"{path} has a key '{name}'; revoke it, or choose another name")
        created = datetime.now(UTC).replace(microsecond=0)
        try:
            key = Key(name=name, scopes=scopes, sha256=_sha256(text), created=created)
        except ValidationError as error:
            raise InputError(f"key {name!r}: {_problem(error)}") from error
        _write(path, (*keys, key))
    return text


def revoke_key(path: Path, name: str) -> None:
    """Remove the key of a name from a file.

    Raises:
        NotFoundError: there is no such key, or no file.
        InputError: it is no file of keys.
    """
    with _locked(path):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if left == keys:
            names = ", ".join(key.name for key in keys) or "none"
            raise NotFoundError(f"{path} has no key '{name}'; it has: {names}")
        _write(path, left)


class KeyRing:
    """The keys that a server takes: those of a file, read again as it changes."""

    def __init__(self, path: Path):
        """Read the keys of a file.

        Raises:
            InputError: it cannot be read, or is no file of keys.
        """
        self._path = path
        self._content = _content(path)
        self._keys = _parsed(path, self._content)
        self._last_logged = ""

    def find(self, text: str) -> Key | None:
        """Return the key that `text` is; how long that takes tells nothing about any key."""
        if len(text) > LONGEST:
            return None
        digest = _sha256(text)
        same = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return same[0] if same else None

    def follow(self, every_s: float = POLL_S, stop: threading.Event | None = None) -> None:
        """Read the file every `every_s` seconds, until `stop` is set."""
        stop = stop or threading.Event()
        while not stop.wait(every_s):
            self.look()

    def look(self) -> None:
        """Take what the file has now; while it cannot be read or is wrong, the last keys stay.

        It is read, not asked for its time: of a mounted Secret the folder is what changes.
        """
        try:
            content = _content(self._path)
            if content == self._content:
                self._last_logged = ""
                return
            self._keys = _parsed(self._path, content)
        except InputError as error:
            self._log_if_new(f"{error}; the keys that were read last stay valid")
            return
        self._content = content
        names = ", ".join(key.name for key in self._keys) or "none"
        self._log_if_new(f"{self._path} has changed: valid keys are {names}")

    def _log_if_new(self, message: str) -> None:
        if message != self._last_logged:
            logger.warning(message)
            self._last_logged = message


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path}: no such file; `graft keys new {path} NAME` makes it"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST:
        raise InputError(f"{path} is no file of keys: it has more than {LARGEST:,} bytes")
    return content


def _parsed(path: Path, content: bytes) -> tuple[Key, ...]:
    try:
        return KeyFile.model_validate_json(content).keys
    except ValidationError as error:
        raise InputError(
            f"{path} is no file of keys that this release reads: {_problem(error)}; "
            "expected what `graft keys new` writes"
        ) from error


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    document = KeyFile(keys=keys).model_dump_json(indent=2) + "\n"
    Directory(path.parent.absolute()).write(path.name, document.encode())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Have the folder of a file alone among those that change keys."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
