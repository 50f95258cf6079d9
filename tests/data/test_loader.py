"""Batches: the threads that decode them change nothing; validation reads each image once."""

import numpy as np
import pytest
import torch

from colours import draw_colours
from graft.data.epoch_order import FULL, EpochOrder
from graft.data.importing import import_dataset
from graft.data.loader import ImageLoader, evaluation_slices, to_tensor
from graft.data.manifest import open_dataset
from graft.data.views import render
from graft.spec import Loader, Preprocess, StandardAugment
from graft.store import Store

SMALL = Preprocess(resize=36, crop=32)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_validation_image_is_read_once(workers):
    slices = [s for rank in range(workers) for s in evaluation_slices(11, 4, rank, workers)]
    assert sorted(np.concatenate([batch_slice.indices for batch_slice in slices])) == list(
        range(11)
    )
    assert all(len(batch_slice.indices) <= 4 for batch_slice in slices)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    store = Store.open(str(tmp_path_factory.mktemp("store")))
    import_dataset(store, str(draw_colours(tmp_path_factory.mktemp("images"))), "colours")
    return open_dataset(store, "colours")


@pytest.mark.parametrize(
    "settings",
    [Loader(), Loader(threads=1, prefetch=1, decoded_cache_mb=0), Loader(threads=5, prefetch=20)],
)
def test_threads_and_caches_change_nothing(dataset, settings):
    from graft.data.image import decode

    images = dataset.images("train")
    loader = ImageLoader(dataset, SMALL, StandardAugment(), settings)
    for view in (1, 2):
        slices = EpochOrder(images, FULL, 0).slices(view, 8)
        batches = list(loader.batches(images, slices, view))
        assert len(batches) == len(slices)
        for batch, batch_slice in zip(batches, slices, strict=True):
            assert batch.slice is batch_slice
            for row, index in enumerate(batch_slice.indices):
                image = images[index]
                pixels = decode(dataset.read(image))
                expected = render(pixels, image.sha256, view, SMALL, StandardAugment())
                assert np.array_equal(batch.images[row], expected)
                assert batch.labels[row] == image.label


@pytest.mark.parametrize("cpus", [1, 7])
def test_decoding_threads_follow_the_cpus_of_the_process(dataset, cpus):
    before = torch.get_num_threads()
    torch.set_num_threads(cpus)
    loaders = [
        ImageLoader(dataset, SMALL, StandardAugment(), s) for s in (Loader(), Loader(threads=3))
    ]
    torch.set_num_threads(before)
    assert [loader.threads for loader in loaders] == [cpus + 1, 3]


def test_a_reader_that_stops_early_leaves_no_thread(dataset):
    import threading

    before = set(threading.enumerate())
    images = dataset.images("train")
    loader = ImageLoader(dataset, SMALL, StandardAugment(), Loader())
    batches = loader.batches(images, EpochOrder(images, FULL, 0).slices(0, 4), 1)
    next(batches)
    started = set(threading.enumerate()) - before
    assert any(thread.name.startswith("decode") for thread in started)
    batches.close()
    for thread in started:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_tensors_are_normalised_and_channels_last():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    tensor = to_tensor(pixels, SMALL)
    mean, std = torch.tensor(SMALL.mean), torch.tensor(SMALL.std)
    expected = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    assert tensor.shape == (2, 3, 8, 8)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(tensor, expected, atol=1e-6)
