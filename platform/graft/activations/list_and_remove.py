"""Which activations a store holds, and their removal; needs no torch."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from graft.activations.index import read_index
from graft.activations.key import Key
from graft.errors import InputError, NotFoundError, ObjectNotFound
from graft.store import Store, find_document

_OBJECT = re.compile(r"activations/([0-9a-f]{64})/([^/]+)/(?:(index|parts)/)?([^/]+)")
SHORT = 12
"""Characters of a digest that are shown."""


@dataclass
class CatalogueEntry:
    """All activations of one key."""

    key: Key
    arch: str | None
    """Architecture; known where a run has published the trunk's stages."""
    stage: str | None
    """The last frozen stage; likewise."""
    datasets: list[str] = field(default_factory=list)
    """NAME@VERSION/SPLIT of each split whose activations are complete."""
    images: int = 0
    """Images whose activations are committed; one that two processes have computed counts twice."""
    bytes: int = 0
    """Size of all shards, those of a killed process too."""


def list_activations(store: Store) -> list[CatalogueEntry]:
    """Return what the store holds, by trunk, then by view."""
    entries: dict[Key, CatalogueEntry] = {}
    shards: dict[Key, dict[str, int]] = {}  # images of each that is committed
    for name, size in store.scan("activations/"):
        match = _OBJECT.fullmatch(name)
        if match is None or (key := Key.parse(match[1], match[2])) is None:
            continue
        if key not in entries:
            record = find_document(store, f"stages/{key.trunk}/stage.json", _Stage)
            arch, stage = (record.arch, record.stage) if record else (None, None)
            entries[key] = CatalogueEntry(key, arch, stage)
            shards[key] = {}
        if match[3] is None:
            entries[key].bytes += size if match[4].startswith("part-") else 0
            continue
        with contextlib.suppress(ObjectNotFound):  # removed meanwhile
            index = read_index(store, name)
            shards[key] |= {part.shard.name: part.row_count for part in index.parts}
            if match[3] == "index":
                entries[key].datasets.append(f"{index.dataset}/{index.split}")
    for key, counts in shards.items():
        entries[key].images = sum(counts.values())
    return [entries[key] for key in sorted(entries, key=_order)]


@dataclass(frozen=True)
class Removed:
    """What a removal freed."""

    trunk: str
    views: tuple[str, ...]
    objects: int
    bytes: int


def remove_activations(store: Store, trunk: str, view: str | None = None) -> Removed:
    """Remove the activations of a trunk, or of one view of it; they can be computed again.

    Args:
        store: where they lie.
        trunk: a trunk digest, or an unambiguous beginning of one.
        view: as listed (``v1-5f8cf0b9``), or its number alone (``v1``).

    Raises:
        NotFoundError: there are no such activations.
        InputError: several trunks begin so.
    """
    folders = [name for name in store.children("activations/") if len(name) == 64]
    digests = sorted(
        digest for digest in folders if digest.startswith(trunk) and _keys(store, digest)
    )
    if not trunk or not digests:
        cached = sorted(digest[:SHORT] for digest in folders if _keys(store, digest))
        raise NotFoundError(
            f"no activations of a trunk '{trunk}' in {store.uri}; "
            + (f"it has those of {', '.join(cached)}" if cached else "it has none at all")
        )
    if len(digests) > 1:
        raise InputError(
            f"{len(digests)} trunks begin with '{trunk}': {', '.join(digests)}; give more of one"
        )
    keys = _keys(store, digests[0])
    doomed = [key for key in keys if view is None or view in (key.view, key.view.split("-")[0])]
    if not doomed:
        views = sorted({key.view for key in keys})
        raise NotFoundError(
            f"trunk {digests[0][:SHORT]} has no activations of view '{view}'; "
            f"it has {', '.join(views)}"
        )
    objects = freed = 0
    for key in doomed:
        # What lists shards goes first: no reader finds an index without them.
        for part in ("index/", "parts/", ""):
            for name, size in list(store.scan(f"{key.folder}/{part}")):
                store.delete(name)
                objects, freed = objects + 1, freed + size
    return Removed(digests[0], tuple(sorted({key.view for key in doomed})), objects, freed)


def _keys(store: Store, trunk: str) -> Sequence[Key]:
    """Return the keys of a trunk that have any object: a directory's folders outlive theirs."""
    parsed = (Key.parse(trunk, kind) for kind in store.children(f"activations/{trunk}/"))
    return [key for key in parsed if key and next(store.scan(f"{key.folder}/"), None)]


class _Stage(BaseModel):
    """What is shown of a stage's record, whose own model, in backbones.trunk, needs torch."""

    arch: str
    stage: str


def _order(key: Key) -> tuple[str, int, str]:
    return key.trunk, int(key.view[1:].split("-")[0]), key.kind
