"""The store: one layout over a local directory or an S3 bucket.

Two kinds of object live in it. A *payload* carries its SHA-256 in its name
(`Store.put`), so writing it twice is harmless. A *marker* makes a thing exist:
it is created exclusively (`Store.create`), lists the payloads it commits as
`ObjectRef`, and never changes. Only *pointers* (`latest`, aliases, `head.json`)
move, by compare and swap (`Store.replace`). Readers start from a marker or a
pointer, so a writer killed at any byte leaves nothing to be mistaken for a result.
"""

import contextlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from graft import units
from graft.errors import (
    InputError,
    ObjectChanged,
    ObjectDamaged,
    ObjectExists,
    ObjectNotFound,
    ResourceError,
)
from graft.store import node_cache
from graft.store.backend import Backend, check_size, explained, open_regular
from graft.store.directory import Directory
from graft.store.marks import is_marked, rely_on
from graft.store.objects import ObjectRef, digest_of, payload_name, sha256, sha256_file
from graft.store.retries import swaps
from graft.store.s3 import PART_SIZE, S3Bucket

COPIERS = 8
"""Parts of a payload that are on their way at once."""
READS = 3
"""Times that a payload has to come with another SHA-256 to be damaged: a bit of it may have changed
on its way."""
_TICK_S = 0.02
"""After so many seconds a file that is written again has another time: see `digest_of`."""


