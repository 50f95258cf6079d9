"""Activations computed by tasks on a real local Ray."""

import pytest
import torch

from activations_lab import BATCH, Lab
from graft.activations.fill_cache import FillResult
from graft.activations.key import CacheEntry
from graft.activations.lease import DEFAULT_TERMS
from graft.activations.ray_tasks import TaskResources, TaskSetup, fill_on_ray
from graft.errors import ResourceError, StoreError
from graft.spec import Loader

pytestmark = pytest.mark.usefixtures("ray_cluster")
ENTRIES = [
    CacheEntry(split, view, depth)
    for split, view in (("train", 1), ("train", 2), ("val", 0))
    for depth in (3, 5)
]


def fill_with_ray(lab: Lab, seen: list[tuple[int, int]] | None = None, cpus: int = 1) -> FillResult:
    return fill_on_ray(
        lab.cache(),
        TaskSetup(lab.model, lab.contract, Loader(threads=1), TaskResources(cpus), BATCH),
        ENTRIES,
        DEFAULT_TERMS,
        progress=lambda done, total: (seen if seen is not None else []).append((done, total)),
    )


@pytest.mark.slow  # a worker process for each task: fifteen CPU seconds
def test_tasks_compute_what_one_process_would(lab: Lab) -> None:
    seen: list[tuple[int, int]] = []
    filled = fill_with_ray(lab, seen)
    assert (filled.trunk_forwards, filled.images) == (39 + 39 + 15, 2 * 93)
    assert seen[-1] == (93, 93)
    for entry in ENTRIES:
        activations = filled.activations[entry]
        taken = activations.take(lab.digests(entry.split, range(BATCH)))
        assert torch.equal(taken, lab.direct(entry, range(BATCH)))
    assert fill_with_ray(lab).trunk_forwards == 0
    assert lab.fill(*ENTRIES).trunk_forwards == 0


@pytest.mark.slow  # worker processes: eight CPU seconds
def test_a_tasks_error_is_the_callers(local_lab: Lab) -> None:
    manifest = local_lab.dataset.manifest
    for shard in manifest.shards:
        name = f"{local_lab.dataset.folder}/{shard.name}"
        local_lab.store.write(name, bytes(shard.size))
    with pytest.raises(StoreError, match="is damaged"):
        fill_with_ray(local_lab)
    assert not [key for key, _ in local_lab.store.scan("activations/")]


def test_more_than_the_cluster_has(local_lab: Lab) -> None:
    with pytest.raises(ResourceError, match="takes 1000 CPUs"):
        fill_with_ray(local_lab, cpus=1000)
