"""What a run reads of the activation cache, and how all its workers fill that together.

Whether anything is cached, and why, is decided in `activations.cache_decision`, unless the
spec refuses it (`Finetune.cache_refusal`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from graft.activations.cache import ActivationCache, Activations
from graft.activations.cache_decision import choose_to_cache, measure
from graft.activations.compute import BATCH_SIZE, FillTask, TrunkSetup, compute_task
from graft.activations.division import TASK_IMAGES
from graft.activations.fill_cache import TaskResult, fill
from graft.activations.key import CacheEntry
from graft.activations.lease import LeaseTerms
from graft.activations.lookup import NO_ACTIVATIONS, ActivationLookup, OpenActivations
from graft.data.manifest import DatasetVersion
from graft.data.subset import choose_subset
from graft.data.views import view_of_epoch
from graft.spec import Finetune, Section
from graft.store import record_once
from graft.training.events import Event, Note, TrunkComputing
from graft.training.training_plan import TrainingPlan
from graft.training.worker_group import Ranks

ROUND_IMAGES = 256
"""Most images of a worker's task where several compute together: workers hear of the first one only
between tasks, and a task of this size takes minutes at most, even of a large network."""


def reads_of(
    spec: Finetune, dataset: DatasetVersion, plan: TrainingPlan, epochs_done: int = 0
) -> dict[CacheEntry, float]:
    """Return how often a run reads each split and view at each depth, after `epochs_done` epochs.

    0.5: half of a split's images, once.
    """
    subset = choose_subset(dataset, spec.dataset)
    train = len(subset.train) / len(dataset.images("train"))
    val = len(subset.val) / max(1, len(dataset.images(subset.val_split)))
    reads: defaultdict[CacheEntry, float] = defaultdict(float)
    if epochs_done == 0:
        reads[CacheEntry(subset.val_split, 0, plan.depth(1))] += val
    for epoch in range(epochs_done, spec.train.epochs):
        depth = plan.depth(epoch + 1)
        reads[CacheEntry("train", view_of_epoch(spec.augment, epoch), depth)] += train
        reads[CacheEntry(subset.val_split, 0, depth)] += val
    return dict(reads)


def cache_for_run(
    spec: Finetune,
    cache: ActivationCache,
    setup: TrunkSetup,
    reads: Mapping[CacheEntry, float],
    ranks: Ranks,
    post: Callable[[Event], object],
    run: str,
) -> ActivationLookup:
    """Decide, compute what is missing, and return what the loop reads instead of images.

    The run's first attempt decides, and records it in ``runs/<run>/cache.json``: in small batches a
    trunk's output differs by rounding from what is cached, so that a later attempt gives the very
    weights only if it reads the same.

    Args:
        spec: the run's.
        cache: of the run's dataset and trunk.
        setup: the run's trunk, on the worker's device, cut where the run begins.
        reads: what the run still reads, as `reads_of` returns it.
        ranks: this worker among the others.
        post: called by the first worker with the decisions, and how far the computing is.
        run: the run's id.
    """
    chosen: list[CacheEntry] | None = None
    if ranks.rank == 0:

        def choose() -> CacheRecord:
            return CacheRecord(entries=tuple(_choose(spec, cache, setup, reads, post)))

        recorded = record_once(cache.store, f"runs/{run}/cache.json", CacheRecord, choose)
        chosen = [entry for entry in recorded.entries if entry in reads]
    entries: list[CacheEntry] = ranks.from_first(chosen)
    if not entries:
        return NO_ACTIVATIONS
    workers = _Workers(cache, setup, ranks, post)
    if ranks.rank == 0:
        return OpenActivations(workers.lead(entries))
    workers.follow()
    return OpenActivations(cache.get_all(entries))


class CacheRecord(Section):
    """What a run reads from the cache: ``runs/<run>/cache.json``, written by its first attempt."""

    entries: tuple[CacheEntry, ...]


def _choose(
    spec: Finetune,
    cache: ActivationCache,
    setup: TrunkSetup,
    reads: Mapping[CacheEntry, float],
    post: Callable[[Event], object],
) -> list[CacheEntry]:
    """Return what a run caches and reads."""
    if reason := spec.cache_refusal:
        if spec.cache != "off":
            post(Note(f"not cached: {reason}"))
        return []
    images = cache.dataset.images("train")
    measurement = measure(setup, cache.store, images, cache.keys.dtype)
    entries: list[CacheEntry] = []
    for decision in choose_to_cache(cache, measurement, spec.cache, reads):
        at_depth = f"{decision.depth} frozen stages: " if spec.train.unfreeze else ""
        post(Note(at_depth + decision.reason))
        entries += decision.entries
    return entries


@dataclass(frozen=True)
class _Round:
    """The first worker's word that each worker computes a task now."""

    tasks: tuple[FillTask, ...]
    """By rank; in the last round there may be fewer tasks than workers."""


