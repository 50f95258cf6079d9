"""The node-local cache of a store on S3: what goes first, what stays readable."""

import mmap
import os
import time
import uuid
from pathlib import Path

import pytest

from graft.errors import InputError
from graft.store import ObjectRef, Store
from graft.store.node_cache import GRACE_S, cache_budget, cache_room, remove_leftovers

KB = 1000
Use = int
"""Seconds since a file was used."""


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


def fetch(store: Store, ref: ObjectRef, used: Use = 0) -> Path:
    path = store.fetch("a", ref)
    then = time.time() - used
    os.utime(path, (then, then))
    return path


def test_what_was_used_least_recently_goes_first(cache: Path, remote: Store) -> None:
    refs = [put(remote, 3 * KB) for _ in range(4)]
    paths = [fetch(remote, ref, used=1000 - 100 * i) for i, ref in enumerate(refs[:3])]
    assert remote.fetch("a", refs[0]) == paths[0]  # used again
    newest = fetch(remote, refs[3])
    assert [path.exists() for path in paths] == [True, False, True]
    assert newest.exists()
    assert fetch(remote, refs[1]).read_bytes() == remote.get("a", refs[1])


def test_what_was_used_a_moment_ago_stays(cache: Path, remote: Store) -> None:
    """Somebody is about to open it."""
    paths = [fetch(remote, put(remote, 6 * KB), GRACE_S // 2) for _ in range(3)]
    assert all(path.exists() for path in paths)


def test_what_is_mapped_stays_readable(cache: Path, remote: Store) -> None:
    ref = put(remote, 6 * KB)
    path = fetch(remote, ref, used=1000)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    fetch(remote, put(remote, 6 * KB))
    assert not path.exists()
    assert mapped[:] == remote.get("a", ref)


def test_one_larger_than_the_budget_is_fetched_all_the_same(cache: Path, remote: Store) -> None:
    old = fetch(remote, put(remote, 3 * KB), used=1000)
    assert fetch(remote, put(remote, 30 * KB)).stat().st_size == 30 * KB
    assert not old.exists()


def test_what_was_put_can_be_cached(cache: Path, remote: Store) -> None:
    cache.mkdir()
    (cache / ".tmp-x").write_bytes(b"payload")
    ref = remote.put("a", "x", cache / ".tmp-x")
    remote.cache_file(ref, cache / ".tmp-x")
    assert not (cache / ".tmp-x").exists()
    remote.delete(f"a/{ref.name}")
    assert remote.fetch("a", ref).read_bytes() == b"payload"


def test_a_directory_store_has_no_copies(cache: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "x").write_bytes(b"payload")
    ref = store.put("a", "x", tmp_path / "x")
    store.cache_file(ref, tmp_path / "x")
    assert store.fetch("a", ref).read_bytes() == b"payload"
    assert not (tmp_path / "x").exists()
    assert not cache.exists()


@pytest.mark.parametrize("given", ["much", "-1", "inf", "nan"])
def test_a_budget_that_is_none(
    given: str, cache: Path, remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE_GB", given)
    with pytest.raises(InputError, match=f"GRAFT_CACHE_GB is '{given}'; expected a number"):
        remote.fetch("a", put(remote, KB))


def test_without_a_budget_half_of_the_disk_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFT_CACHE_GB", raising=False)
    status = os.statvfs(tmp_path)
    assert cache_budget(tmp_path) == status.f_frsize * status.f_blocks // 2


def test_room_is_the_budget_or_what_the_disk_has(
    cache: Path, remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(remote, put(remote, 4 * KB))
    assert cache_room(cache) == 10 * KB
    monkeypatch.setenv("GRAFT_CACHE_GB", "1e9")
    assert 0 < cache_room(cache) < 1e18


def test_what_killed_processes_left_goes_after_a_day(cache: Path) -> None:
    old, new = cache / ".tmp-old", cache / ".tmp-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    remove_leftovers(cache)
    assert (old.exists(), new.exists()) == (False, True)
