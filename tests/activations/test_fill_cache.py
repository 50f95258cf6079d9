"""Who computes, who waits, and what a death leaves behind."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from activations.dying_writer import main as write_and_hang
from activations_lab import BATCH, Lab, make_lab, objects
from colours import draw_colours
from commands import Forked
from graft.activations.fill_cache import plan_tasks
from graft.activations.index import index_key, note_parts
from graft.activations.key import CacheEntry
from graft.activations.lease import HEARTBEATS, LeaseTerms, hold_lease
from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, open_dataset
from graft.data.removing import remove_version
from graft.errors import ObjectNotFound, StoreError
from graft.store import Store

ENTRIES = (CacheEntry("train", 1, 3), CacheEntry("train", 1, 5), CacheEntry("val", 0, 5))
LEASE = "activations/claims/a.json"
PROCESSES = 4


def after_expiry(store: Store, lease: str, then: Callable[[], object]) -> Callable[[float], None]:
    """Return a `pause` that calls `then` when a lease's owner has lived on beyond its expiry."""
    beats: list[int] = []

    def pause(seconds: float) -> None:
        with contextlib.suppress(ObjectNotFound):  # released just now
            beats.append(json.loads(store.read(lease).data)["beat"])
            if beats[-1] > beats[0] + HEARTBEATS:
                then()
        time.sleep(seconds)

    return pause


