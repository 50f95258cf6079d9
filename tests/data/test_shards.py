import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from graft.data.shards import ShardReader, ShardWriter, StoredShard, pack, unpack
from graft.errors import StoreError
from graft.store import sha256_file

PAYLOADS = {f"{i:02}.bin": bytes([i]) * (i * 97) for i in range(20)}


@pytest.fixture
def written(tmp_path):
    with closing(ShardWriter(tmp_path, shard_bytes=4096)) as writer:
        places = {name: writer.add(name, data) for name, data in PAYLOADS.items()}
    return writer.paths, places


def test_payloads_come_back_from_any_thread(written, store):
    paths, places = written
    assert len(paths) > 3
    folders = [f"d{number}" for number in range(len(paths))]
    reader = ShardReader(
        store,
        [StoredShard(d, store.put(d, p.name, p)) for d, p in zip(folders, paths, strict=True)],
    )
    names = list(PAYLOADS) * 10
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda n: reader.read(*vars(places[n]).values()), names)
        assert list(found) == [PAYLOADS[name] for name in names]


def test_tar_reads_them(written):
    paths, places = written
    for name, data in PAYLOADS.items():
        archive = paths[places[name].shard]
        run = subprocess.run(["tar", "-xOf", archive, name], capture_output=True, check=True)
        assert run.stdout == data


def test_the_same_payloads_make_the_same_bytes(written, tmp_path):
    (tmp_path / "again").mkdir()
    with closing(ShardWriter(tmp_path / "again", shard_bytes=4096)) as writer:
        for name, data in PAYLOADS.items():
            writer.add(name, data)
    assert list(map(sha256_file, writer.paths)) == list(map(sha256_file, written[0]))


def test_a_damaged_shard_is_refused(written, store, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    paths, places = written
    ref = store.put("d", "shard.tar", paths[0])
    store.write(f"d/{ref.name}", b"x" * ref.size)
    with pytest.raises(StoreError, match="is damaged"):
        ShardReader(store, [StoredShard("d", ref)]).read(0, places["00.bin"].offset, 1)


def test_a_small_archive_comes_back(tmp_path):
    members = [("a", b"one"), ("b", b"")]
    assert unpack(pack(members)) == members
    assert unpack(pack([])) == []
