"""Fill the cache: find what is there, compute what is missing, commit, each image once.

`fill` plans tasks and commits; its caller chooses who runs the tasks: this process
(`run_here`), a Ray cluster (`ray_tasks.fill_on_ray`) or the workers of a run
(`training.run_activations`).
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from graft.activations.cache import ActivationCache, Activations
from graft.activations.compute import FillTask, Start, TrunkSetup, compute_task
from graft.activations.division import TASK_IMAGES
from graft.activations.index import Coverage, PartRows, covering, note_parts, open_index
from graft.activations.key import CacheEntry
from graft.activations.lease import LeaseTerms, hold_lease
from graft.data.digests import first_of_each
from graft.data.index import Images
from graft.errors import ObjectNotFound
from graft.store import Store


@dataclass(frozen=True)
class TaskResult:
    """A task that is done."""

    task: FillTask
    parts: Mapping[int, Sequence[PartRows]]
    """By freeze depth, what is in the store and not committed yet."""

    def of(self, entry: CacheEntry) -> Sequence[PartRows]:
        """Return what belongs to an entry."""
        same = (self.task.split, self.task.view) == (entry.split, entry.view)
        return self.parts.get(entry.depth, ()) if same else ()


@dataclass(frozen=True)
class FillResult:
    """What `fill` returns, and what that took."""

    activations: Mapping[CacheEntry, Activations]
    """By entry; all of them."""
    results: tuple[TaskResult, ...] = ()

    @property
    def images(self) -> int:
        """Rows written: images times depths."""
        return sum(len(result.task.images) * len(result.parts) for result in self.results)

    @property
    def decoded(self) -> int:
        """Images decoded."""
        return sum(len(r.task.images) for r in self.results if r.task.start is None)

    @property
    def trunk_forwards(self) -> int:
        """Images that went through stages of the trunk."""
        return sum(len(result.task.images) for result in self.results)


Runner = Callable[[Sequence[FillTask]], Generator[TaskResult, None, None]]
"""Runs tasks, and yields each once it is done."""


def fill(
    cache: ActivationCache,
    entries: Iterable[CacheEntry],
    run: Runner,
    terms: LeaseTerms,
    *,
    task_images: int = TASK_IMAGES,
) -> FillResult:
    """Return the activations of all entries, computing those that nobody has yet.

    Of several processes that want activations of one network and dataset at once, one
    computes and the others wait; a dead one's work is taken over once its lease has expired,
    from the tasks that it had finished.

    Args:
        cache: where they are, or will be.
        entries: what shall be cached.
        run: runs the tasks.
        terms: of the lease; `waiting` tells people, since others may compute for hours.
        task_images: most images of a task.

    Raises:
        StoreError: no space left, or the store cannot be used; only whole tasks stay.
    """
    entries = tuple(dict.fromkeys(entries))
    stages = len(cache.keys.chain.tensors)
    if wrong := [entry.depth for entry in entries if not 1 <= entry.depth <= stages]:
        raise ValueError(f"depths {wrong} of a trunk of {stages} stages")
    hits = cache.get_all(entries)
    if len(hits) == len(entries):
        return FillResult(hits)
    # Every deeper digest follows from the first stage's: one lease covers all depths and views
    # of a network, so that whoever comes second finds shallower activations to start from.
    trunk, dataset = cache.keys.chain.digests[1][:16], cache.dataset.manifest.name
    with hold_lease(cache.store, f"activations/claims/{trunk}-{dataset}.json", terms):
        hits |= cache.get_all(entry for entry in entries if entry not in hits)
        coverage = {entry: cache.coverage(entry) for entry in entries if entry not in hits}
        tasks = plan_tasks(cache, coverage, task_images)
        results = tuple(_run(cache, run, tasks)) if tasks else ()
        for entry, covered in coverage.items():
            computed = (part for result in results for part in result.of(entry))
            hits[entry] = cache.commit(entry, [*covered.parts, *computed])
            _forget_notes(cache.store, hits[entry])
    return FillResult(hits, results)


def _run(cache: ActivationCache, run: Runner, tasks: Sequence[FillTask]) -> Iterator[TaskResult]:
    """Run tasks; of several, note each that is done, for whoever goes on after this process."""
    with contextlib.closing(run(tasks)) as results:  # an error ends what still runs
        for result in results:
            if len(tasks) > 1:
                for depth, parts in result.parts.items():
                    key = result.task.targets[depth]
                    note_parts(cache.store, cache.dataset, result.task.split, key, parts)
            yield result


def plan_tasks(
    cache: ActivationCache, coverage: Mapping[CacheEntry, Coverage], task_images: int
) -> list[FillTask]:
    """Return tasks that compute what is absent; one task computes an image's view at all depths."""
    tasks: list[FillTask] = []
    for split, view in dict.fromkeys((entry.split, entry.view) for entry in coverage):
        absent = {
            entry.depth: covered.absent
            for entry, covered in coverage.items()
            if (entry.split, entry.view) == (split, view)
        }
        for depths, images in _by_depths(cache.dataset.images(split), absent).items():
            targets = {depth: cache.keys.key(depth, view) for depth in depths}
            for start, group in _by_start(cache, view, depths[0], images):
                if start is None and not cache.dataset.fits_node:
                    group = group.as_stored()  # each block of a shard is read once
                tasks += [
                    FillTask(split, view, group[i : i + task_images], targets, start)
                    for i in range(0, len(group), task_images)
                ]
    return tasks