def test_what_a_node_cannot_hold_is_computed_in_the_order_in_which_it_lies(
    local_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task reads each block of a shard once; in the index's order each image would be one."""
    entry = CacheEntry("train", 1, 3)
    cache = local_lab.cache()
    coverage = {entry: cache.coverage(entry)}
    (held,) = plan_tasks(cache, coverage, 2048)
    monkeypatch.setattr(DatasetVersion, "fits_node", False)
    (streamed,) = plan_tasks(cache, coverage, 2048)
    places = list(zip(streamed.images.shards, streamed.images.offsets, strict=True))
    assert places == sorted(places)
    assert streamed.images.sha256 != held.images.sha256
    assert sorted(streamed.images.sha256) == sorted(held.images.sha256)
    activations = local_lab.get(entry)
    row = [5]
    assert activations.take(local_lab.digests("train", row)).equal(local_lab.direct(entry, row))


def test_the_second_time_nothing_is_computed(lab: Lab) -> None:
    first = lab.fill(*ENTRIES)
    assert (first.trunk_forwards, first.images) == (39 + 15, 2 * 39 + 15)
    shards = {part.shard for hit in first.activations.values() for part in hit.parts}
    written = sum(len(data) for name, data in objects(lab.store).items() if "/part-" in name)
    assert sum(shard.size for shard in shards) == written
    before = objects(lab.store)
    again = lab.fill(*ENTRIES)
    assert (again.trunk_forwards, again.decoded, again.images, again.results) == (0, 0, 0, ())
    added = objects(lab.store).keys() - before.keys()
    assert {name.rpartition("/")[0] for name in added} == {  # that they were used is noted
        f"{hit.key.folder}/used" for hit in first.activations.values()
    }
    assert {name: objects(lab.store)[name] for name in before} == before
    assert {i: a.parts for i, a in again.activations.items()} == {
        i: a.parts for i, a in first.activations.items()
    }


def test_what_a_version_adds_is_all_that_is_computed(local_lab: Lab, tmp_path: Path) -> None:
    """Also where the version that it adds to is removed."""
    local_lab.fill(*ENTRIES)
    store, parent = local_lab.store, local_lab.dataset.manifest
    more = draw_colours(tmp_path / "more", train=2, val=1, seed=1)
    import_dataset(store, str(more), "colours", add_to=parent.version)
    remove_version(store, "colours", parent.version)
    grown = local_lab.another(open_dataset(store, "colours"))
    filled = grown.fill(*ENTRIES)
    assert (filled.decoded, filled.trunk_forwards, filled.images) == (9, 9, 2 * 6 + 3)
    assert {len(activations) for activations in filled.activations.values()} == {45, 18}


def test_depths_that_are_there_are_not_computed_with_those_that_are_not(local_lab: Lab) -> None:
    local_lab.fill(CacheEntry("train", 1, 3))
    filled = local_lab.fill(*ENTRIES)
    assert (filled.decoded, filled.trunk_forwards, filled.images) == (15, 54, 54)


@pytest.mark.slow  # five CPU seconds on both stores
def test_requests_at_once_compute_once(lab: Lab) -> None:
    """Threads, each with a store and a network of its own."""
    labs = []
    for _ in range(PROCESSES):
        store = Store.open(lab.store.uri)
        labs.append(make_lab(store, open_dataset(store, "colours")))
    waited: list[str] = []
    together, somebody_waits = threading.Barrier(PROCESSES), threading.Event()

    def request(lab: Lab) -> int:
        together.wait()
        return lab.fill(*ENTRIES, terms=LeaseTerms(waiting=wait), progress=compute).trunk_forwards

    def wait(holder: str) -> None:
        waited.append(holder)
        somebody_waits.set()

    def compute(done: int, total: int) -> None:
        assert somebody_waits.wait(120)

    with ThreadPoolExecutor(PROCESSES) as pool:
        forwards = list(pool.map(request, labs))
    assert sorted(forwards) == [0] * (PROCESSES - 1) + [54]
    assert waited[0].startswith(f"process {os.getpid()} on ")
    assert not [key for key in objects(lab.store) if "/claims/" in key or "/parts/" in key]


@pytest.mark.slow  # a process that is killed
def test_the_work_of_a_killed_process_is_taken_over(local_lab: Lab) -> None:
    """It dies in its third task of five; what its first two put stays."""
    expiry_s = 1.5
    here, there = multiprocessing.Pipe()
    writer = Forked(write_and_hang, local_lab.store.uri, 2 * BATCH + 1, expiry_s, there)
    there.close()
    assert here.poll(120)
    pid = here.recv()
    left = objects(local_lab.store)
    (lease,) = [key for key in left if "/claims/" in key]
    entry = CacheEntry("train", 1, 3)
    assert local_lab.cache().get(entry) is None
    waited: list[str] = []
    killed = threading.Event()

    def kill() -> None:
        if not killed.is_set():
            killed.set()
            os.kill(pid, signal.SIGKILL)

    pause = after_expiry(local_lab.store, lease, kill)
    filled = local_lab.fill(entry, terms=LeaseTerms(expiry_s, waited.append, pause))
    assert killed.is_set(), "a process that still beats was robbed"
    assert waited[0].startswith(f"process {pid} ")
    assert writer.wait(60) == -signal.SIGKILL
    here.close()
    assert filled.trunk_forwards == 39 - 2 * BATCH
    activations = filled.activations[entry]
    images = local_lab.dataset.images("train").digests
    assert activations.digests.tolist() == images.tolist()
    taken = activations.take(images[:BATCH])
    assert bool((taken == local_lab.direct(entry, range(BATCH))).all())
    now = objects(local_lab.store)
    assert not [name for name in now if "/claims/" in name or "/parts/" in name]
    assert {name: now.get(name) for name in left if "/part-" in name} == {
        name: data for name, data in left.items() if "/part-" in name
    }


def test_a_lease_whose_owner_lives_is_waited_for(store: Store) -> None:
    order = []
    held, enough = threading.Event(), threading.Event()

    def first() -> None:
        with hold_lease(store, LEASE, LeaseTerms(expiry_s=1.0)):
            held.set()
            assert enough.wait(120)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(120)
    pause = after_expiry(store, LEASE, enough.set)
    with hold_lease(store, LEASE, LeaseTerms(expiry_s=1.0, pause=pause)):
        order.append("second")
    enough.set()
    thread.join()
    assert order == ["first", "second"]
    with pytest.raises(ObjectNotFound):
        store.read(LEASE)


def test_an_owner_that_was_robbed_leaves_the_lease_alone(store: Store) -> None:
    with hold_lease(store, LEASE):
        stolen = json.dumps({**json.loads(store.read(LEASE).data), "owner": "another"}).encode()
        store.write(LEASE, stolen)
    assert store.read(LEASE).data == stolen


def test_a_lease_goes_with_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), hold_lease(store, LEASE):
        raise ZeroDivisionError
    assert objects(store) == {}


