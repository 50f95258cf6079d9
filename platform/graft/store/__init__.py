"""The store: everything Graft stores, in a local directory or an S3 bucket, in one layout."""

from graft.store.documents import (
    Marker,
    Tell,
    document_bytes,
    find_document,
    parse_document,
    read_document,
    read_text,
    record_once,
    unless_damaged,
)
from graft.store.objects import (
    FileName,
    ObjectRef,
    is_payload,
    payload_digest,
    payload_name,
    sha256,
    sha256_file,
)
from graft.store.s3 import SourceBucket, bucket_and_key
from graft.store.store import Store

__all__ = [
    "FileName",
    "Marker",
    "ObjectRef",
    "SourceBucket",
    "Store",
    "Tell",
    "bucket_and_key",
    "document_bytes",
    "find_document",
    "is_payload",
    "parse_document",
    "payload_digest",
    "payload_name",
    "read_document",
    "read_text",
    "record_once",
    "sha256",
    "sha256_file",
    "unless_damaged",
]
