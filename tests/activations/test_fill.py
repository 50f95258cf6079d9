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

import pytest

from activations.dying_writer import main as write_and_hang
from activations_lab import BATCH, Lab, make_lab, objects
from commands import Forked
from graft.activations.cache import commit, find, missing
from graft.activations.claims import BEATS, claimed
from graft.activations.fill import Wanted
from graft.activations.index import index_key
from graft.data.manifest import open_dataset
from graft.errors import ObjectNotFound, StoreError
from graft.store import Store

WANTED = (Wanted("train", 1, 3), Wanted("train", 1, 5), Wanted("val", 0, 5))
CLAIM = "activations/claims/a.json"
REQUESTS = 4


def after_a_lease(store: Store, claim: str, then: Callable[[], object]) -> Callable[[float], None]:
    """Return a `pause` that calls `then` when a claim's holder has lived on for over a lease."""
    beats: list[int] = []

    def pause(seconds: float) -> None:
        with contextlib.suppress(ObjectNotFound):  # released just now
            beats.append(json.loads(store.read(claim).data)["beat"])
            if beats[-1] > beats[0] + BEATS:
                then()
        time.sleep(seconds)

    return pause


def test_the_second_time_nothing_is_computed(lab: Lab) -> None:
    first = lab.fill(*WANTED)
    assert (first.trunk_forwards, first.images) == (39 + 15, 2 * 39 + 15)
    assert first.nbytes == sum(len(v) for k, v in objects(lab.store).items() if "/part-" in k)
    before = objects(lab.store)
    again = lab.fill(*WANTED)
    assert (again.trunk_forwards, again.decoded, again.images, again.nbytes) == (0, 0, 0, 0)
    assert objects(lab.store) == before
    assert {i: a.parts for i, a in again.activations.items()} == {
        i: a.parts for i, a in first.activations.items()
    }


def test_depths_that_are_there_are_not_computed_with_those_that_are_not(local_lab: Lab) -> None:
    local_lab.fill(Wanted("train", 1, 3))
    filled = local_lab.fill(*WANTED)
    assert (filled.decoded, filled.trunk_forwards, filled.images) == (15, 54, 54)


def test_requests_at_once_compute_once(lab: Lab) -> None:
    """Threads, each with a store and a network of its own."""
    labs = []
    for _ in range(REQUESTS):
        store = Store.open(lab.store.uri)
        labs.append(make_lab(store, open_dataset(store, "colours")))
    waited: list[str] = []
    together, somebody_waits = threading.Barrier(REQUESTS), threading.Event()

    def request(one: Lab) -> int:
        together.wait()
        return one.fill(*WANTED, waiting=wait, progress=compute).trunk_forwards

    def wait(holder: str) -> None:
        waited.append(holder)
        somebody_waits.set()

    def compute(images: int) -> None:
        assert somebody_waits.wait(120)

    with ThreadPoolExecutor(REQUESTS) as pool:
        forwards = list(pool.map(request, labs))
    assert sorted(forwards) == [0] * (REQUESTS - 1) + [54]
    assert waited[0].startswith(f"process {os.getpid()} on ")
    assert not [key for key in objects(lab.store) if "/claims/" in key or "/parts/" in key]


def test_the_work_of_a_killed_process_is_taken_over(local_lab: Lab) -> None:
    """It dies in its third job of five; what its first two put is kept."""
    lease_s = 1.5
    here, there = multiprocessing.Pipe()
    writer = Forked(write_and_hang, local_lab.store.uri, 2 * BATCH + 1, lease_s, there)
    there.close()
    assert here.poll(120)
    pid = here.recv()
    left = objects(local_lab.store)
    (claim,) = [key for key in left if "/claims/" in key]
    key = local_lab.naming().key(3, 1)
    assert find(local_lab.store, local_lab.dataset, "train", key) is None
    waited: list[str] = []
    killed = threading.Event()

    def kill() -> None:
        if not killed.is_set():
            killed.set()
            os.kill(pid, signal.SIGKILL)

    item = Wanted("train", 1, 3)
    pause = after_a_lease(local_lab.store, claim, kill)
    filled = local_lab.fill(item, lease_s=lease_s, waiting=waited.append, pause=pause)
    assert killed.is_set(), "a process that still beats was robbed"
    assert waited[0].startswith(f"process {pid} ")
    assert writer.wait(60) == -signal.SIGKILL
    here.close()
    assert filled.trunk_forwards == 39 - 2 * BATCH
    kept = filled.activations[item]
    assert kept.images == tuple(image.sha256 for image in local_lab.dataset.images("train"))
    assert bool((kept.take(kept.images[:BATCH]) == local_lab.direct(item, range(BATCH))).all())
    now = objects(local_lab.store)
    assert not [name for name in now if "/claims/" in name or "/parts/" in name]
    assert {name: now.get(name) for name in left if "/part-" in name} == {
        name: data for name, data in left.items() if "/part-" in name
    }


