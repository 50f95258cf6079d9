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
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from graft.errors import InputError, ObjectChanged, ObjectExists, ObjectNotFound, StoreError
from graft.store.backend import Backend, explained
from graft.store.directory import Directory
from graft.store.node_cache import cache_folder, cached_payload, make_room
from graft.store.objects import ObjectRef, payload_name, sha256, sha256_file
from graft.store.s3 import S3Bucket


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
        self.children = backend.children
        self.delete = backend.delete

    @classmethod
    def open(cls, uri: str) -> "Store":
        """Open ``s3://bucket/prefix`` or a local directory (created on first write)."""
        scheme = urlsplit(uri).scheme
        if scheme == "s3":
            return cls(S3Bucket(uri))
        if not uri or (scheme and "://" in uri):
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
            if self.read(key).data != data:
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
        """Set a pointer to `data`, whatever it was before; of several writers, the last wins."""
        while True:
            try:
                current = self.read(key)
            except ObjectNotFound:
                with contextlib.suppress(ObjectExists):
                    return self.create(key, data)
            else:
                with contextlib.suppress(ObjectChanged):
                    return self.replace(key, data, current.etag)

    def put(self, folder: str, name: str, content: bytes | Path) -> ObjectRef:
        """Write a payload into `folder` and return the reference its marker must hold.

        `name` gets the content's SHA-256 before its suffix: ``tail.safetensors``
        becomes ``tail-<sha256>.safetensors``. A payload that the store has is not sent again.
        """
        if isinstance(content, Path):
            digest, size = sha256_file(content), content.stat().st_size
        else:
            digest, size = sha256(content), len(content)
        ref = ObjectRef(name=payload_name(name, digest), size=size, sha256=digest)
        key = f"{folder}/{ref.name}"
        if self.size(key) != size:
            self._backend.upload(key, content)
        return ref

    def get(self, folder: str, ref: ObjectRef) -> bytes:
        """Return a payload's bytes, verified against its SHA-256."""
        data = self.read(f"{folder}/{ref.name}").data
        self._verify(f"{folder}/{ref.name}", sha256(data), ref)
        return data

    def fetch(self, folder: str, ref: ObjectRef) -> Path:
        """Return a local file with a payload's bytes, verified against its SHA-256.

        From a directory store that is the store's own file; from a bucket it is a copy in the
        node-local cache, which all processes of the node share.
        """
        key = f"{folder}/{ref.name}"
        if local := self._backend.local_path(key):
            if not local.exists():
                raise ObjectNotFound(f"{self.uri}/{key} does not exist")
            self._verify(key, sha256_file(local), ref)
            return local
        cached = cached_payload(ref)
        with explained(f"the node-local cache {cached}"):
            with contextlib.suppress(FileNotFoundError):
                if cached.stat().st_size == ref.size:
                    with contextlib.suppress(PermissionError):  # another user's
                        os.utime(cached)  # now the most recently used
                    return cached
            cached.parent.mkdir(parents=True, exist_ok=True)
            make_room(cache_folder(), ref.size)
            with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".tmp-") as folder:
                partial = Path(folder, ref.sha256)
                self._backend.download(key, partial)
                self._verify(key, sha256_file(partial), ref)
                os.replace(partial, cached)
        return cached

    def cache_file(self, ref: ObjectRef, path: Path) -> None:
        """Move a file that was just put as `ref` into the node-local cache, where `fetch` finds it.

        `path` must be on the cache's disk. With a directory store the file is removed instead,
        since `fetch` returns the store's own.
        """
        if self.is_directory:
            path.unlink()
            return
        cached = cached_payload(ref)
        with explained(f"the node-local cache {cached}"):
            cached.parent.mkdir(exist_ok=True)
            make_room(cache_folder(), ref.size)
            os.replace(path, cached)

    def _verify(self, key: str, digest: str, ref: ObjectRef) -> None:
        if digest != ref.sha256:
            raise StoreError(
                f"{self.uri}/{key} is damaged: its SHA-256 is {digest[:12]}…, "
                f"the marker that committed it says {ref.sha256[:12]}…"
            )
