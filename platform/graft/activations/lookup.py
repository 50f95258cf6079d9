"""Lookups: what the training loop asks for activations before it decodes an image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from graft.activations.cache import ActivationCache, Activations
from graft.activations.key import CacheEntry


class ActivationLookup(Protocol):
    """Finds a trunk's activations where they are cached."""

    def find(self, split: str, view: int, depth: int) -> Activations | None:
        """Return the activations of a split and view at a freeze depth, None without any."""


@dataclass(frozen=True)
class OpenActivations:
    """Activations that are all open already."""

    by_entry: Mapping[CacheEntry, Activations] = field(default_factory=dict)

    def find(self, split: str, view: int, depth: int) -> Activations | None:
        """Return what is open, None for all else."""
        return self.by_entry.get(CacheEntry(split, view, depth))


NO_ACTIVATIONS = OpenActivations()
"""Finds none: every image is decoded."""

_Place = tuple[str, str, str]
"""A key's folder, a dataset version, and a split."""


class SharedActivations:
    """Activations that a process opens on first use, shared by trials one after another."""

    def __init__(self) -> None:
        self._opened: dict[_Place, Activations | None] = {}

    def lookup(self, cache: ActivationCache) -> ActivationLookup:
        """Return a lookup in `cache`, and let go of the activations of all other trunks.

        Files that were evicted from the node-local cache take space until nobody maps them.
        """
        folders = {f"activations/{digest}" for digest in cache.keys.chain.digests}
        self._opened = {
            place: activations
            for place, activations in self._opened.items()
            if place[0].rpartition("/")[0] in folders
        }
        return _CacheLookup(cache, self)

    def forget(self) -> None:
        """Look into the store again for all: what it has may have changed."""
        self._opened.clear()

    def open(self, cache: ActivationCache, entry: CacheEntry) -> Activations | None:
        """Return an entry's activations, from the store on first use."""
        place = (cache.key(entry).folder, cache.dataset.manifest.version, entry.split)
        if place not in self._opened:
            self._opened[place] = cache.get(entry)
        return self._opened[place]


@dataclass(frozen=True)
class _CacheLookup:
    cache: ActivationCache
    shared: SharedActivations

    def find(self, split: str, view: int, depth: int) -> Activations | None:
        return self.shared.open(self.cache, CacheEntry(split, view, depth)) if depth else None