class Store:
    """Everything Graft stores, under one root URI."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self.uri = backend.uri
        self.read = backend.read
        self.read_range = backend.read_range
        self.write = backend.write
        self.size = backend.size
        self.scan = backend.scan
        self.entries = backend.entries
        self.temporaries = backend.temporaries
        self.clock = backend.clock
        self.children = backend.children
        self.delete = backend.delete
        self.upload = backend.upload

    @classmethod
    def open(cls, uri: str) -> "Store":
        """Open ``s3://bucket/prefix`` or a local directory (created on first write)."""
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?", uri)
        if scheme and scheme[1].lower() == "s3":
            return cls(S3Bucket(uri))
        if not uri or (scheme and scheme[2]):
            raise InputError(f"store '{uri}': expected s3://bucket/prefix or a local directory")
        root = Path(uri).expanduser().absolute()
        if root.is_file():
            raise InputError(f"store '{uri}' is a file; expected a directory or s3://bucket/prefix")
        return cls(Directory(root))

    @property
    def is_directory(self) -> bool:
        """Whether other machines see the store only through a shared file system."""
        return isinstance(self._backend, Directory)

    def exists(self, key: str) -> bool:
        """Whether there is an object at `key`."""
        return self.size(key) is not None

    def create(self, key: str, data: bytes) -> None:
        """Create a marker exclusively.

        If the key holds exactly `data` already, that counts as success, since a retried request
        may meet its first try. A marker that must be exclusive therefore has to contain
        something unique, such as a random token.

        Raises:
            ObjectExists: another object has the key.
        """
        try:
            self._backend.create(key, data)
        except ObjectExists:
            try:
                mine = self.read(key).data == data
            except ObjectNotFound:  # deleted since
                mine = False
            if not mine:
                raise

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Move a pointer, if nobody has moved it since it was read with `etag`.

        Raises:
            ObjectChanged: somebody has.
        """
        try:
            self._backend.replace(key, data, etag)
        except ObjectChanged:
            if self.read(key).data != data:
                raise

    def point(self, key: str, data: bytes) -> None:
        """Set a pointer to `data`, whatever it was before; of several writers, the last wins.

        Raises:
            StoreError: others change it without end.
        """
        for _ in swaps(f"{self.uri}/{key}"):
            try:
                current = self.read(key)
            except ObjectNotFound:
                with contextlib.suppress(ObjectExists):
                    self.create(key, data)
                    return
            else:
                with contextlib.suppress(ObjectChanged):
                    self.replace(key, data, current.etag)
                    return

    def put(self, folder: str, name: str, content: bytes | Path) -> ObjectRef:
        """Write a payload into `folder` and return the reference its marker must hold.

        `name` gets the content's SHA-256 before its suffix: ``tail.safetensors``
        becomes ``tail-<sha256>.safetensors``. A payload that the store has is not sent again,
        unless it is marked to be removed, see `marks`: it then gets a name of its own.
        """
        if isinstance(content, Path):
            digest, size = sha256_file(content), content.stat().st_size
        else:
            digest, size = sha256(content), len(content)
        ref = ObjectRef(name=payload_name(name, digest), size=size, sha256=digest)
        stored = self.size(f"{folder}/{ref.name}")
        if stored is not None and is_marked(self._backend, f"{folder}/{ref.name}"):
            ref = ref.model_copy(update={"name": payload_name(name, digest, token_hex(4))})
            stored = None
        if stored != size:
            self._backend.upload(f"{folder}/{ref.name}", content)
        return ref

    def rely_on(self, prefixes: Sequence[str]) -> None:
        """Have what begins so stay, though nothing that is committed refers to it yet.

        For what lies under a name that follows from its content: whoever finds it there, and is
        about to commit something that refers to it, says so first, and looks again then. See
        `marks`.

        Raises:
            StoreError: it is being removed, and that does not end.
        """
        rely_on(self._backend, prefixes)

    def get(self, folder: str, ref: ObjectRef) -> bytes:
        """Return a payload's bytes, verified against its SHA-256."""
        key = f"{folder}/{ref.name}"
        for _ in range(READS):
            data = self.read(key, ref.size).data
            if (digest := sha256(data)) == ref.sha256:
                break
        self._verify(key, digest, ref)
        return data

    def get_shared(self, folder: str, ref: ObjectRef) -> bytes:
        """Return a payload's bytes as `get` does, but read them from a bucket once a node.

        For what many processes need, such as the trials of a sweep.
        """
        file = self.open_file(folder, ref)
        if file is None:
            return self.get(folder, ref)
        with file:
            return file.read()

    def open_file(self, folder: str, ref: ObjectRef) -> BinaryIO | None:
        """Open a local file with a payload's bytes, verified against its SHA-256.

        From a directory store that is the store's own file; from a bucket it is a copy in the
        node-local cache, which all processes of the node share. It stays there for as long as
        somebody has it open or mapped. None: the cache has no room; read parts (`read_range`).

        Raises:
            ObjectNotFound: there is no such payload.
            ObjectDamaged: it is not what its marker says.
        """
        key = f"{folder}/{ref.name}"
        path = self._backend.local_path(key)
        if path is None:
            return node_cache.open_copy(ref, lambda file: self._copy(key, ref, file))
        with explained(f"{self.uri}/{key}"), contextlib.ExitStack() as opened:
            file = opened.enter_context(open_regular(path))
            check_size(f"{self.uri}/{key}", os.fstat(file.fileno()).st_size, ref.size)
            self._verify(key, digest_of(file), ref)
            opened.pop_all()
        return file

    def cacheable(self, folder: str, refs: Sequence[ObjectRef]) -> int:
        """Return how many payloads, the first ones, have room on this node beside one another.

        All processes that read them agree: else each would have the others' removed, over and over.

        Raises:
            ResourceError: one of them does not fit even alone.
        """
        if self.is_directory:
            return len(refs)
        room = node_cache.usable_room()
        largest = max((ref.size for ref in refs), default=0)
        if largest > room:
            raise ResourceError(
                f"{self.uri}/{folder}: the node-local cache has room for {units.size(room)}, and "
                f"one file takes {units.size(largest)}; set GRAFT_CACHE_GB to more, or GRAFT_CACHE "
                "to a folder on a larger disk"
            )
        return sum(total <= room for total in accumulate(ref.size for ref in refs))

    def cache_file(self, ref: ObjectRef, path: Path) -> None:
        """Move a file that was just put as `ref` into the node-local cache, for `open_file`.

        `path` must be in the cache's folder. Where it has no room, or with a directory store, the
        file is removed instead.
        """
        if self.is_directory:
            path.unlink()
        else:
            node_cache.adopt(ref, path)

    def _copy(self, key: str, ref: ObjectRef, file: BinaryIO) -> None:
        """Read a payload into a file of its size, in parallel parts, and verify it."""

        def copy(start: int) -> None:
            data = self.read_range(key, start, min(PART_SIZE, ref.size - start))
            os.pwrite(file.fileno(), data, start)

        for _ in range(READS):
            with ThreadPoolExecutor(COPIERS) as pool:
                list(pool.map(copy, range(0, ref.size, PART_SIZE)))
            if (digest := digest_of(file)) == ref.sha256:
                break
            time.sleep(_TICK_S)
        self._verify(key, digest, ref)

    def _verify(self, key: str, digest: str, ref: ObjectRef) -> None:
        if digest != ref.sha256:
            raise ObjectDamaged(
                f"{self.uri}/{key} is damaged: its SHA-256 is {digest[:12]}…, "
                f"the marker that committed it says {ref.sha256[:12]}…"
            )
