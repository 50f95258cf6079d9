"""The node-local cache of a store on S3: what goes first, what stays readable."""

import mmap
import os
import random
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import BinaryIO

import pytest

from commands import Forked
from graft.data.shards import MAPS, ShardReader, StoredShard
from graft.errors import InputError, ResourceError, StoreError
from graft.store import ObjectRef, Store
from graft.store.node_cache import cache_budget, cache_room, open_copy, remove_leftovers
from graft.store.objects import sha256
from s3_gets import fetch_all, gets

KB = 1000
Seconds = int


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty node-local cache with room for 10 kB."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRAFT_CACHE", str(folder))
    monkeypatch.setenv("GRAFT_CACHE_GB", "0.00001")
    return folder


@pytest.fixture
def remote(s3_store_uri: str) -> Store:
    return Store.open(s3_store_uri)


def put(store: Store, size: int) -> ObjectRef:
    return store.put("a", "x", uuid.uuid4().bytes + bytes(size - 16))


def shard_reader(store: Store, refs: list[ObjectRef]) -> ShardReader:
    return ShardReader(store, [StoredShard("a", ref) for ref in refs])


def read(store: Store, ref: ObjectRef) -> bytes | None:
    """Return a payload by way of the cache, None where that has no room for it."""
    file = store.open_file("a", ref)
    if file is None:
        return None
    with file:
        return file.read()


def cached(cache: Path, ref: ObjectRef) -> Path:
    return cache / ref.sha256[:2] / ref.sha256


def use(store: Store, cache: Path, ref: ObjectRef, ago: Seconds) -> Path:
    """Have a payload in the cache, used so long ago, and return its file."""
    assert read(store, ref) is not None
    path = cached(cache, ref)
    os.utime(path, (time.time() - ago, path.stat().st_mtime))
    return path


def held(cache: Path) -> int:
    """Return the bytes on disk: the cache's files, and those deleted that this process maps."""
    deleted = {
        line.split(maxsplit=5)[4]: line.split(maxsplit=5)[0].split("-")
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(cache) in line and line.endswith("(deleted)")
    }
    files = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return files + sum(int(end, 16) - int(start, 16) for start, end in deleted.values())


def test_what_was_used_least_recently_goes_first(cache: Path, remote: Store) -> None:
    refs = [put(remote, 3 * KB) for _ in range(4)]
    paths = [use(remote, cache, ref, 1000 - 100 * i) for i, ref in enumerate(refs[:3])]
    read(remote, refs[0])  # used again
    assert read(remote, refs[3]) == remote.get("a", refs[3])
    assert [path.exists() for path in paths] == [True, False, True]
    assert read(remote, refs[1]) == remote.get("a", refs[1])


def test_what_is_open_or_mapped_stays(cache: Path, remote: Store) -> None:
    opened, mapped, third = (put(remote, 4 * KB) for _ in range(3))
    file, other = remote.open_file("a", opened), remote.open_file("a", mapped)
    assert file
    assert other
    with other:
        memory = mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ)
    assert read(remote, third) is None  # parts of it are read from the store
    file.close()
    assert read(remote, third) == remote.get("a", third)
    assert (cached(cache, opened).exists(), cached(cache, mapped).exists()) == (False, True)
    assert memory[:] == remote.get("a", mapped)
    memory.close()
    assert read(remote, opened)
    assert held(cache) <= 10 * KB


def test_what_another_process_has_open_stays(cache: Path, remote: Store) -> None:
    ref = put(remote, 6 * KB)
    path = use(remote, cache, ref, 1000)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH); "
        "print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert read(remote, put(remote, 6 * KB)) is None
        assert path.exists()
        process.communicate(b"\n")
    assert read(remote, put(remote, 6 * KB))
    assert not path.exists()


@pytest.mark.slow
def test_one_larger_than_the_budget_removes_nothing(cache: Path, remote: Store) -> None:
    small, large = put(remote, 3 * KB), put(remote, 30 * KB)
    path = use(remote, cache, small, 1000)
    assert read(remote, large) is None
    assert path.exists()
    with pytest.raises(ResourceError, match="room for 10 kB, and one file takes 30 kB; set"):
        remote.cacheable("a", [small, large])


def test_the_first_ones_that_fit_are_cacheable(cache: Path, remote: Store, tmp_path: Path) -> None:
    refs = [put(remote, 4 * KB) for _ in range(3)]
    assert remote.cacheable("a", refs) == 2
    assert remote.cacheable("a", []) == 0
    assert Store.open(str(tmp_path / "store")).cacheable("a", refs) == 3


def test_a_copy_that_others_wrote_is_verified_once(cache: Path, remote: Store) -> None:
    """An earlier release, another user, or a power cut."""
    ref = put(remote, 3 * KB)
    path = cached(cache, ref)
    path.parent.mkdir(parents=True)
    for content in (b"short", bytes(ref.size)):
        path.write_bytes(content)
        os.utime(path, (1, 1))  # not in the very moment of the last change
        assert read(remote, ref) == remote.get("a", ref)
        assert path.read_bytes() == remote.get("a", ref)
    remote.delete(f"a/{ref.name}")
    assert read(remote, ref)  # what was fetched is not fetched again


def test_damage_is_never_visible_under_its_name(cache: Path, remote: Store) -> None:
    ref = put(remote, 3 * KB)
    remote.write(f"a/{ref.name}", bytes(ref.size))
    for _ in range(2):
        with pytest.raises(StoreError, match="damaged"):
            remote.open_file("a", ref)
    left = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert left == [".lock", f".lock-{ref.sha256[:2]}"]


