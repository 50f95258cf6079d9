"""The store: one layout over a local directory or an S3 bucket.

Two kinds of object live in it. A *payload* carries its SHA-256 in its name
(`Store.put`), so writing it twice is harmless. A *marker* makes a thing exist:
it is created exclusively (`Store.create`), lists the payloads it commits as
`ObjectRef`, and never changes. Only *pointers* (`latest`, aliases, `head.json`)
move, by compare and swap (`Store.replace`). Whoever reads starts from a marker
or a pointer, so a writer killed at any byte leaves nothing to mistake for a result.
"""

import contextlib
import hashlib
import io
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from graft.backend import Backend, Directory, Versioned, explained
from graft.errors import InputError, ObjectChanged, ObjectExists, ObjectNotFound, StoreError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

PART_SIZE = 16 << 20
"""Objects larger than this many bytes travel in parallel parts."""
CACHE_GRACE_S = 60
"""What was used less than as many seconds ago stays in the node-local cache, budget or not."""

LEFTOVER_S = 24 * 3600
"""No process works on one half-done file for as long."""


class ObjectRef(BaseModel):
    """A payload as the marker that commits it lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Key relative to the marker's folder."""
    size: int
    """Bytes."""
    sha256: str


def sha256(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_name(name: str, digest: str) -> str:
    """Return what a payload called `name` is called in the store."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{digest}{dot}{suffix}"


def cache_folder() -> Path:
    """The node-local cache of fetched objects: ``GRAFT_CACHE``, else ``~/.cache/graft``."""
    return Path(os.environ.get("GRAFT_CACHE") or Path.home() / ".cache" / "graft")


def cache_budget(folder: Path) -> int:
    """Bytes that the node-local cache may hold: ``GRAFT_CACHE_GB``, else half of its disk."""
    given = gigabytes("GRAFT_CACHE_GB")
    return shutil.disk_usage(folder).total // 2 if given is None else given


def gigabytes(variable: str) -> int | None:
    """Return the bytes that an environment variable gives in gigabytes; None where it is unset.

    Raises:
        InputError: it is no number, or a negative one.
    """
    given = os.environ.get(variable)
    if not given:
        return None
    try:
        number = float(given)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise InputError(f"{variable} is '{given}'; expected a number of gigabytes, at least 0")
    return int(number * 1e9)


def cache_room(folder: Path) -> int:
    """Bytes that the node-local cache can hold: its budget, or what its disk has for it."""
    held = sum(size for _, size, _ in _cached(folder))
    return min(cache_budget(folder), shutil.disk_usage(folder).free + held)


def make_room(folder: Path, size: int) -> None:
    """Remove files of the node-local cache, least recently used first, until `size` bytes fit.

    Who has a removed file mapped or open keeps reading it: its space is free once the
    last one is done. What was used a moment ago stays, for whoever is about to open it.
    """
    now, files = time.time(), _cached(folder)
    held = sum(size for _, size, _ in files)
    room = min(cache_budget(folder), shutil.disk_usage(folder).free + held)
    excess = held + size - room
    for used, freed, path in sorted(files):
        if excess <= 0 or now - used < CACHE_GRACE_S:
            return
        path.unlink(missing_ok=True)
        excess -= freed


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-done in the node-local cache, a day ago or more."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(path)


def _cached(folder: Path) -> list[tuple[float, int, Path]]:
    """Return when it was last used, size and path of every file of the node-local cache."""
    files = []
    for path in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            if not path.name.startswith("."):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
    return files


class Store:
    """Everything Graft keeps, under one root URI."""

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
            return cls(_S3(uri))
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

        Finding one's own bytes counts as success, since a retried request may meet
        its first try; what must be exclusive therefore has to hold something unique.

        Raises:
            ObjectExists: another object has the key.
        """
        try:
            self._backend.create(key, data)
        except ObjectExists:
            if self.read(key).data != data:
                raise

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Move a pointer, if it still is what was read with `etag`.

        Raises:
            ObjectChanged: it moved meanwhile.
        """
        try:
            self._backend.replace(key, data, etag)
        except ObjectChanged:
            if self.read(key).data != data:
                raise

    def point(self, key: str, data: bytes) -> None:
        """Set a pointer to `data`, whatever it was; the last writer wins."""
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
        becomes ``tail-<sha256>.safetensors``. A payload that is there is not sent again.
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

        A directory store's own file, else a copy in the node-local cache, where it
        is named by its SHA-256 and shared by all that runs on the node.
        """
        key = f"{folder}/{ref.name}"
        if local := self._backend.local_path(key):
            if not local.exists():
                raise ObjectNotFound(f"{self.uri}/{key} does not exist")
            self._verify(key, sha256_file(local), ref)
            return local
        cached = cache_folder() / ref.sha256[:2] / ref.sha256
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

    def keep(self, ref: ObjectRef, path: Path) -> None:
        """Move a file in the node-local cache that was just put to where `fetch` looks for it.

        Nothing stays of it where the store is a directory, whose own file `fetch` returns.
        """
        if self.is_directory:
            path.unlink()
            return
        cached = cache_folder() / ref.sha256[:2] / ref.sha256
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


class _S3:
    """A bucket, or a prefix in one, on any endpoint that speaks S3.

    Endpoint, region, credentials and CA come from the standard AWS variables
    (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_CA_BUNDLE``, ...).
    """

    def __init__(self, uri: str):
        parts = urlsplit(uri)
        if not parts.netloc:
            raise InputError(f"store '{uri}': expected s3://bucket/prefix, found no bucket")
        self.bucket = parts.netloc
        self.prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._client = _s3_client(self.uri)

    def read(self, key: str) -> Versioned:
        with self._explained(key):
            answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return Versioned(answer["Body"].read(), answer["ETag"])

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._explained(key):
            answer = self._client.get_object(
                Bucket=self.bucket,
                Key=self.prefix + key,
                Range=f"bytes={start}-{start + length - 1}",
            )
            return answer["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        with self._explained(key):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def create(self, key: str, data: bytes) -> None:
        with self._explained(key, conflict=ObjectExists):
            self._client.put_object(
                Bucket=self.bucket, Key=self.prefix + key, Body=data, IfNoneMatch="*"
            )

    def replace(self, key: str, data: bytes, etag: str) -> None:
        with self._explained(key, conflict=ObjectChanged):
            self._client.put_object(
                Bucket=self.bucket, Key=self.prefix + key, Body=data, IfMatch=etag
            )

    def upload(self, key: str, content: bytes | Path) -> None:
        source = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
        with source, self._explained(key):
            self._client.upload_fileobj(
                source, self.bucket, self.prefix + key, Config=_transfer_config()
            )

    def download(self, key: str, path: Path) -> None:
        with self._explained(key):
            self._client.download_file(
                self.bucket, self.prefix + key, str(path), Config=_transfer_config()
            )

    def local_path(self, key: str) -> Path | None:
        return None

    def size(self, key: str) -> int | None:
        # Not a HEAD: its answer has no body, so a missing bucket would pass for a missing key.
        for found, size in self.scan(key):
            return size if found == key else None
        return None

    def scan(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self.prefix), item["Size"]

    def children(self, prefix: str) -> list[str]:
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix, Delimiter="/"
            )
            return [
                common["Prefix"].removeprefix(self.prefix + prefix).rstrip("/")
                for page in pages
                for common in page.get("CommonPrefixes", [])
            ]

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    @contextlib.contextmanager
    def _explained(
        self, key: str, conflict: type[ObjectExists | ObjectChanged] | None = None
    ) -> Iterator[None]:
        """Turn botocore's errors into ours, in one line each."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions

        try:
            yield
        except exceptions.ClientError as error:
            self._raise(key, error.response["Error"].get("Code", ""), conflict, error)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise StoreError(
                f"{self.uri}: no credentials found; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            ) from error
        except (
            exceptions.EndpointConnectionError,
            exceptions.ConnectTimeoutError,
            exceptions.ReadTimeoutError,
            exceptions.ConnectionClosedError,
            exceptions.SSLError,
            exceptions.ProxyConnectionError,
        ) as error:
            raise StoreError(
                f"{self.uri}: the endpoint {self._client.meta.endpoint_url} cannot be reached "
                f"({type(error).__name__}); check AWS_ENDPOINT_URL, AWS_CA_BUNDLE and the network"
            ) from error
        except exceptions.ParamValidationError as error:
            raise StoreError(f"{self.uri}: '{self.bucket}' cannot be a bucket's name") from error
        except (exceptions.BotoCoreError, Boto3Error) as error:
            # An upload's or download's own error hides the server's answer in its cause.
            cause = error.__context__
            if isinstance(cause, exceptions.ClientError):
                self._raise(key, cause.response["Error"].get("Code", ""), conflict, error)
            raise StoreError(f"{self.uri}/{key}: {error}") from error

    def _raise(
        self,
        key: str,
        code: str,
        conflict: type[ObjectExists | ObjectChanged] | None,
        error: Exception,
    ) -> NoReturn:
        where = f"{self.uri}/{key}"
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409") and conflict:
            raise conflict(f"{where}: another writer was first") from error
        if code in ("NoSuchKey", "404"):
            raise ObjectNotFound(f"{where} does not exist") from error
        if code == "NoSuchBucket":
            raise StoreError(
                f"{self.uri}: bucket '{self.bucket}' does not exist at "
                f"{self._client.meta.endpoint_url}; create it, or check AWS_ENDPOINT_URL"
            ) from error
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            raise StoreError(
                f"{self.uri}: the credentials were refused ({code}); "
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
            ) from error
        if code in ("AccessDenied", "403", "Forbidden"):
            raise StoreError(
                f"{self.uri}: access denied; the credentials may not use bucket '{self.bucket}'"
            ) from error
        raise StoreError(f"{where}: the endpoint answered {code or error}") from error


def _s3_client(uri: str) -> "S3Client":
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    # A path-style address needs no DNS name per bucket, as servers other than AWS expect.
    elsewhere = any(os.environ.get(f"AWS_ENDPOINT_URL{end}") for end in ("", "_S3"))
    config = Config(
        connect_timeout=3,
        read_timeout=60,
        retries={"total_max_attempts": 4, "mode": "standard"},
        max_pool_connections=32,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if elsewhere else "auto"},
    )
    try:
        # boto3 itself reads AWS_DEFAULT_REGION alone; servers other than AWS take any region.
        session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
        client: S3Client = session.client(
            "s3", config=config, region_name=session.region_name or "us-east-1"
        )
    except (BotoCoreError, ValueError) as error:  # no such profile, an endpoint that is no URL
        raise StoreError(f"{uri}: {error}; check the AWS_... variables") from error
    return client


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_SIZE, multipart_chunksize=PART_SIZE, max_concurrency=8
    )
