"""The store's promises, each on a directory and on an S3 server."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from graft.errors import ObjectChanged, ObjectDamaged, ObjectExists, ObjectNotFound, StoreError
from graft.store import ObjectRef, Store
from graft.store.s3 import PART_SIZE

WRITERS = 8


def keys(store: Store, prefix: str = "") -> list[str]:
    return [key for key, _ in store.scan(prefix)]


def contents(store: Store, folder: str, ref: ObjectRef) -> bytes:
    file = store.open_file(folder, ref)
    assert file is not None
    with file:
        return file.read()


def at_once(work: Callable[[int], bool]) -> list[bool]:
    """Call `work` with each writer's number, all at the same moment."""
    barrier = threading.Barrier(WRITERS)

    def enter(writer: int) -> bool:
        barrier.wait()
        return work(writer)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(enter, range(WRITERS)))


def test_a_listing_tells_times_of_the_clock_that_it_goes_by(store: Store) -> None:
    store.write("a/b", b"1")
    store.put("a", "c.txt", b"22")
    entries = list(store.entries("a/"))
    assert [(entry.key, entry.size) for entry in entries] == list(store.scan("a/"))
    assert all(abs(store.clock() - entry.modified) < 5 for entry in entries)
    assert list(store.entries("b/")) == []


# Payloads


def test_put_names_a_payload_by_its_hash(store: Store) -> None:
    data = b"weights"
    digest = hashlib.sha256(data).hexdigest()
    ref = store.put("runs/a", "tail.safetensors", data)
    assert ref == ObjectRef(name=f"tail-{digest}.safetensors", size=len(data), sha256=digest)
    assert list(store.scan("")) == [(f"runs/a/tail-{digest}.safetensors", len(data))]
    assert store.get("runs/a", ref) == data
    assert contents(store, "runs/a", ref) == data


