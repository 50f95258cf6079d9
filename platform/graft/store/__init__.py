"""The store: everything Graft stores, in a local directory or an S3 bucket, in one layout."""

from graft.store.documents import find_document, parse_document, read_document
from graft.store.objects import ObjectRef, payload_name, sha256, sha256_file
from graft.store.store import Store

__all__ = [
    "ObjectRef",
    "Store",
    "find_document",
    "parse_document",
    "payload_name",
    "read_document",
    "sha256",
    "sha256_file",
]