@dataclass(frozen=True)
class _Heartbeat:
    """The first worker waits for another process; it is not dead."""


@dataclass(frozen=True)
class _End:
    """All is in the store."""


@dataclass(frozen=True)
class _Workers:
    """The workers of an attempt, who fill the cache together.

    The first one holds the lease and sends the others a `_Round`, a `_Heartbeat` or the `_End`,
    often enough that none takes it for dead.
    """

    cache: ActivationCache
    setup: TrunkSetup
    ranks: Ranks
    post: Callable[[Event], object]

    def lead(self, entries: Sequence[CacheEntry]) -> Mapping[CacheEntry, Activations]:
        """Fill all entries, as the first worker."""
        task_images = TASK_IMAGES
        if self.ranks.size > 1:
            # Whole batches, so that only a split's last one has to be filled up.
            longest = max(len(self.cache.dataset.images(entry.split)) for entry in entries)
            batches = -(-longest // (self.ranks.size * BATCH_SIZE))
            task_images = min(batches * BATCH_SIZE, ROUND_IMAGES)
        terms = LeaseTerms(waiting=self._waiting, pause=self._pause)
        filled = fill(self.cache, entries, self._run, terms, task_images=task_images)
        self.ranks.from_first(_End())
        return filled.activations

    def follow(self) -> None:
        """Compute what the first worker says, until all is in the store."""
        while not isinstance(message := self.ranks.from_first(None), _End):
            if isinstance(message, _Round):
                self._compute(message, lambda images: None)

    def _run(self, tasks: Sequence[FillTask]) -> Generator[TaskResult, None, None]:
        """Run tasks on all workers, a round at a time."""
        done, total = 0, sum(len(task.images) for task in tasks)
        for first in range(0, len(tasks), self.ranks.size):
            jobs_now = _Round(tuple(tasks[first : first + self.ranks.size]))
            self.ranks.from_first(jobs_now)
            progress = partial(self._progress, done, total, len(jobs_now.tasks))
            yield from self._compute(jobs_now, progress)
            done += sum(len(task.images) for task in jobs_now.tasks)

    def _compute(self, jobs_now: _Round, progress: Callable[[int], object]) -> list[TaskResult]:
        """Compute this worker's task of a round; return what all of them gave."""
        parts = None
        if self.ranks.rank < len(jobs_now.tasks):
            task = jobs_now.tasks[self.ranks.rank]
            parts = compute_task(self.cache.store, self.setup, task, progress=progress)
        gathered = self.ranks.gather(parts)
        return [TaskResult(*pair) for pair in zip(jobs_now.tasks, gathered, strict=False)]

    def _progress(self, done: int, total: int, tasks: int, images: int) -> None:
        """Tell how far a round is, as if all were as far as the first worker: at `images`."""
        self.post(TrunkComputing(min(done + images * tasks, total), total))

    def _waiting(self, holder: str) -> None:
        self.post(Note(f"waiting for activations that {holder} computes"))

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
        self.ranks.from_first(_Heartbeat())
