import io
import subprocess
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import pyarrow.parquet as pq
import pytest

from graft.data.packing import ShardPlan, StagedImage, pack_shard, read_planned
from graft.data.shards import ShardReader, StoredShard, append_member, pack, unpack
from graft.errors import ObjectDamaged, StoreError

PAYLOADS = {f"{i:02}.bin": bytes([i]) * (i * 97) for i in range(20)}


def staged_in(payloads):
    """Return the tar file of a part that has staged these payloads, and where each lies in it."""
    out = io.BytesIO()
    images = {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in payloads.items():
            offset = tar.offset + tarfile.BLOCKSIZE
            append_member(tar, name, data)
            images[name] = offset, len(data), zlib.crc32(data)
    return out.getvalue(), images


@pytest.fixture
def parts():
    """Two parts, the second of which has staged more than goes into the shards."""
    names = list(PAYLOADS)
    rest = {name: PAYLOADS[name] for name in names[8:14]}
    rest |= {"not-packed.bin": b"x" * 700} | {name: PAYLOADS[name] for name in names[14:]}
    return [staged_in({name: PAYLOADS[name] for name in names[:8]}), staged_in(rest)]


@pytest.fixture
def planned(parts):
    """The plan of the shards of all payloads, and where each will lie."""
    plan, places = ShardPlan(shard_bytes=4096), {}
    for number, (_, images) in enumerate(parts):
        for name, image in images.items():
            if name in PAYLOADS:
                places[name] = plan.add(StagedImage(number, *image))
    return plan, places


@pytest.fixture
def written(tmp_path, parts, planned):
    plan, places = planned
    paths = [tmp_path / f"shard-{position}.tar" for position in range(len(plan))]
    for position, path in enumerate(paths):
        pack_shard(plan.shard(position), lambda p, at, size: parts[p][0][at : at + size], path)
    return paths, places


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
        found = pool.map(lambda n: reader.read(*astuple(places[n])), names)
        assert list(found) == [PAYLOADS[name] for name in names]


def test_tar_reads_them(written):
    paths, places = written
    for name, data in PAYLOADS.items():
        archive = paths[places[name].shard]
        run = subprocess.run(["tar", "-xOf", archive, name], capture_output=True, check=True)
        assert run.stdout == data


def test_a_shard_is_what_tarfile_writes_of_its_images(written):
    paths, places = written
    for number, path in enumerate(paths):
        members = [(name, PAYLOADS[name]) for name in PAYLOADS if places[name].shard == number]
        assert path.read_bytes() == pack(members)
        assert sum(len(data) for _, data in members[:-1]) < 4096


def test_a_plan_comes_back_shard_by_shard(planned, tmp_path):
    plan, _ = planned
    plan.write(tmp_path / "plan.parquet")
    with pq.ParquetFile(tmp_path / "plan.parquet") as file:
        again = [read_planned(file, position) for position in range(file.num_row_groups)]
    assert again == [plan.shard(position) for position in range(len(plan))]
    assert sum(map(len, again)) == plan.images == len(PAYLOADS)


def test_what_was_damaged_before_it_was_packed_is_not_packed(parts, tmp_path):
    tar = bytearray(parts[0][0])
    offset, *_ = parts[0][1]["05.bin"]
    tar[offset] ^= 1
    images = [StagedImage(0, *image) for image in parts[0][1].values()]
    with pytest.raises(ObjectDamaged, match="staged of part 0 is damaged"):
        pack_shard(images, lambda _, at, size: bytes(tar[at : at + size]), tmp_path / "x.tar")


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
