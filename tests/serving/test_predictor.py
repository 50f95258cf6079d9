"""A predictor gives what training recorded, or none at all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graft.errors import ImageError, ServingError, StoreError
from graft.registry import get_model
from graft.serving.predictor import Predictor
from graft.store import Store


@pytest.fixture(scope="module")
def predictor(model_store: Store) -> Predictor:
    return Predictor.load(model_store, get_model(model_store, "ants-bees"))


def test_a_sound_model_loads_and_answers(predictor: Predictor, photograph: Callable) -> None:
    images = [predictor.prepare(photograph(seed)) for seed in (1, 2, 3, 4)]
    assert images[0].shape == (64, 64, 3)
    probabilities = predictor.predict(images).probabilities
    assert probabilities.shape == (4, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    alone = np.concatenate([predictor.predict([image]).probabilities for image in images])
    np.testing.assert_allclose(alone, probabilities, rtol=1e-4)


def test_the_bytes_of_any_format_give_the_same_answer(
    predictor: Predictor, photograph: Callable
) -> None:
    png, bmp = (predictor.prepare(photograph(7, kind)) for kind in ("PNG", "BMP"))
    np.testing.assert_array_equal(png, bmp)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(str(tmp_path))


def test_a_network_that_checks_the_version_of_its_tensors_loads(
    store: Store, register_model: Callable
) -> None:
    """MNASNet refuses tensors that come without torch's version metadata."""
    version = register_model(store, arch="mnasnet0_5")
    assert Predictor.load(store, version).version.arch == "mnasnet0_5"


def test_a_model_whose_head_has_died_gives_what_it_recorded(
    store: Store, register_model: Callable, photograph: Callable
) -> None:
    predictor = Predictor.load(store, register_model(store, dead=True))
    probabilities = predictor.predict([predictor.prepare(photograph(1))]).probabilities
    np.testing.assert_allclose(probabilities, 1 / 3)


@pytest.mark.parametrize("shift", [0.5, float("nan")])
def test_a_model_that_forgot_its_golden_images_is_refused(
    store: Store, register_model: Callable, shift: float
) -> None:
    version = register_model(store, golden_shift=shift)
    with pytest.raises(ServingError, match=r"ants-bees@1 .* golden image \d of 3 differs"):
        Predictor.load(store, version)


def test_a_damaged_tail_is_refused(store: Store, register_model: Callable) -> None:
    version = register_model(store)
    key = f"{version.folder}/{version.tail.name}"
    data = bytearray(store.read(key).data)
    data[-1] ^= 1
    store.write(key, bytes(data))
    with pytest.raises(StoreError, match="damaged"):
        Predictor.load(store, version)


def test_what_is_no_image_is_refused_with_a_reason(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match="not an image"):
        predictor.prepare(b"hello")
