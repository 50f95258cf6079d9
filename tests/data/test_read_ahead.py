"""Images that are read ahead of their use: how many requests, how much is held, what is checked."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from hashlib import sha256
from tarfile import BLOCKSIZE

import numpy as np
import pytest

from graft.data import read_ahead
from graft.data.epoch_order import FULL, BlockShuffle, EpochOrder
from graft.data.index import Image, Images
from graft.data.read_ahead import Fetches, ReadAhead, block_numbers, first_uses
from graft.data.shards import Place, ShardReader, StoredShard, pack
from graft.errors import ObjectDamaged
from graft.store import Store
from s3_gets import gets

pytestmark = pytest.mark.slow  # most have a bucket of their own: half a second each
KB = 1000
BLOCK = 8192
IMAGES = 120
BLOCKS = BlockShuffle(block_bytes=BLOCK, readers=4, buffer=2)
MAX_SIDE = 512


class Lab:
    """A store with images in shards of 30 kB, of which the cache has room for the first."""

    def __init__(self, store: Store):
        draw = random.Random(0)
        self.payloads = [draw.randbytes(draw.randrange(KB, 3 * KB)) for _ in range(IMAGES)]
        digests = [sha256(payload).hexdigest() for payload in self.payloads]
        members, places, size = [[]], [], 0
        for digest, payload in zip(digests, self.payloads, strict=True):
            if size >= 30 * KB:
                members.append([])
                size = 0
            members[-1].append((digest, payload))
            places.append(Place(len(members) - 1, size + BLOCKSIZE, len(payload)))
            size += BLOCKSIZE + -(-len(payload) // BLOCKSIZE) * BLOCKSIZE
        refs = [store.put("a", f"{n}.tar", pack(each)) for n, each in enumerate(members)]
        self.store = store
        self.shards = [StoredShard("a", ref) for ref in refs]
        self.images = Images.of(
            Image(digest, "x", 0, "train", p.shard, p.offset, p.size, width=100, height=MAX_SIDE)
            for digest, p in zip(digests, places, strict=True)
        )

    @property
    def blocks(self) -> int:
        """How many blocks are streamed."""
        return len(set(block_numbers(self.images.at(self.images.shards > 0), BLOCK).tolist()))

    def ahead(self, order, **settings) -> ReadAhead:
        images = self.images.at(order)
        reader = ShardReader(self.store, self.shards)
        return ReadAhead(reader, images, MAX_SIDE, BLOCK, **settings)

    def read(self, order, **settings) -> list[bytes]:
        """Read images as decoding threads do."""
        with self.ahead(order, **settings) as ahead, ThreadPoolExecutor(3) as pool:
            return list(pool.map(ahead.read, range(len(order)), self.images.at(order)))

    def order(self, shuffle, rank=0, workers=1):
        slices = EpochOrder(self.images, shuffle, 0).slices(0, 8, rank, workers)
        return np.concatenate([part.indices for part in slices])


@pytest.fixture
def lab(s3_store_uri, tmp_path, monkeypatch) -> Lab:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAFT_CACHE_GB", "0.00006")
    return Lab(Store.open(s3_store_uri))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_block_takes_one_request_and_a_shard_that_fits_one(lab, workers):
    asked = gets(lab.store)
    for rank in range(workers):
        order = lab.order(BLOCKS, rank, workers)
        assert lab.read(order) == [lab.payloads[number] for number in order]
    whole = [name for name, _ in asked if name == lab.shards[0].ref.name]
    assert len(whole) == 1
    # With two workers, the last images may be dealt to either.
    assert lab.blocks <= len(asked) - 1 <= lab.blocks + 3 * (workers - 1)


def test_in_the_order_of_the_index_blocks_are_read_one_after_another(lab):
    asked = gets(lab.store)
    assert lab.read(np.arange(IMAGES)) == lab.payloads
    assert len(asked) == lab.blocks + 1
    sparse = np.arange(0, IMAGES, 10)  # what lies between would be most of a block
    del asked[:]
    assert lab.read(sparse) == [lab.payloads[number] for number in sparse]
    assert len(asked) >= len(sparse[lab.images.at(sparse).shards > 0])


@pytest.mark.parametrize("room", [16 * KB, 60 * KB])
def test_what_is_held_has_a_bound(lab, room, monkeypatch):
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 10 * KB)
    most = 0
    for shuffle in (FULL, BLOCKS):
        order = lab.order(shuffle)
        with lab.ahead(order, room=room) as ahead, ThreadPoolExecutor(3) as pool:
            for data in pool.map(ahead.read, range(IMAGES), lab.images.at(order)):
                assert len(data) < 3 * KB
                most = max(most, ahead._held, sum(map(len, ahead._ready.values())))
            assert (ahead._held, ahead._ready) == (0, {})
    assert most <= room


def test_a_full_shuffle_reads_images_alone_where_memory_does_not_hold_the_blocks(lab):
    order = lab.order(FULL)
    asked = gets(lab.store)
    assert lab.read(order, room=20 * KB) == [lab.payloads[number] for number in order]
    assert len(asked) == 1 + (lab.images.shards > 0).sum()


def test_what_is_not_needed_is_not_held(lab):
    order = lab.order(BLOCKS)
    with lab.ahead(order) as ahead:
        for number, image in enumerate(lab.images.at(order)):
            if number % 3:
                ahead.skip(number)
            else:
                assert ahead.read(number, image) == lab.payloads[order[number]]
        ahead._pool.shutdown()
        assert (ahead._held, ahead._ready) == (0, {})


def test_damage_names_the_shard(lab):
    shard = lab.shards[2]
    content = bytearray(lab.store.read(shard.key).data)
    first = lab.images.at(lab.images.shards == 2)[0]
    content[first.offset] ^= 1
    lab.store.write(shard.key, bytes(content))
    with pytest.raises(ObjectDamaged, match=rf"{shard.ref.name} is damaged: the image"):
        lab.read(np.arange(IMAGES))
    lab.store.write(shard.key, bytes(content[: first.offset + 100]))
    with pytest.raises(ObjectDamaged, match=r"is damaged: it ends [\d,]+ bytes too early"):
        lab.read(np.arange(IMAGES))


def test_of_what_import_shrank_no_digest_is_known(lab):
    place = asdict(lab.images[IMAGES - 1]) | {"sha256": "ab" * 32}
    images = Images.of([Image(**place | {"width": MAX_SIDE + 1}), Image(**place)])
    shards = ShardReader(lab.store, lab.shards)
    with ReadAhead(shards, images[:1], MAX_SIDE) as ahead:
        assert ahead.read(0, images[0]) == lab.payloads[-1]
    with (
        ReadAhead(shards, images, MAX_SIDE) as ahead,
        pytest.raises(ObjectDamaged, match="has another SHA-256"),
    ):
        ahead.read(1, images[1])


def test_who_waits_when_reading_ends_is_not_left_waiting(lab):
    order = np.arange(IMAGES)
    with ThreadPoolExecutor(1) as pool, lab.ahead(order, room=1) as ahead:
        waiting = pool.submit(ahead.read, IMAGES - 1, lab.images[IMAGES - 1])
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(10)


def test_fetches_come_in_the_order_of_first_use():
    numbers = np.array([7, 3, 7, 9, 3])
    assert first_uses(numbers).tolist() == [0, 1, 3]
    fetches = Fetches.of(numbers, np.array([10, 20, 30, 40, 50]))
    assert fetches.fetch_of.tolist() == [0, 1, 0, 2, 1]
    assert [fetches.of_fetch(number).tolist() for number in range(3)] == [[0, 2], [1, 4], [3]]
    # 40 of the first, all 70 of the second when the first image has been used.
    assert fetches.held_bytes == 100
    assert Counter(fetches.places.tolist()) == Counter(range(5))
    assert len(Fetches.of(np.arange(0), np.arange(0))) == 0
