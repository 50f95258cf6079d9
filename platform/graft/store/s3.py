"""A bucket on any endpoint that speaks S3, as a store's backend; the only user of boto3."""

import contextlib
import hashlib
import io
import math
import os
import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Required, TypedDict, Unpack

from graft.errors import (
    InputError,
    ObjectBroken,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    ObjectUnreadable,
    StoreDenied,
    StoreError,
    StoreLost,
)
from graft.store.backend import (
    LARGEST_DOCUMENT,
    Entry,
    Versioned,
    check_size,
    checked,
    checked_folder,
)
from graft.store.retries import tries

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

READS = 8
"""Requests for an object, without a byte more of it, before it counts as unreadable."""
ALIKE = 3
"""Times that an object has to come alike to be believed against its ETag. Twice is too few: of a
document's few hundred bits, the same one may change again."""
_CHUNK = 1 << 20
PART_SIZE = 16 << 20
"""Objects larger than this many bytes travel in parallel parts."""


class _Condition(TypedDict, total=False):
    """On what a write depends."""

    IfMatch: str
    IfNoneMatch: str


class _Get(TypedDict, total=False):
    """A request for an object."""

    Bucket: Required[str]
    Key: Required[str]
    Range: str
    IfMatch: str


class S3Bucket:
    """A bucket, or a prefix in one, on any endpoint that speaks S3.

    Endpoint, region, credentials and CA come from the standard AWS variables
    (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_CA_BUNDLE``, ...).
    """

    def __init__(self, uri: str):
        self.bucket, prefix = bucket_and_key(uri)
        if not self.bucket:
            raise InputError(f"store '{uri}': expected s3://bucket/prefix, found no bucket")
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._client = _s3_client(self.uri)

    def read(self, key: str, limit: int = LARGEST_DOCUMENT) -> Versioned:
        return self._read(key, 0, None, limit)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._read(key, start, length, length).data

    def write(self, key: str, data: bytes) -> None:
        with self._explained(key):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def create(self, key: str, data: bytes) -> None:
        self._put_if(key, data, ObjectExists, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> None:
        self._put_if(key, data, ObjectChanged, IfMatch=etag)

    def upload(self, key: str, content: bytes | Path) -> None:
        source = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
        with source, self._explained(key):
            self._client.upload_fileobj(
                source, self.bucket, self._key(key), Config=_transfer_config()
            )

    def local_path(self, key: str) -> Path | None:
        return None

    def size(self, key: str) -> int | None:
        # Not a HEAD: without a body in its answer, a missing bucket looks like a missing key.
        for first in self._list(self._checked(key)):
            return first.size if first.key == key else None
        return None

    def scan(self, prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        for entry in self._objects(prefix, after):
            yield entry.key, entry.size

    def entries(self, prefix: str) -> Iterator[Entry]:
        yield from self._objects(prefix)

    def temporaries(self) -> Iterator[Entry]:
        # A multipart upload that was broken off is no object; a rule of the bucket's ends it.
        yield from ()

    def clock(self) -> float:
        with self._explained(""):
            answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise StoreError(f"{self.uri}: the endpoint does not say what time it has")
        return parsedate_to_datetime(date).timestamp()

    def _objects(self, prefix: str, after: str = "") -> Iterator[Entry]:
        checked_folder(self.uri, prefix)
        for entry in self._list(prefix, after):
            if not entry.key.endswith("/"):  # a folder that somebody made in a console
                checked(self.uri, entry.key)
                yield entry

    def children(self, prefix: str) -> list[str]:
        checked_folder(self.uri, prefix)
        start = self.prefix + prefix
        folders = [
            common["Prefix"]
            for page in self._pages(start, Delimiter="/")
            for common in page.get("CommonPrefixes", [])
        ]
        return [checked(self.uri, folder[len(start) : -1]) for folder in folders]

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def _put_if(
        self,
        key: str,
        data: bytes,
        conflict: type[ObjectExists | ObjectChanged],
        **condition: Unpack[_Condition],
    ) -> None:
        """Write the object on a condition; raise `conflict` where it does not hold."""
        turn = tries(f"{self.uri}/{key}: another write was always under way", failure=StoreLost)
        while True:
            next(turn)
            with contextlib.suppress(_Undecided, _BrokenError), self._explained(key, conflict):
                self._client.put_object(
                    Bucket=self.bucket, Key=self._key(key), Body=data, **condition
                )
                return

    def _read(self, key: str, start: int, length: int | None, limit: int) -> Versioned:
        """Return an object, or `length` bytes of it from `start` on; `limit` are the most.

        botocore repeats a request, but not one whose answer broke off in its body: that is read
        on from where it broke, if the object is the same still, else anew. A whole object that is
        not what its ETag says is read anew, too: on plain HTTP nothing else tells of a bit that
        changed on its way to a document or a source's image. What comes alike `ALIKE` times in a
        row is believed, since there are endpoints whose ETags are something else.
        """
        data, request = bytearray(), _Get(Bucket=self.bucket, Key=self._key(key))
        doubted, alike = bytearray(), 0
        end = "" if length is None else start + length - 1
        problem = (
            f"{self.uri}/{key}: the connection broke off each time, or changed what came; check "
            "the network"
        )
        turn = tries(problem, READS, ObjectBroken)
        while True:
            next(turn)
            if length is not None or data:
                request["Range"] = f"bytes={start + len(data)}-{end}"
            try:
                with self._explained(key, ObjectChanged):
                    answer = self._client.get_object(**request)
            except ObjectChanged:  # written over meanwhile: begin again
                data, request = bytearray(), _Get(Bucket=self.bucket, Key=self._key(key))
                continue
            except (ValueError, _BrokenError):  # it broke off within a header, a time or a number
                continue
            if not {"ETag", "ContentLength"} <= answer.keys():
                answer["Body"].close()  # it broke off before the body
                continue
            before, whole = len(data), len(data) + answer["ContentLength"]
            if whole > limit:
                answer["Body"].close()
                check_size(f"{self.uri}/{key}", whole, limit)
            with contextlib.suppress(*_broken_body()), contextlib.closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(_CHUNK):
                    data += chunk
            if len(data) == whole:
                alike = alike + 1 if data == doubted else 1
                if length is not None or alike == ALIKE or _is_as_tagged(data, answer):
                    return Versioned(bytes(data), answer["ETag"])
                doubted, data = data, bytearray()
                request = _Get(Bucket=self.bucket, Key=self._key(key))
                continue
            if len(data) > before:
                request["IfMatch"] = answer["ETag"]
                turn = tries(problem, READS, ObjectBroken)

    def _key(self, key: str) -> str:
        return self.prefix + self._checked(key)

    def _checked(self, key: str) -> str:
        return checked(self.uri, key)

    def _list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        rest = {"StartAfter": self.prefix + after} if after else {}
        for page in self._pages(self.prefix + prefix, **rest):
            for item in page.get("Contents", []):
                # What tells no time is as new as can be: `graft gc` leaves it alone.
                modified = item["LastModified"].timestamp() if "LastModified" in item else math.inf
                yield Entry(item["Key"].removeprefix(self.prefix), item["Size"], modified)

    def _pages(self, start: str, **rest: str) -> "Iterator[ListObjectsV2OutputTypeDef]":
        """Yield the pages of a listing of what begins with `start`.

        Where an answer breaks off before its body, botocore takes it for an empty listing.
        """
        request: dict[str, Any] = {"Bucket": self.bucket, "Prefix": start, **rest}
        turn = tries(f"{self.uri}: listings break off", READS, StoreLost)
        while True:
            next(turn)
            try:
                with self._explained(start):
                    page = self._client.list_objects_v2(**request)
            except _BrokenError:
                continue
            if "IsTruncated" not in page:
                continue
            yield page
            if not page["IsTruncated"]:
                return
            request["ContinuationToken"] = page["NextContinuationToken"]
            turn = tries(f"{self.uri}: listings break off", READS, StoreLost)

    @contextlib.contextmanager
    def _explained(
        self, key: str, conflict: type[ObjectExists | ObjectChanged] | None = None
    ) -> Iterator[None]:
        """Turn botocore's errors into our one-line errors."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions
        from urllib3.exceptions import HTTPError

        try:
            yield
        except HTTPError as error:
            raise _BrokenError(f"{self.uri}/{key}: {error}; try again later") from error
        except exceptions.ClientError as error:
            self._raise(key, error, conflict, error)
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
            # A certificate does not get better by waiting.
            kind = StoreError if isinstance(error, exceptions.SSLError) else StoreLost
            raise kind(
                f"{self.uri}: the endpoint {self._client.meta.endpoint_url} cannot be reached "
                f"({type(error).__name__}); check AWS_ENDPOINT_URL, AWS_CA_BUNDLE and the network"
            ) from error
        except exceptions.ParamValidationError as error:
            raise StoreError(f"{self.uri}: '{self.bucket}' cannot be a bucket's name") from error
        except (exceptions.BotoCoreError, Boto3Error) as error:
            # An upload's or download's own error hides the server's answer in its cause.
            cause = error.__context__
            if isinstance(cause, exceptions.ClientError):
                self._raise(key, cause, conflict, error)
            broken: tuple[type[Exception], ...] = (exceptions.HTTPClientError, *_broken_body())
            lost = any(isinstance(one, broken) for one in (error, cause))
            raise (StoreLost if lost else StoreError)(
                f"{self.uri}/{key}: {' '.join(str(error).split())}"
            ) from error

    def _raise(
        self,
        key: str,
        answer: "ClientError",
        conflict: type[ObjectExists | ObjectChanged] | None,
        error: Exception,
    ) -> NoReturn:
        location, code = f"{self.uri}/{key}", answer.response["Error"].get("Code", "")
        if code == "ConditionalRequestConflict":
            raise _Undecided(location) from error
        if code in ("PreconditionFailed", "412") and conflict:
            raise conflict(f"{location}: another writer was first") from error
        if code in ("NoSuchKey", "404"):
            raise ObjectNotFound(f"{location} does not exist") from error
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
        if code in _UNREADABLE:
            raise ObjectUnreadable(f"{location}: the endpoint answered {code}") from error
        if code in ("AccessDenied", "403", "Forbidden"):
            if getattr(error, "operation_name", "") == "GetObject":
                raise ObjectUnreadable(
                    f"{location}: access denied; the credentials may not read it"
                ) from error
            raise StoreDenied(
                f"{self.uri}: access denied; the credentials may not use bucket '{self.bucket}'"
            ) from error
        if answer.response["ResponseMetadata"]["HTTPStatusCode"] in _BUSY or code == _TOO_SLOW:
            raise StoreLost(
                f"{location}: the endpoint answered {code or error}; try again later"
            ) from error
        raise StoreError(f"{location}: the endpoint answered {code or error}") from error


class SourceBucket(S3Bucket):
    """A bucket that is only read from: its keys are others', and any that S3 takes.

    None of them is refused, since none names a path here: `a//b`, `./x`, `c\\d`.
    """

    def __init__(self, bucket: str):
        super().__init__(f"s3://{bucket}")

    def scan(self, prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        """Yield as `Backend.scan`, also what ends with '/'."""
        return ((entry.key, entry.size) for entry in self._list(prefix, after))

    def _checked(self, key: str) -> str:
        try:
            if key.encode():
                return key
        except UnicodeEncodeError:
            pass
        raise ObjectNotFound(f"{self.uri}/{key!r} does not exist")


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return the bucket and the key, or prefix, that an s3:// URI names, each as it stands."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


_UNREADABLE = frozenset(
    (
        "InvalidObjectState",  # in an archive, such as S3 Glacier
        "InvalidRequest",  # encrypted with a key of its owner's
        "InvalidURI",
        "KeyTooLongError",
        "XMinioInvalidObjectName",
        "XMinioInvalidResourceName",
    )
)
"""Answers that concern one object, and not whether the bucket can be used."""


_BUSY = (408, 429, 500, 502, 503, 504)
"""Status codes of an endpoint that cannot answer just now."""
_TOO_SLOW = "RequestTimeout"
"""What S3 says where a body came too slowly; its status code is that of mistakes."""


_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def _is_as_tagged(data: bytearray, answer: "GetObjectOutputTypeDef") -> bool:
    """Whether a whole object is what its ETag is the MD5 of; also where that is not one.

    It is none of an object that was sent in parts, or is encrypted with a key of KMS or one's own.
    """
    encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms")
    digest = _MD5.fullmatch(answer["ETag"])
    if encrypted or "SSECustomerAlgorithm" in answer or digest is None:
        return True
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == digest[1]


class _Undecided(StoreError):  # noqa: N818
    """The endpoint could not decide on a condition, since another write was under way."""


class _BrokenError(StoreLost):
    """An answer that is an error broke off in its body, which botocore lets through as it is."""


def _broken_body() -> tuple[type[Exception], ...]:
    """Return what reading a body raises where the connection breaks off, or stalls."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    return (
        exceptions.IncompleteReadError,
        exceptions.ReadTimeoutError,
        exceptions.ResponseStreamingError,
        HTTPError,  # what botocore lets through, such as a TLS error
    )


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
