"""Activations on a Ray cluster: Ray computes the tasks, the driver plans and commits."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions
import torch

from graft.activations.cache import ActivationCache
from graft.activations.compute import BATCH_SIZE, FillTask, TrunkSetup, compute_task
from graft.activations.fill_cache import TASK_IMAGES, FillResult, TaskResult, fill
from graft.activations.index import Part
from graft.activations.key import CacheEntry
from graft.activations.lease import LeaseTerms
from graft.backbones.malloc import keep_freed_memory
from graft.backbones.transfer_model import TransferModel
from graft.data.loader import ImageLoader
from graft.data.manifest import DatasetVersion, Manifest
from graft.errors import GraftError, ResourceError, RunFailed
from graft.spec import Loader, NoAugment, Preprocess, StandardAugment
from graft.store import Store

JOBS_A_WORKER = 3
"""Fewest tasks a worker, so that none is idle for long at the end."""


@dataclass(frozen=True)
class TaskResources:
    """What a task takes of the cluster."""

    cpus: int = 1
    """Logical CPUs, and torch's threads: numbers are promised to be equal at equal threads."""
    gpus: int = 0


@dataclass(frozen=True)
class TaskSetup:
    """What every task works with."""

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
    """A setup and the dataset, as they travel to the tasks."""

    uri: str
    manifest: Manifest
    augment: NoAugment | StandardAugment
    setup: TaskSetup


def fill_on_ray(
    cache: ActivationCache,
    setup: TaskSetup,
    entries: Iterable[CacheEntry],
    terms: LeaseTerms,
    *,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> FillResult:
    """Return the activations of all entries, what is missing computed by tasks on Ray.

    It waits for CPUs (or GPUs): call it before something else holds all of them.

    Args:
        cache: in a store that every node of the connected cluster sees.
        setup: what tasks work with.
        entries: what shall be cached.
        terms: those of the lease.
        progress: called with the number of images that are done, and of all.

    Raises:
        ResourceError: the cluster has less than a task takes, or a node does not see the store.
        RunFailed: tasks died again and again.
    """
    entries = list(entries)
    tasks = _tasks_at_once(setup.resources)
    splits = dict.fromkeys((entry.split, entry.view) for entry in entries)
    images = sum(len(cache.dataset.images(split)) for split, _ in splits)
    # Whole batches, so that only a split's last one has to be filled up.
    batches = max(1, -(-images // (tasks * JOBS_A_WORKER * setup.batch_size)))

    def run(tasks: Sequence[FillTask]) -> Generator[TaskResult, None, None]:
        store, manifest = cache.store, cache.dataset.manifest
        # Packed once: as an argument it would be unpacked for every task.
        shared = [ray.put(_Shared(store.uri, manifest, cache.keys.augment, setup))]
        cpus, gpus = setup.resources.cpus, setup.resources.gpus
        # Of a process with a GPU Ray would make a new one for every task.
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=0)(_compute)
        total, done = sum(len(task.images) for task in tasks), 0
        running = {remote.remote(shared, task): task for task in tasks}
        try:
            while running:
                (ready,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(ready)
                yield TaskResult(task, _parts(ready))
                done += len(task.images)
                progress(done, total)
        finally:
            for unfinished in running:
                ray.cancel(unfinished)

    task_images = min(batches * setup.batch_size, max(setup.batch_size, TASK_IMAGES))
    return fill(cache, entries, run, terms, task_images=task_images)


def _parts(task: Any) -> dict[int, list[Part]]:
    """Return what a task that has ended computed, by depth, or raise its error."""
    try:
        parts: dict[int, list[Part]] = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GraftError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"a task that computes activations died again and again: {str(error).splitlines()[0]}"
        ) from error
    return parts


def _tasks_at_once(resources: TaskResources) -> int:
    """Return how many tasks the cluster runs at once.

    Raises:
        ResourceError: it could never run one.
    """
    amounts = {"CPU": resources.cpus, "GPU": resources.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    tasks = sum(min(int(node.get(k, 0) // n) for k, n in amounts.items() if n) for node in nodes)
    if not tasks:
        raise ResourceError(
            f"computing activations takes {resources.cpus} CPUs and {resources.gpus} GPUs on one "
            f"node; the cluster's {len(nodes)} nodes have less"
        )
    return tasks


@dataclass(frozen=True)
class _Opened:
    """A setup as a worker process has opened it."""

    store: Store
    trunk: TrunkSetup
    threads: int


_opened: dict[str, _Opened] = {}
"""The last setup of this worker process, by its Ray id: tasks of one `fill_on_ray` share it."""


def _compute(shared: list[Any], task: FillTask) -> dict[int, list[Part]]:
    """Compute one task, in a process of Ray's."""
    name = shared[0].hex()
    if name not in _opened:
        _opened.clear()
        _opened[name] = _open(ray.get(shared[0]))
    opened = _opened[name]
    # Ray gives this process to other tasks too: threads are set for each.
    torch.set_num_threads(opened.threads)
    return compute_task(opened.store, opened.trunk, task)


def _open(shared: _Shared) -> _Opened:
    keep_freed_memory()
    store, setup = Store.open(shared.uri), shared.setup
    dataset = DatasetVersion(store, shared.manifest)
    if not store.exists(f"{dataset.folder}/manifest.json"):
        raise ResourceError(
            f"the store {store.uri} is not visible on node {os.uname().nodename}; "
            "use s3://..., or a directory that every node mounts at the same path"
        )
    if setup.resources.gpus:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False
        setup.model.to(torch.device("cuda"))
    loader = ImageLoader(dataset, setup.preprocess, shared.augment, setup.loader)
    trunk = TrunkSetup(setup.model, loader, setup.preprocess, setup.batch_size)
    return _Opened(store, trunk, setup.resources.cpus)
