"""Removing a dataset version: its manifest goes, and with it the name; its payloads stay.

Versions that were added to it read its shards: what none reads, `graft gc` removes.
"""

import contextlib
from dataclasses import dataclass

from graft.data.manifest import (
    LATEST,
    Manifest,
    folder,
    latest,
    list_versions,
    manifest_key,
    version_names,
)
from graft.errors import ObjectChanged, ObjectNotFound
from graft.store import Store


@dataclass(frozen=True)
class Removed:
    """What a removal left."""

    latest: str | None
    """The version that `latest` points at now; None: the dataset has no version left."""
    files: int
    """Payloads that stay."""
    bytes: int
    """Their size."""
    readers: tuple[str, ...]
    """NAME@VERSION of the versions that read shards among them, oldest first."""


def remove_version(store: Store, name: str, version: str) -> Removed:
    """Remove a version, which may be damaged, by its full name; no other changes.

    Where `latest` points at it, it points at the newest version that is left from now on.
    """
    # Before the manifest goes, so that whoever is stopped here leaves no pointer to nothing.
    _settle_latest(store, name, leaving=version)
    store.delete(manifest_key(name, version))
    # Others may have removed what it was pointed at.
    _settle_latest(store, name)
    sizes = [size for _, size in store.scan(f"{folder(name, version)}/")]
    readers = [
        manifest.ref
        for manifest in _readable_versions(store, name)
        if version in {part.version for part in manifest.earlier}
    ]
    return Removed(latest(store, name), len(sizes), sum(sizes), tuple(readers))


def _settle_latest(store: Store, name: str, leaving: str | None = None) -> None:
    """Point `latest` at the newest version where it points at none, or at the one that is leaving.

    Where no version is left, and none is leaving, it is deleted.
    """
    key = f"datasets/{name}/{LATEST}"
    try:
        pointer = store.read(key)
    except ObjectNotFound:
        return
    version = pointer.data.decode(errors="replace")
    if version != leaving and version in version_names(store, name):
        return
    others = [m.version for m in _readable_versions(store, name) if m.version != leaving]
    if others:
        with contextlib.suppress(ObjectChanged):  # somebody has pointed it elsewhere meanwhile
            store.replace(key, others[-1].encode(), pointer.etag)
    elif leaving is None:
        store.delete(key)


def _readable_versions(store: Store, name: str) -> list[Manifest]:
    """Return the manifests of a dataset's versions but for damaged ones, oldest first."""
    return list_versions(store, name, tell=lambda damaged: None)
