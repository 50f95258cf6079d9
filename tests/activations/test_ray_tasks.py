"""Activations computed by actors on a real local Ray."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch

from activations_lab import BATCH, Lab
from graft.activations.cache_decision import measure_costs
from graft.activations.fill_cache import FillResult
from graft.activations.key import CacheEntry
from graft.activations.lease import DEFAULT_TERMS
from graft.activations.ray_tasks import TaskResources, TaskSetup, fill_on_ray, measure_on_ray
from graft.errors import ResourceError, StoreError
from graft.spec import Loader

pytestmark = pytest.mark.usefixtures("ray_cluster")
ENTRIES = [
    CacheEntry(split, view, depth)
    for split, view in (("train", 1), ("train", 2), ("val", 0))
    for depth in (3, 5)
]


def nothing(done: int, total: int) -> None:
    """Show nothing."""


def setup_of(lab: Lab, cpus: int = 1) -> TaskSetup:
    return TaskSetup(lab.model, lab.contract, Loader(threads=1), TaskResources(cpus), BATCH)


def fill_with_ray(
    lab: Lab, progress: Callable[[int, int], object] = nothing, cpus: int = 1
) -> FillResult:
    return fill_on_ray(lab.cache(), setup_of(lab, cpus), ENTRIES, DEFAULT_TERMS, progress=progress)


def workers(what: str) -> set[int]:
    """Return the processes of this Ray that are called so, or have a library of that name."""
    raylet = ray.get(ray.remote(num_cpus=0)(lambda: os.getppid()).remote())
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == raylet and (
                what in (folder / "cmdline").read_text() or what in (folder / "maps").read_text()
            ):
                pids.add(int(folder.name))
    return pids


def end_of(pids: set[int]) -> bool:
    """Wait until these processes have ended, and return whether they have."""
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01 * len(left))
    return True


@pytest.mark.slow  # a worker process for each task: fifteen CPU seconds
def test_tasks_compute_what_one_process_would(lab: Lab) -> None:
    seen: list[tuple[int, int]] = []
    before = workers("libtorch_cpu")
    filled = fill_with_ray(lab, lambda done, total: seen.append((done, total)))
    # What a process held of a model, or of a GPU, is gone with it.
    assert end_of(workers("libtorch_cpu") - before)
    assert (filled.trunk_forwards, filled.images) == (39 + 39 + 15, 2 * 93)
    assert seen[-1] == (93, 93)
    for entry in ENTRIES:
        activations = filled.activations[entry]
        taken = activations.take(lab.digests(entry.split, range(BATCH)))
        assert torch.equal(taken, lab.direct(entry, range(BATCH)))
    assert fill_with_ray(lab).trunk_forwards == 0
    assert lab.fill(*ENTRIES).trunk_forwards == 0


@pytest.mark.slow  # worker processes: fifteen CPU seconds
def test_tasks_of_a_process_that_dies_are_done_by_another(local_lab: Lab) -> None:
    killed: list[int] = []

    def kill_once(done: int, total: int) -> None:
        if not killed:
            killed.extend(workers("ray::TrunkActor"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    filled = fill_with_ray(local_lab, kill_once)
    assert killed
    assert (filled.trunk_forwards, filled.images) == (39 + 39 + 15, 2 * 93)


@pytest.mark.slow
def test_costs_are_those_of_a_worker(local_lab: Lab) -> None:
    before = workers("libtorch_cpu")
    measurement = measure_on_ray(local_lab.cache(), setup_of(local_lab))
    here = measure_costs(local_lab.setup, local_lab.dataset.images("train"), "float32")
    assert {depth: cost.row_bytes for depth, cost in measurement.costs.items()} == {
        depth: cost.row_bytes for depth, cost in here.items()
    }
    assert measurement.space.store_bytes
    assert end_of(workers("libtorch_cpu") - before)


@pytest.mark.slow  # worker processes: eight CPU seconds
def test_a_tasks_error_is_the_callers(local_lab: Lab) -> None:
    manifest = local_lab.dataset.manifest
    for shard in manifest.shards:
        name = f"{local_lab.dataset.folder}/{shard.name}"
        local_lab.store.write(name, bytes(shard.size))
    with pytest.raises(StoreError, match="is damaged"):
        fill_with_ray(local_lab)
    assert not [key for key, _ in local_lab.store.scan("activations/")]


@pytest.mark.slow
def test_more_than_the_cluster_has(local_lab: Lab) -> None:
    with pytest.raises(ResourceError, match="takes 1000 CPUs"):
        fill_with_ray(local_lab, cpus=1000)