@pytest.mark.slow
def test_a_node_fetches_a_payload_once_for_all_its_processes(
    cache: Path, remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE_GB", "0.1")
    refs = [put(remote, 1000 * KB) for _ in range(20)]
    processes = [Forked(fetch_all, remote.uri, refs, str(tmp_path)) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sum(int(path.read_text()) for path in tmp_path.glob("gets-*")) == 20


def test_threads_that_need_the_same_shard_fetch_it_once(cache: Path, remote: Store) -> None:
    refs = [put(remote, 3 * KB) for _ in range(3)]
    reader, asked = shard_reader(remote, refs), gets(remote)
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda number: reader.read(number % 3, 0, 100), range(30)))
    assert len(asked) == 3


@pytest.mark.slow
def test_processes_of_a_node_stay_within_the_budget(cache: Path, remote: Store) -> None:
    """Whatever they map, and in whatever order."""
    refs = [put(remote, 2 * KB) for _ in range(12)]
    folder = remote.uri
    readers = [shard_reader(Store.open(folder), refs) for _ in range(3)]
    whole = [remote.get("a", ref) for ref in refs]
    draw = random.Random(0)
    for _ in range(60):
        number = draw.randrange(len(refs))
        assert draw.choice(readers).read(number, 100, 900) == whole[number][100:1000]
        assert held(cache) <= 10 * KB
    assert held(cache) == 10 * KB  # and they use it


def test_a_reader_whose_shards_never_fit_says_so_at_once(cache: Path, remote: Store) -> None:
    reader = shard_reader(remote, [put(remote, KB), put(remote, 11 * KB)])
    with pytest.raises(ResourceError, match="set GRAFT_CACHE_GB to more"):
        reader.read(0, 0, 1)


def test_many_shards_take_few_file_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path))
    refs = [put(store, 16 + number) for number in range(MAPS + 30)]
    reader = shard_reader(store, refs)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(len(refs)):
        assert len(reader.read(number, 0, 10)) == 10
    assert len(os.listdir("/proc/self/fd")) <= before + MAPS


def test_what_was_put_can_be_cached(cache: Path, remote: Store) -> None:
    (cache / ".tmp-x").mkdir(parents=True)
    path = cache / ".tmp-x" / "0"
    path.write_bytes(b"payload")
    ref = remote.put("a", "x", path)
    remote.cache_file(ref, path)
    assert not path.exists()
    remote.delete(f"a/{ref.name}")
    assert read(remote, ref) == b"payload"


def test_a_directory_store_has_no_copies(cache: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "x").write_bytes(b"payload")
    ref = store.put("a", "x", tmp_path / "x")
    store.cache_file(ref, tmp_path / "x")
    assert read(store, ref) == b"payload"
    assert not (tmp_path / "x").exists()
    assert not cache.exists()


@pytest.mark.parametrize("given", ["much", "-1", "inf", "nan"])
def test_a_budget_that_is_none(
    given: str, cache: Path, remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE_GB", given)
    with pytest.raises(InputError, match=f"GRAFT_CACHE_GB is '{given}'; expected a number"):
        remote.open_file("a", put(remote, KB))


def test_without_a_budget_half_of_the_disk_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFT_CACHE_GB", raising=False)
    status = os.statvfs(tmp_path)
    assert cache_budget(tmp_path) == status.f_frsize * status.f_blocks // 2


def test_room_is_the_budget_or_what_the_disk_has(
    cache: Path, remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(remote, put(remote, 4 * KB))
    assert cache_room(cache) == 10 * KB
    monkeypatch.setenv("GRAFT_CACHE_GB", "1e9")
    assert 0 < cache_room(cache) < 1e18


def test_what_killed_processes_left_is_counted_and_goes(cache: Path, remote: Store) -> None:
    old, new, file = cache / ".tmp-old", cache / ".tmp-new", cache / ".tmp-file"
    earlier = cache / "ab" / ".tmp-x"  # where an earlier release had it
    for folder in (old, new, earlier):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(bytes(4 * KB))
    file.write_bytes(bytes(4 * KB))
    yesterday = time.time() - 25 * 3600
    for folder in (old, earlier):
        os.utime(folder, (yesterday, yesterday))
    assert read(remote, put(remote, 6 * KB))
    assert [path.exists() for path in (old, new, earlier, file)] == [False, True, False, False]
    assert read(remote, put(remote, 7 * KB)) is None  # 4 kB are being written


def fill(payload: bytes, file: BinaryIO) -> None:
    file.write(payload)


def test_a_copy_is_made_while_others_clear_up(cache: Path) -> None:
    """Others remove leftovers, and folders of their own that have ended."""
    cache.mkdir()
    copied = Event()

    def others() -> None:
        while not copied.is_set():
            with TemporaryDirectory(dir=cache, prefix=".tmp-") as folder:
                Path(folder, "part").mkdir()
                remove_leftovers(cache)

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(others) for _ in range(2)]
        try:
            for number in range(40):
                payload = number.to_bytes(2, "big")
                ref = ObjectRef(name="x", size=2, sha256=sha256(payload))
                with open_copy(ref, partial(fill, payload)) or pytest.fail("no room") as file:
                    assert file.tell() == 2
        finally:
            copied.set()
    for other in ended:
        other.result()
