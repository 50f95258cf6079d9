"""Activations on a Ray cluster: tasks compute jobs, the driver plans and commits."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
import torch

from graft.activations.claims import LEASE_S
from graft.activations.compute import BATCH_SIZE, Computed
from graft.activations.fill import JOB_IMAGES, Done, Filled, Job, Naming, Wanted, fill, run_job
from graft.backbones.memory import keep_freed_memory
from graft.backbones.model import TransferModel
from graft.data.loader import ImageLoader
from graft.data.manifest import DatasetVersion, Manifest
from graft.errors import GraftError, ResourceError, RunFailed
from graft.spec import Contract, Loader, NoAugment, StandardAugment
from graft.store import Store

JOBS_A_WORKER = 3
"""So many at least, that none is idle for long at the end."""


@dataclass(frozen=True)
class Scale:
    """What a task takes of the cluster."""

    cpus: int = 1
    """Also torch's threads: numbers are promised to be equal at equal threads."""
    gpus: int = 0


@dataclass(frozen=True)
class _Setting:
    """What every task of a request works with."""

    uri: str
    manifest: Manifest
    model: TransferModel
    contract: Contract
    augment: NoAugment | StandardAugment
    loader: Loader
    batch_size: int
    scale: Scale


def fill_on_ray(
    store: Store,
    dataset: DatasetVersion,
    model: TransferModel,
    naming: Naming,
    contract: Contract,
    loader: Loader,
    wanted: Iterable[Wanted],
    *,
    scale: Scale | None = None,
    batch_size: int = BATCH_SIZE,
    lease_s: float = LEASE_S,
    waiting: Callable[[str], object] = lambda holder: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Filled:
    """Return all that is wanted, what is missing computed by tasks on the connected Ray.

    It waits for CPUs (or GPUs): call it before something else holds all of them.

    Args:
        store: where it is kept; every node has to see it.
        dataset: a version in that store.
        model: frozen at least as deep as all that is wanted, on the CPU.
        naming: the keys.
        contract: the preprocessing.
        loader: how images are decoded.
        wanted: what shall be there.
        scale: what a task takes.
        batch_size: images in every batch of the trunk.
        lease_s: after how long another's claim that does not move is taken over.
        waiting: told for whom this process waits.
        progress: told how many images are done, of how many.

    Raises:
        ResourceError: the cluster has less than a task takes, or a node does not see the store.
        RunFailed: tasks died again and again.
    """
    scale = scale or Scale()
    wanted = list(wanted)
    workers = _workers(scale)
    each = sum(len(dataset.images(s)) for s, _ in {(item.split, item.view) for item in wanted})
    # Whole batches, so that only a split's last one has to be filled up.
    batches = -(-each // (workers * JOBS_A_WORKER * batch_size))
    job_images = min(max(1, batches) * batch_size, max(batch_size, JOB_IMAGES))

    def run(jobs: Sequence[Job], done: Done) -> None:
        setting = _Setting(
            store.uri, dataset.manifest, model, contract, naming.augment, loader, batch_size, scale
        )
        # Packed once: as an argument it would be unpacked for every task.
        shared = [ray.put(setting)]
        # Of a process with a GPU Ray would make a new one for every job.
        task = ray.remote(num_cpus=scale.cpus, num_gpus=scale.gpus, max_calls=0)(_compute)
        total, finished = sum(len(job.images) for job in jobs), 0
        running = {task.remote(shared, job): job for job in jobs}
        try:
            while running:
                (first,), _ = ray.wait(list(running), num_returns=1)
                job = running.pop(first)
                done(job, _result(first))
                finished += len(job.images)
                progress(finished, total)
        finally:
            for left in running:
                ray.cancel(left)

    return fill(
        store,
        dataset,
        naming,
        wanted,
        run,
        job_images=job_images,
        lease_s=lease_s,
        waiting=waiting,
    )


def _result(task: Any) -> Computed:
    try:
        computed: Computed = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GraftError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"a task that computes activations died again and again: {str(error).splitlines()[0]}"
        ) from error
    return computed


def _workers(scale: Scale) -> int:
    """Return how many tasks run at once.

    Raises:
        ResourceError: none ever would.
    """
    asked = {"CPU": scale.cpus, "GPU": scale.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = sum(min(int(node.get(k, 0) // n) for k, n in asked.items() if n) for node in nodes)
    if not fit:
        raise ResourceError(
            f"computing activations takes {scale.cpus} CPUs and {scale.gpus} GPUs on one node; "
            f"the cluster's {len(nodes)} nodes have less"
        )
    return fit


_opened: dict[str, tuple[_Setting, Store, ImageLoader]] = {}
"""The last request's setting in this worker process: tasks of one request share it."""


def _compute(shared: list[Any], job: Job) -> Computed:
    """Compute one job, as a task."""
    name = shared[0].hex()
    if name not in _opened:
        _opened.clear()
        setting: _Setting = ray.get(shared[0])
        _opened[name] = (setting, *_open(setting))
    setting, store, loader = _opened[name]
    # Ray gives this process to other tasks too: threads are set for each.
    torch.set_num_threads(setting.scale.cpus)
    device = torch.device("cuda" if setting.scale.gpus else "cpu")
    return run_job(store, setting.model, loader, setting.contract, job, setting.batch_size, device)


def _open(setting: _Setting) -> tuple[Store, ImageLoader]:
    keep_freed_memory()
    store = Store.open(setting.uri)
    dataset = DatasetVersion(store, setting.manifest)
    if not store.exists(f"{dataset.folder}/manifest.json"):
        raise ResourceError(
            f"the store {store.uri} is not visible on node {os.uname().nodename}; "
            "use s3://..., or a directory that every node mounts at the same path"
        )
    if setting.scale.gpus:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False
        setting.model.to(torch.device("cuda"))
    return store, ImageLoader(dataset, setting.contract, setting.augment, setting.loader)
