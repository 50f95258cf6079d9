"""Whether activations are cached: the bytes and seconds that it takes, and the reason.

`choose_to_cache` decides for whoever reads activations: a run, or the trials of a sweep. It
takes what `measure` found where the work will run, sees what the store has, and lets `decide`
weigh them for each freeze depth.
"""

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal, Self

from graft import units
from graft.activations.cache import ActivationCache
from graft.activations.compute import TrunkSetup
from graft.activations.key import BYTES, CacheEntry, Dtype
from graft.activations.time_trunk import time_depths
from graft.data.index import Images
from graft.data.loader import evaluation_slices
from graft.errors import ResourceError, SpecError
from graft.store import Store
from graft.store.node_cache import cache_folder, cache_room, gigabytes

Mode = Literal["auto", "on", "off"]

WORTH = 0.1
"""Part of the time that the cache has to save under `auto`: an estimate may be wrong by as much."""
SAMPLE = 8
"""Images that are decoded, twice so many, to measure what decoding costs."""


@dataclass(frozen=True)
class Reads:
    """How often the images of one split are read in one view."""

    split: str
    view: int
    images: int
    times: float
    """Mean reads of an image, over all epochs of all trials; 0.5: half of the images, once."""
    cached_images: int = 0
    """Images whose activations are in the store already."""


@dataclass(frozen=True)
class Costs:
    """What an image costs at a freeze depth, and how fast bytes are read and written."""

    row_bytes: int
    """Activations of one image, as stored."""
    trunk_s: float
    """Seconds of the trunk's forward pass for one image, of a batch on this machine."""
    decode_s: float
    """Seconds to decode and render one image."""
    read_bytes_s: float = 1e9
    """Bytes read a second: from the node's disk or page cache, or from the store if slower."""
    write_bytes_s: float = 2e8
    """Bytes written a second into the store."""

    def uncached_s(self, read: Reads) -> float:
        """Return the seconds of decoding and trunk, each time anew."""
        return read.images * read.times * (self.decode_s + self.trunk_s)

    def cached_s(self, read: Reads) -> float:
        """Return the seconds to compute and write once what is missing, and to read each time."""
        once_s = self.decode_s + self.trunk_s + self.row_bytes / self.write_bytes_s
        read_s = self.row_bytes / self.read_bytes_s
        missing = read.images - read.cached_images
        return missing * once_s + read.images * read.times * read_s


@dataclass(frozen=True)
class FreeSpace:
    """Space for activations that are not there yet; None is without limit."""

    store_bytes: int | None = None
    node_bytes: int | None = None
    """Space for all activations that are read, where a node has copies of its own."""

    @classmethod
    def of(cls, store: Store) -> Self:
        """Return what a store has room for, and this node's cache where it copies the store's."""
        room = None
        if (limit := gigabytes("GRAFT_ACTIVATIONS_GB")) is not None:
            room = max(0, limit - sum(size for _, size in store.scan("activations/")))
        if store.is_directory:
            free = shutil.disk_usage(store.uri).free if Path(store.uri).exists() else None
            return cls(min((n for n in (room, free) if n is not None), default=None))
        folder = cache_folder()
        return cls(room, cache_room(folder) if folder.exists() else None)

    def less(self, decision: "Decision") -> "FreeSpace":
        """Return what is left after a decision's activations are cached."""
        store, node = self.store_bytes, self.node_bytes
        return FreeSpace(
            None if store is None else store - decision.new_bytes,
            None if node is None else node - decision.nbytes,
        )

    def shortage(self, decision: "Decision") -> str | None:
        """Return where there is too little space, and how little; None where there is enough."""
        for place, need, room in (
            ("the store", decision.new_bytes, self.store_bytes),
            ("the node-local cache", decision.nbytes, self.node_bytes),
        ):
            if room is not None and need > room:
                return (
                    f"activations take {units.size(need)}, {place} has room for {units.size(room)}"
                )
        return None