@pytest.mark.parametrize("data", [b"", b"\0\xff" * 1000])
def test_a_file_is_put_as_its_bytes_are(store: Store, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    ref = store.put("a", "x.bin", tmp_path / "file")
    assert ref == store.put("a", "x.bin", data)
    assert len(keys(store)) == 1
    assert store.get("a", ref) == data
    assert contents(store, "a", ref) == data


def test_a_payload_that_is_there_is_not_sent_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    path = tmp_path / "a" / store.put("a", "x", b"data").name
    before = path.stat()
    store.put("a", "x", b"data")
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_payload_cut_short_is_sent_again(store: Store) -> None:
    ref = store.put("a", "x", b"data")
    store.write(f"a/{ref.name}", b"da")
    assert store.put("a", "x", b"data") == ref
    assert store.get("a", ref) == b"data"


def test_damage_is_found_and_not_cached(store: Store) -> None:
    data = uuid.uuid4().bytes
    ref = store.put("a", "x", data)
    store.write(f"a/{ref.name}", bytes(len(data)))
    with pytest.raises(StoreError, match="damaged"):
        store.get("a", ref)
    with pytest.raises(StoreError, match="damaged"):
        store.open_file("a", ref)
    store.write(f"a/{ref.name}", data)
    assert contents(store, "a", ref) == data


def test_what_is_larger_than_it_can_be_is_not_read(store: Store) -> None:
    ref = store.put("a", "x", b"data")
    store.write(f"a/{ref.name}", b"data" * 1000)
    with pytest.raises(ObjectDamaged, match="damaged: it has 4,000 bytes, where 4 are the most"):
        store.get("a", ref)
    assert len(store.read(f"a/{ref.name}", 4000).data) == 4000
    with pytest.raises(ObjectDamaged, match="has 4,000 bytes, where 3,999 are the most"):
        store.read(f"a/{ref.name}", 3999)


def test_a_pipe_in_a_store_is_no_object(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe")
    ref = ObjectRef(name="pipe", size=1, sha256="0" * 64)
    reads: list[Callable[[], object]] = [
        lambda: store.read("a/pipe"),
        lambda: store.read_range("a/pipe", 0, 1),
        lambda: store.open_file("a", ref),
    ]
    for read in reads:
        with pytest.raises(ObjectNotFound):
            read()


@pytest.mark.parametrize("from_file", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_large_travels_in_parts(store: Store, tmp_path: Path, from_file: bool) -> None:
    data = random.Random(0).randbytes(PART_SIZE) * 2 + b"."
    (tmp_path / "large").write_bytes(data)
    ref = store.put("a", "large.bin", tmp_path / "large" if from_file else data)
    assert ref.size == 2 * PART_SIZE + 1
    assert hashlib.sha256(contents(store, "a", ref)).hexdigest() == ref.sha256
    assert hashlib.sha256(store.get("a", ref)).hexdigest() == ref.sha256
    if not store.is_directory:
        assert store.read(f"a/{ref.name}").etag.endswith('-3"')


# Objects


def test_read_after_write_and_overwrite(store: Store) -> None:
    for version in (b"1", b"22", b""):
        store.write("a/b", version)
        assert store.read("a/b").data == version
        assert store.size("a/b") == len(version)


def test_what_is_not_there(store: Store) -> None:
    store.write("a/bc", b"1")
    for key in ("a/b", "a", "x/y"):
        assert not store.exists(key)
        assert store.size(key) is None
        with pytest.raises(ObjectNotFound, match=f"{store.uri}/{key} does not exist"):
            store.read(key)
    ref = ObjectRef(name="x", size=1, sha256="0" * 64)
    with pytest.raises(ObjectNotFound):
        store.get("a", ref)
    with pytest.raises(ObjectNotFound):
        store.open_file("a", ref)
    with pytest.raises(ObjectNotFound):
        store.read_range("a/b", 0, 1)
    with pytest.raises(ObjectNotFound):
        store.replace("a/b", b"2", store.read("a/bc").etag)
    store.delete("a/b")
    assert keys(store) == ["a/bc"]


def test_delete(store: Store) -> None:
    store.write("a/b", b"1")
    store.write("a/c", b"1")
    store.delete("a/b")
    assert keys(store) == ["a/c"]


def test_read_range(store: Store) -> None:
    store.write("a", b"0123456789")
    assert store.read_range("a", 3, 4) == b"3456"
    assert store.read_range("a", 8, 10) == b"89"


def test_scan_is_in_key_order_and_by_prefix(store: Store) -> None:
    names = ["runs/a/x", "runs/a-b", "runs/a b/ü.json", "runs/ab/c/d/e", "models/m", "runs/a/X"]
    for name in names:
        store.write(name, name.encode())
    assert list(store.scan("")) == [(name, len(name.encode())) for name in sorted(names)]
    assert keys(store, "runs/a/") == ["runs/a/X", "runs/a/x"]
    assert keys(store, "runs/ab") == ["runs/ab/c/d/e"]
    assert keys(store, "nothing/") == []


def test_children_are_folders(store: Store) -> None:
    for key in ("m/b/1", "m/a/versions/1", "m/a/2", "m/file"):
        store.write(key, b"")
    assert store.children("m/") == ["a", "b"]
    assert store.children("m/a/") == ["versions"]
    assert store.children("nothing/") == []


def test_stores_of_one_bucket_are_apart(bucket: str) -> None:
    name = uuid.uuid4().hex
    whole, inner, other = (Store.open(f"s3://{bucket}{end}") for end in ("", f"/{name}/", "/x"))
    inner.write("a", b"1")
    assert inner.uri == f"s3://{bucket}/{name}"
    assert whole.read(f"{name}/a").data == b"1"
    assert not other.exists("a")


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "/etc/x", "a/../../x", "../x", "a//b", "a/", "a/./b", "a\\b", "a\0b", "\udc80"],
)
def test_a_key_that_may_lead_elsewhere_is_refused(store: Store, key: str) -> None:
    backend = store._backend
    uses: list[Callable[[], object]] = [
        lambda: store.read(key),
        lambda: store.read_range(key, 0, 1),
        lambda: store.write(key, b""),
        lambda: store.create(key, b""),
        lambda: store.replace(key, b"", "etag"),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: backend.upload(key, b""),
        lambda: backend.local_path(key) or store.read(key),
        lambda: list(store.scan(f"{key}/a")),
        lambda: store.children(f"{key}/"),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="is no key of a store"):
            use()
    with pytest.raises(ValueError, match="name"):
        ObjectRef(name=key, size=1, sha256="0" * 64)


@pytest.mark.parametrize(
    "digest", ["", "0" * 63, "0" * 65, "F" * 64, "../" * 21 + "x", "0" * 64 + "\n"]
)
def test_a_digest_is_64_hex_digits(digest: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        ObjectRef(name="x", size=1, sha256=digest)


def test_what_a_bucket_lists_is_checked(bucket: str) -> None:
    """Others write to a bucket, with any key."""
    name = uuid.uuid4().hex
    store = Store.open(f"s3://{bucket}/{name}")
    config = Config(s3={"addressing_style": "path"})
    put = boto3.session.Session().client("s3", config=config).put_object
    for key in ("a/x", "a/", "b/c\\d"):  # the second is what a console calls a folder
        put(Bucket=bucket, Key=f"{name}/{key}", Body=b"")
    assert keys(store, "a/") == ["a/x"]
    with pytest.raises(StoreError, match="is no key of a store"):
        keys(store)


# Markers and pointers


def test_create_is_exclusive(store: Store) -> None:
    store.create("marker", b"mine")
    store.create("marker", b"mine")
    with pytest.raises(ObjectExists):
        store.create("marker", b"yours")
    assert store.read("marker").data == b"mine"


@pytest.mark.slow
def test_one_creator_wins_a_race(fencing_store: Store) -> None:
    store = fencing_store

    def create(key: str, writer: int) -> bool:
        with contextlib.suppress(ObjectExists):
            store.create(key, f"writer {writer}".encode())
            return True
        return False

    for number in range(20):
        key = f"race/{number}"
        won = at_once(lambda writer, key=key: create(key, writer))
        assert sum(won) == 1
        assert store.read(key).data == f"writer {won.index(True)}".encode()


def test_replace_compares(store: Store) -> None:
    store.create("pointer", b"1")
    seen = store.read("pointer")
    store.replace("pointer", b"2", seen.etag)
    with pytest.raises(ObjectChanged):
        store.replace("pointer", b"3", seen.etag)
    assert store.read("pointer").data == b"2"


@pytest.mark.slow
def test_no_update_is_lost_in_a_race(fencing_store: Store) -> None:
    store = fencing_store
    store.create("counter", b"0")

    def add(writer: int) -> bool:
        for _ in range(5):
            while True:
                seen = store.read("counter")
                # The writer's name: finding one's own bytes counts as having written them.
                data = f"{int(seen.data.split()[0]) + 1} {writer}".encode()
                with contextlib.suppress(ObjectChanged):
                    store.replace("counter", data, seen.etag)
                    break
        return True

    at_once(add)
    assert store.read("counter").data.split()[0] == str(5 * WRITERS).encode()


def test_point_sets_and_moves(store: Store) -> None:
    store.point("latest", b"1")
    store.point("latest", b"2")
    assert store.read("latest").data == b"2"


@pytest.mark.slow
def test_points_that_race_all_succeed(fencing_store: Store) -> None:
    def point(writer: int) -> bool:
        fencing_store.point("latest", str(writer).encode())
        return True

    at_once(point)
    assert int(fencing_store.read("latest").data) in range(WRITERS)


# Killed writers

OBJECT = 4 << 20
WRITE_UNTIL_KILLED = f"""
import sys
from graft.store import Store
store = Store.open(sys.argv[1])
for number in range(256):
    store.write(f"a/{{number}}", bytes([number]) * {OBJECT})
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    "wait",
    [
        0.003,
        0.02,
        0.041,
    ],
)
@pytest.mark.slow  # a process for each
def test_a_killed_writer_leaves_whole_objects_only(store: Store, wait: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, store.uri], stdout=subprocess.PIPE
    )
    assert writer.stdout
    with writer.stdout:
        writer.stdout.readline()
        time.sleep(wait)
        writer.kill()
        acknowledged = 1 + len(writer.stdout.readlines())
    assert writer.wait() == -signal.SIGKILL
    found = keys(store)
    assert acknowledged <= len(found) <= acknowledged + 1
    for key in found:
        assert store.read(key).data == bytes([int(key.removeprefix("a/"))]) * OBJECT