def test_a_claim_whose_holder_lives_is_waited_for(store: Store) -> None:
    order = []
    held, enough = threading.Event(), threading.Event()

    def first() -> None:
        with claimed(store, CLAIM, lease_s=1.0):
            held.set()
            assert enough.wait(120)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(120)
    pause = after_a_lease(store, CLAIM, enough.set)
    with claimed(store, CLAIM, lease_s=1.0, pause=pause):
        order.append("second")
    enough.set()
    thread.join()
    assert order == ["first", "second"]
    with pytest.raises(ObjectNotFound):
        store.read(CLAIM)


def test_a_holder_that_was_robbed_leaves_the_claim_alone(store: Store) -> None:
    with claimed(store, CLAIM):
        stolen = json.dumps({**json.loads(store.read(CLAIM).data), "owner": "another"}).encode()
        store.write(CLAIM, stolen)
    assert store.read(CLAIM).data == stolen


def test_a_claim_goes_with_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), claimed(store, CLAIM):
        raise ZeroDivisionError
    assert objects(store) == {}


def test_of_two_indexes_the_first_stays(lab: Lab) -> None:
    """Two writers of which neither saw the other's claim."""
    item = Wanted("val", 0, 3)
    key = lab.naming().key(3, 0)
    first = lab.get(item)
    other = first.parts[0].model_copy(update={"threads": 77})
    adopted = commit(lab.store, lab.dataset, "val", key, [other])
    assert adopted.parts == first.parts
    assert lab.get(item).parts == first.parts


def test_an_index_covers_its_split(local_lab: Lab) -> None:
    kept = local_lab.get(Wanted("val", 0, 3))
    with pytest.raises(ValueError, match="39 images of train are in none"):
        commit(local_lab.store, local_lab.dataset, "train", kept.key, kept.parts)
    parts, images = missing(local_lab.store, local_lab.dataset, "train", kept.key)
    assert (parts, len(images)) == ([], 39)


def test_a_damaged_shard_is_found(lab: Lab) -> None:
    kept = lab.get(Wanted("val", 0, 3))
    where = f"{kept.key.folder}/{kept.parts[0].shard.name}"
    data = bytearray(lab.store.read(where).data)
    data[-1] ^= 1
    lab.store.write(where, bytes(data))
    cached = lab.store.fetch(kept.key.folder, kept.parts[0].shard) if is_s3(lab) else None
    if cached:
        cached.unlink()  # what computed it still has its good copy
    with pytest.raises(StoreError, match="is damaged"):
        lab.get(Wanted("val", 0, 3)).take(kept.images)


def is_s3(lab: Lab) -> bool:
    return not lab.store.is_directory


def test_a_shard_that_is_gone_is_named_with_the_remedy(local_lab: Lab) -> None:
    kept = local_lab.get(Wanted("val", 0, 3))
    local_lab.store.delete(f"{kept.key.folder}/{kept.parts[0].shard.name}")
    with pytest.raises(StoreError, match=f"is gone.*graft activations rm {kept.key.trunk[:12]}"):
        local_lab.fill(Wanted("val", 0, 3))


def test_an_index_that_is_damaged_is_named_with_the_remedy(local_lab: Lab) -> None:
    kept = local_lab.get(Wanted("val", 0, 3))
    where = index_key(kept.key, local_lab.dataset, "val")
    local_lab.store.write(where, local_lab.store.read(where).data[:100])
    with pytest.raises(StoreError, match=r"no index of activations.*graft activations rm"):
        local_lab.fill(Wanted("val", 0, 3))
