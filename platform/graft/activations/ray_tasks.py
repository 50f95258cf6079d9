"""Activations on a Ray cluster: actors compute the tasks, the driver plans and commits.

A process that has computed on a GPU keeps its context, its memory and the model there for as long
as it lives. So the actors live for the work alone, and the driver computes nothing.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ray
import ray.exceptions

from graft.activations.cache import ActivationCache
from graft.activations.cache_decision import Measurement, measure
from graft.activations.compute import BATCH_SIZE, FillTask, TrunkSetup, compute_task
from graft.activations.division import TASK_IMAGES
from graft.activations.fill_cache import FillResult, TaskResult, fill
from graft.activations.index import PartRows
from graft.activations.key import CacheEntry, Dtype
from graft.activations.lease import LeaseTerms
from graft.backbones.process_setup import set_up_process
from graft.backbones.transfer_model import TransferModel
from graft.data.loader import ImageLoader
from graft.data.manifest import DatasetVersion, Manifest
from graft.errors import ResourceError, RunFailed
from graft.spec import Loader, NoAugment, Preprocess, StandardAugment
from graft.store import Store

TASKS_AN_ACTOR = 3
"""Fewest tasks an actor, so that none is idle for long at the end."""
MOST_DEATHS = 3
"""How many actors may die of one task, or while they start."""


@dataclass(frozen=True)
class TaskResources:
    """What an actor takes of the cluster."""

    cpus: int = 1
    """Logical CPUs, and torch's threads: numbers are promised to be equal at equal threads."""
    gpus: int = 0


@dataclass(frozen=True)
class TaskSetup:
    """What every actor works with."""

    model: TransferModel
    """Frozen at least as deep as the deepest activations; on the CPU."""
    preprocess: Preprocess
    """How an image becomes the trunk's input."""
    loader: Loader
    """How images are decoded."""
    resources: TaskResources = field(default_factory=TaskResources)
    batch_size: int = BATCH_SIZE
    """Images in every batch of the trunk."""


@dataclass(frozen=True)
class _Shared:
    """A setup and the dataset, as they travel to the actors."""

    uri: str
    manifest: Manifest
    augment: NoAugment | StandardAugment
    setup: TaskSetup

    @classmethod
    def of(cls, cache: ActivationCache, setup: TaskSetup) -> "_Shared":
        return cls(cache.store.uri, cache.dataset.manifest, cache.keys.augment, setup)


def measure_on_ray(cache: ActivationCache, setup: TaskSetup) -> Measurement:
    """Measure what caching depends on in an actor like those of `fill_on_ray`, which then ends.

    Raises:
        ResourceError: as `fill_on_ray`.
        RunFailed: the actor died.
    """
    _actors_at_once(setup.resources)
    actor = _start_actor(ray.put(_Shared.of(cache, setup)), setup.resources)
    try:
        measurement: Measurement = _result(actor.measure.remote(cache.keys.dtype))
    except ray.exceptions.RayError as error:
        raise RunFailed(f"the process that measures a trunk died: {_first_line(error)}") from error
    finally:
        ray.kill(actor)
    return measurement


