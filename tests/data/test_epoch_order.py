"""Which worker trains on which image when: pure, and no worker count changes a global batch."""

import numpy as np
import pytest

from graft.data.epoch_order import FULL, BlockShuffle, EpochOrder, FullShuffle
from graft.data.index import Image, Images
from graft.data.read_ahead import block_numbers

KB = 1000
BLOCKS = BlockShuffle(block_bytes=10 * KB, readers=12, buffer=3)
SHUFFLES = pytest.mark.parametrize("shuffle", [FULL, BLOCKS], ids=["full", "blocks"])


def images(count: int, shard_images: int = 100) -> Images:
    """Images of 1 to 3 kB, one after another in shards of so many."""
    sizes = np.random.default_rng(7).integers(1, 4, count) * KB
    rows = []
    for number, size in enumerate(sizes.tolist()):
        shard, first = divmod(number, shard_images)
        offset = int(sizes[number - first : number].sum())
        place = {"shard": shard, "offset": offset, "size": size, "width": 9, "height": 9}
        rows.append(Image(sha256="ab" * 32, path="x", label=number % 3, split="train", **place))
    return Images.of(rows)


@pytest.fixture(scope="module")
def many() -> Images:
    return images(2000)


@SHUFFLES
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("count", [5, 16, 533])
def test_every_image_is_trained_on_once_an_epoch_in_the_same_batches(shuffle, workers, count):
    order = EpochOrder(images(count), shuffle, seed=3)
    alone = order.slices(2, 8)
    together = [order.slices(2, 8, rank, workers) for rank in range(workers)]
    assert {len(slices) for slices in together} == {len(alone)}
    seen = []
    for number, whole in enumerate(alone):
        slices = [worker[number] for worker in together]
        sizes = [len(part.indices) for part in slices]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1
        assert {part.total for part in slices} == {len(whole.indices)}
        real = np.concatenate([part.indices[part.weights > 0] for part in slices])
        assert sorted(real) == sorted(whole.indices)
        assert sum(part.weights.sum() for part in slices) == len(whole.indices)
        seen.extend(real)
    assert sorted(seen) == list(range(count))


def indices(shuffle, images, seed=0, epoch=0):
    return np.concatenate([s.indices for s in EpochOrder(images, shuffle, seed).slices(epoch, 8)])


@SHUFFLES
def test_the_order_depends_on_seed_and_epoch_alone(shuffle, many):
    assert np.array_equal(indices(shuffle, many), indices(shuffle, many))
    assert not np.array_equal(indices(shuffle, many), indices(shuffle, many, epoch=1))
    assert not np.array_equal(indices(shuffle, many), indices(shuffle, many, seed=1))


def test_a_full_shuffle_is_what_it_was_in_earlier_releases(many):
    order = np.random.default_rng([3, 2]).permutation(2000)
    for rank, workers in ((0, 1), (1, 3)):
        slices = EpochOrder(many, FullShuffle(), seed=3).slices(2, 32, rank, workers)
        for number, part in enumerate(slices):
            assert np.array_equal(
                part.indices, order[32 * number : 32 * number + 32][rank::workers]
            )


def test_blocks_are_those_of_earlier_releases():
    """Runs that are resumed repeat what their first attempt did."""
    order = indices(BlockShuffle(block_bytes=4 * KB, readers=3, buffer=2), images(12, 6), 1, 1)
    assert order.tolist() == [2, 3, 11, 7, 4, 9, 0, 5, 10, 6, 8, 1]


@pytest.mark.parametrize("workers", [2, 3, 4, 6, 12])
def test_a_block_is_read_by_one_worker(many, workers):
    """But for the last images, which are dealt evenly whoever has read their blocks."""
    block = block_numbers(many, BLOCKS.block_bytes)
    order = EpochOrder(many, BLOCKS, seed=0)
    readers = [set() for _ in range(block.max() + 1)]
    for rank in range(workers):
        for part in order.slices(0, 24, rank, workers)[:-4]:
            for number in block[part.indices[part.weights > 0]]:
                readers[number].add(rank)
    assert max(len(ranks) for ranks in readers) == 1


def test_neighbours_come_from_many_blocks_and_few_are_open_at_a_time(many):
    block = block_numbers(many, BLOCKS.block_bytes)[indices(BLOCKS, many)]
    assert len(set(block)) > 150
    for start in range(0, 1900, 12):
        assert len(set(block[start : start + 12])) == 12
    last = {number: place for place, number in enumerate(block.tolist())}
    first = {number: place for place, number in reversed(list(enumerate(block.tolist())))}
    is_open = np.zeros(len(block), int)
    for number in first:
        is_open[first[number] : last[number] + 1] += 1
    assert is_open.max() <= BLOCKS.readers * (BLOCKS.buffer + 1)


def test_readers_are_dealt_evenly_to_any_number_of_workers():
    assert [BlockShuffle.for_workers(n).readers for n in (1, 8, 24, 32, 64)] == [
        48,
        48,
        48,
        96,
        192,
    ]


def test_numbers_of_blocks_are_no_larger_than_there_is_cause_for():
    """Whatever an index says, an order takes memory by the number of its images."""
    far = {"shard": 2**30, "offset": 2**50, "size": 1, "width": 9, "height": 9}
    near = far | {"shard": 0, "offset": 0}
    rows = [Image(sha256="ab" * 32, path="x", label=0, split="train", **at) for at in (far, near)]
    assert block_numbers(Images.of(rows), 1).tolist() == [1, 0]