def test_of_two_indexes_the_first_stays(lab: Lab) -> None:
    """Two writers of which neither saw the other's lease."""
    entry = CacheEntry("val", 0, 3)
    first = lab.get(entry)
    (own,) = first.indexed.each()
    other = replace(own, part=own.part.model_copy(update={"threads": 77}))
    adopted = lab.cache().commit(entry, [other])
    assert adopted.parts == first.parts
    assert lab.get(entry).parts == first.parts


def test_what_a_slower_writer_noted_goes_once_an_index_has_its_images(local_lab: Lab) -> None:
    """It computed the same in batches of its own, so that its shard is another."""
    entry = CacheEntry("val", 0, 3)
    activations = local_lab.get(entry)
    local_lab.store.delete(index_key(activations.key, local_lab.dataset, "val"))
    (own,) = activations.indexed.each()
    shard = own.part.shard.model_copy(update={"name": f"other-{own.part.shard.name}"})
    slower = [replace(own, part=own.part.model_copy(update={"shard": shard}))]
    note_parts(local_lab.store, local_lab.dataset, "val", activations.key, slower)
    assert local_lab.get(entry).parts == activations.parts
    assert not [name for name in objects(local_lab.store) if "/parts/" in name]


def test_an_index_covers_its_split(local_lab: Lab) -> None:
    activations = local_lab.get(CacheEntry("val", 0, 3))
    with pytest.raises(ValueError, match="39 images of train are in none"):
        local_lab.cache().commit(CacheEntry("train", 0, 3), activations.indexed.each())
    coverage = local_lab.cache().coverage(CacheEntry("train", 0, 3))
    assert (coverage.parts, coverage.absent.sum()) == ((), 39)


def test_a_damaged_shard_is_found(lab: Lab) -> None:
    activations = lab.get(CacheEntry("val", 0, 3))
    where = f"{activations.key.folder}/{activations.parts[0].shard.name}"
    data = bytearray(lab.store.read(where).data)
    data[-1] ^= 1
    lab.store.write(where, bytes(data))
    if not lab.store.is_directory:  # the node that computed it still has its good copy
        copy = lab.store.open_file(activations.key.folder, activations.parts[0].shard)
        with copy:
            os.unlink(copy.name)
    with pytest.raises(StoreError, match="is damaged"):
        lab.get(CacheEntry("val", 0, 3)).take(activations.digests)


def test_a_shard_that_is_gone_is_named_with_the_remedy(local_lab: Lab) -> None:
    activations = local_lab.get(CacheEntry("val", 0, 3))
    local_lab.store.delete(f"{activations.key.folder}/{activations.parts[0].shard.name}")
    remedy = f"graft activations rm {activations.key.trunk[:12]}"
    with pytest.raises(StoreError, match=f"is gone.*{remedy}"):
        local_lab.fill(CacheEntry("val", 0, 3))


def test_an_index_that_is_damaged_is_named_with_the_remedy(local_lab: Lab) -> None:
    activations = local_lab.get(CacheEntry("val", 0, 3))
    where = index_key(activations.key, local_lab.dataset, "val")
    local_lab.store.write(where, local_lab.store.read(where).data[:100])
    with pytest.raises(StoreError, match=r"cannot be read by .*graft activations rm"):
        local_lab.fill(CacheEntry("val", 0, 3))