def fill_on_ray(
    cache: ActivationCache,
    setup: TaskSetup,
    entries: Iterable[CacheEntry],
    terms: LeaseTerms,
    *,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> FillResult:
    """Return the activations of all entries, what is missing computed by actors on Ray.

    It waits for CPUs (or GPUs): call it before something else holds all of them. They are free
    again, and the actors' processes ended, when it returns.

    Args:
        cache: in a store that every node of the connected cluster sees.
        setup: what actors work with.
        entries: what shall be cached.
        terms: those of the lease.
        progress: called with the number of images that are done, and of all.

    Raises:
        ResourceError: the cluster has less than an actor takes, or a node does not see the store.
        RunFailed: actors died again and again.
    """
    entries = list(entries)
    actors = _actors_at_once(setup.resources)
    splits = dict.fromkeys((entry.split, entry.view) for entry in entries)
    images = sum(len(cache.dataset.images(split)) for split, _ in splits)
    # Whole batches, so that only a split's last one has to be filled up.
    batches = max(1, -(-images // (actors * TASKS_AN_ACTOR * setup.batch_size)))

    def run(tasks: Sequence[FillTask]) -> Generator[TaskResult, None, None]:
        # Packed once: as an argument it would be packed for every actor.
        shared = ray.put(_Shared.of(cache, setup))
        total, done = sum(len(task.images) for task in tasks), 0
        for result in _compute_all(shared, setup.resources, min(actors, len(tasks)), tasks):
            yield result
            done += len(result.task.images)
            progress(done, total)

    task_images = min(batches * setup.batch_size, max(setup.batch_size, TASK_IMAGES))
    return fill(cache, entries, run, terms, task_images=task_images)


@dataclass(frozen=True)
class _Call:
    """What an actor does at the moment."""

    actor: Any
    task: FillTask | None
    """None: it starts."""
    deaths: int
    """How many actors have died of it."""


def _compute_all(
    shared: Any, resources: TaskResources, count: int, tasks: Sequence[FillTask]
) -> Generator[TaskResult, None, None]:
    """Compute tasks in `count` actors; one that dies is replaced, and its task done by another.

    An actor gets its first task once it runs: with fewer CPUs free than the cluster has, those
    that run do the work.
    """
    waiting = deque((task, 0) for task in tasks)
    calls: dict[Any, _Call] = {}

    def start(deaths: int = 0) -> None:
        actor = _start_actor(shared, resources)
        calls[actor.open.remote()] = _Call(actor, None, deaths)

    try:
        for _ in range(count):
            start()
        unfinished = len(tasks)
        while unfinished:
            (ready,), _ = ray.wait(list(calls), num_returns=1)
            call = calls[ready]
            try:
                parts = _result(ready)
            except ray.exceptions.RayError as error:
                del calls[ready]
                ray.kill(call.actor)
                if call.deaths == MOST_DEATHS:
                    raise RunFailed(
                        "processes that compute activations died again and again: "
                        f"{_first_line(error)}"
                    ) from error
                if call.task:
                    waiting.appendleft((call.task, call.deaths + 1))
                start(0 if call.task else call.deaths + 1)
                continue
            if call.task:
                unfinished -= 1
                yield TaskResult(call.task, parts)
            del calls[ready]
            if waiting:
                task, deaths = waiting.popleft()
                calls[call.actor.compute.remote(task)] = _Call(call.actor, task, deaths)
            else:
                ray.kill(call.actor)
    finally:
        for call in calls.values():
            ray.kill(call.actor)


def _result(ref: Any) -> Any:
    """Return what an actor's method returned, or raise the error that it raised.

    Raises:
        RayError: the actor died.
    """
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause or RunFailed(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _actors_at_once(resources: TaskResources) -> int:
    """Return how many actors the cluster runs at once.

    Raises:
        ResourceError: it could never run one.
    """
    amounts = {"CPU": resources.cpus, "GPU": resources.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    actors = sum(min(int(node.get(k, 0) // n) for k, n in amounts.items() if n) for node in nodes)
    if not actors:
        raise ResourceError(
            f"computing activations takes {resources.cpus} CPUs and {resources.gpus} GPUs on one "
            f"node; the cluster's {len(nodes)} nodes have less"
        )
    return actors


def _start_actor(shared: Any, resources: TaskResources) -> Any:
    actor = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(TrunkActor)
    return actor.remote(shared)


class TrunkActor:
    """Computes with a trunk, in a process of Ray's that is its own."""

    def __init__(self, shared: _Shared):
        self._shared = shared

    def open(self) -> None:
        """Set up the process, and load the trunk onto the device that it has leased.

        Raises:
            ResourceError: the node does not see the store.
        """
        _ = self._trunk

    def compute(self, task: FillTask) -> dict[int, list[PartRows]]:
        """Compute one task, as `compute_task` does."""
        return compute_task(self._store, self._trunk, task)

    def measure(self, dtype: Dtype) -> Measurement:
        """Measure what caching activations in `dtype` costs here."""
        return measure(self._trunk, self._store, self._dataset.images("train"), dtype)

    @cached_property
    def _store(self) -> Store:
        return Store.open(self._shared.uri)

    @cached_property
    def _dataset(self) -> DatasetVersion:
        dataset = DatasetVersion(self._store, self._shared.manifest)
        if not self._store.exists(f"{dataset.folder}/manifest.json"):
            raise ResourceError(
                f"the store {self._store.uri} is not visible on node {os.uname().nodename}; "
                "use s3://..., or a directory that every node mounts at the same path"
            )
        return dataset

    @cached_property
    def _trunk(self) -> TrunkSetup:
        shared, setup = self._shared, self._shared.setup
        device = set_up_process(setup.resources.cpus, setup.resources.gpus)
        loader = ImageLoader(self._dataset, setup.preprocess, shared.augment, setup.loader)
        model = setup.model.to(device)
        return TrunkSetup(model, loader, setup.preprocess, setup.batch_size)