def run_here(
    store: Store,
    setup: TrunkSetup,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Runner:
    """Return what runs tasks one after another in this process.

    `progress` is called after each batch with the number of images that are done, and of all.
    """

    def run(tasks: Sequence[FillTask]) -> Generator[TaskResult, None, None]:
        done, total = 0, sum(len(task.images) for task in tasks)

        def advance(images: int) -> None:
            progress(done + images, total)

        for task in tasks:
            parts = compute_task(store, setup, task, progress=advance)
            yield TaskResult(task, parts)
            done += len(task.images)

    return run


def _by_depths(
    images: Images, absent: Mapping[int, NDArray[np.bool_]]
) -> dict[tuple[int, ...], Images]:
    """Group distinct images, in a split's order, by the depths at which they are absent.

    Args:
        images: of the split, (n,); their order is that of the shards' rows.
        absent: by depth, whether each has no activations, (n,).
    """
    first = first_of_each(images.digests)
    depths = sorted(absent)
    table = np.stack([absent[depth][first] for depth in depths], axis=1)
    groups = {}
    for wanted in np.unique(table, axis=0):
        if wanted.any():
            of_group = first[(table == wanted).all(axis=1)]
            groups[tuple(compress(depths, wanted))] = images.at(of_group)
    return groups


def _by_start(
    cache: ActivationCache, view: int, below: int, images: Images
) -> Iterator[tuple[Start | None, Images]]:
    """Group images by the deepest activations, shallower than `below`, to start from.

    Only float32 ones will do: started from rounded ones, the numbers would depend on what
    happened to be there.
    """
    remaining = images
    for depth in range(below - 1, 0, -1):
        key = cache.keys.key(depth, view, "float32")
        coverage = covering(cache.store, key, remaining.digests)
        if coverage.parts:
            yield Start(depth, key, coverage.parts), remaining.at(~coverage.absent)
            remaining = remaining.at(coverage.absent)
        if not remaining:
            return
    yield None, remaining


def _forget_notes(store: Store, activations: Activations) -> None:
    """Remove notes of finished tasks whose images an index has, in these shards or in others.

    Others are those of a process that computed the same, having lost its lease. Its shards stay,
    counted by `graft activations ls`, until `rm`: nothing tells them from those of one at work.
    """
    for marker, _ in list(store.scan(f"{activations.key.folder}/parts/")):
        with contextlib.suppress(ObjectNotFound):
            noted = open_index(store, marker).rows.digests
            if activations.has(noted).all():
                store.delete(marker)