@dataclass(frozen=True)
class Decision:
    """Which reads at one freeze depth the cache serves, why, and what that takes."""

    depth: int
    reads: tuple[Reads, ...]
    cached: tuple[Reads, ...]
    """Reads that the cache serves; under `auto` without views that are seen once."""
    costs: Costs
    reason: str = ""
    """One line, which begins with what was decided."""

    @property
    def entries(self) -> tuple[CacheEntry, ...]:
        """What is to be in the cache."""
        return tuple(CacheEntry(read.split, read.view, self.depth) for read in self.cached)

    @property
    def nbytes(self) -> int:
        """Bytes of all cached activations."""
        return self.costs.row_bytes * sum(read.images for read in self.cached)

    @property
    def new_bytes(self) -> int:
        """Bytes of those that are not in the store yet."""
        return self.costs.row_bytes * sum(read.images - read.cached_images for read in self.cached)

    @property
    def uncached_s(self) -> float:
        """Forecast of decoding and trunk for all reads, without a cache."""
        return sum(self.costs.uncached_s(read) for read in self.reads)

    @property
    def cached_s(self) -> float:
        """Forecast for all reads, those of the cache computed and written once, and read."""
        seconds = {True: self.costs.cached_s, False: self.costs.uncached_s}
        return sum(seconds[read in self.cached](read) for read in self.reads)

    @property
    def pays(self) -> bool:
        """Whether the cache saves enough time."""
        return self.uncached_s - self.cached_s >= WORTH * self.uncached_s


@dataclass(frozen=True)
class Measurement:
    """What a process measured: costs and space are those of its node and of its device."""

    costs: Mapping[int, Costs]
    """What one image costs, by freeze depth; depth 0 is not among them."""
    space: FreeSpace


def measure(setup: TrunkSetup, store: Store, images: Images, dtype: Dtype) -> Measurement:
    """Measure here and now what caching depends on; arguments as `measure_costs` has them."""
    return Measurement(measure_costs(setup, images, dtype), FreeSpace.of(store))


def choose_to_cache(
    cache: ActivationCache,
    measurement: Measurement,
    mode: Mode,
    reads: Mapping[CacheEntry, float],
) -> Iterator[Decision]:
    """Decide for each freeze depth what is cached; depths share the space that there is.

    Args:
        cache: where activations are, or will be.
        measurement: made where activations will be computed and read, with a trunk as deep as any
            that is read.
        mode: `cache` of the spec.
        reads: how often each entry is read, see `Reads.times`; whatever part of a split is read,
            all of it is computed. Depths are decided in this order.

    Raises:
        SpecError: `on`, where there is nothing to cache.
        ResourceError: `on`, and there is not enough space.
    """
    costs, space = measurement.costs, measurement.space
    by_depth: defaultdict[int, list[Reads]] = defaultdict(list)
    for entry, times in reads.items():
        count = len(cache.dataset.images(entry.split))
        read = Reads(entry.split, entry.view, count, times, cache.count(entry))
        by_depth[entry.depth].append(read)
    for depth, group in by_depth.items():
        if depth == 0 and len(by_depth) > 1:
            continue  # epochs or trials that freeze nothing do not keep the others from caching
        decision = decide(mode, depth, group, costs.get(depth, Costs(0, 0.0, 0.0)), space)
        space = space.less(decision)
        yield decision


def measure_costs(setup: TrunkSetup, images: Images, dtype: Dtype) -> dict[int, Costs]:
    """Return what one image costs by freeze depth, measured on this machine.

    Args:
        setup: the trunk; depths up to its own are measured.
        images: a few of them are decoded.
        dtype: what activations are stored in.
    """
    if setup.model.depth == 0:
        return {}
    sample = images.of_first_shard(1 + 2 * SAMPLE)
    _decode(setup, sample[:1])  # opens, or fetches, what all of them lie in
    # Not the same ones twice: a loader keeps what it has decoded.
    parts = [part for part in (sample[1 : 1 + SAMPLE], sample[1 + SAMPLE :]) if part]
    decode_s = min(_decode(setup, part) / len(part) for part in parts or [sample])
    return {
        depth: Costs(BYTES[dtype] * prod(timing.shape), timing.seconds, decode_s)
        for depth, timing in enumerate(time_depths(setup.model, setup.preprocess.crop), 1)
    }


def _decode(setup: TrunkSetup, images: Images) -> float:
    """Decode and render images; return how many seconds that took."""
    before = time.perf_counter()
    for _ in setup.loader.batches(images, evaluation_slices(len(images), SAMPLE, 0, 1), view=0):
        pass
    return time.perf_counter() - before


def decide(
    mode: Mode, depth: int, reads: Sequence[Reads], costs: Costs, space: FreeSpace | None = None
) -> Decision:
    """Decide under `cache: auto`, or do as `on` or `off` says; what is trained never changes.

    Args:
        mode: what the spec says.
        depth: frozen stages.
        reads: all that will be read at this depth.
        costs: those of one image at this depth.
        space: what may be used; None: without limit.

    Raises:
        SpecError: `on`, where there is nothing to cache.
        ResourceError: `on`, and there is not enough space.
    """
    cheaper = [read for read in reads if costs.cached_s(read) < costs.uncached_s(read)]
    cached = tuple(reads if mode == "on" else cheaper)
    decision = Decision(depth, tuple(reads), cached, costs)
    if refusal := _refusal(mode, decision, space or FreeSpace()):
        return replace(decision, cached=(), reason=f"not cached: {refusal}")
    return replace(decision, reason=f"cache: {_benefit(decision)}")


def _refusal(mode: Mode, decision: Decision, space: FreeSpace) -> str | None:
    """Return why nothing is cached; None where something is."""
    if mode == "off":
        return "cache is off"
    if decision.depth == 0:
        if mode == "on":
            raise SpecError("cache: on has no effect: nothing is frozen; use auto")
        return "nothing is frozen"
    if shortage := space.shortage(decision):
        if mode == "on":
            raise ResourceError(f"cache: on: {shortage}; free some, freeze deeper, or use auto")
        return shortage
    if mode == "on" or (decision.cached and decision.pays):
        return None
    reads, costs = decision.reads, decision.costs
    if all(read.times < 1 for read in reads):
        return "no more than a part of the images is read once (dataset.labels, dataset.holdout)"
    if all(read.times <= 1 for read in reads):
        return "every view is seen once (augment.views: live, or no fewer than epochs)"
    return (
        f"{units.size(costs.row_bytes * sum(read.images for read in reads))} of activations are "
        f"read {_times(reads)}; computing, writing and reading them takes about "
        f"{units.duration(sum(costs.cached_s(read) for read in reads))}, decoding and trunk "
        f"without it {units.duration(decision.uncached_s)}"
    )


def _benefit(decision: Decision) -> str:
    """Return what is cached, and what that saves."""
    reads = f"{units.size(decision.nbytes)} of activations"
    seldom = [read for read in decision.reads if read not in decision.cached]
    if seldom:
        reads += f" ({', '.join(sorted({read.split for read in decision.cached}))})"
    reads += f" are read {_times(decision.cached)}"
    if not decision.pays:
        return f"it is on, though {reads} and caching them saves next to nothing"
    how = "computing them once" if decision.new_bytes else "all of them are in the store, which"
    saved = units.duration(decision.uncached_s - decision.cached_s)
    reason = f"{reads}; {how} saves about {saved} of {units.duration(decision.uncached_s)}"
    if seldom:
        reason += f"; {', '.join(sorted({read.split for read in seldom}))} is read too seldom"
    return reason


def _times(reads: Sequence[Reads]) -> str:
    times = sum(read.images * read.times for read in reads) / sum(read.images for read in reads)
    if 0.95 < times < 1.05:
        return "once"
    return f"{times:.0f} times" if times >= 10 else f"{times:.3g} times"
