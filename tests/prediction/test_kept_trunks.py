"""Images whose activations are in the store are answered for without being read."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from colours import colour_spec, draw_colours, new_run
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.errors import ImageError
from graft.prediction.embedding import HeadInput
from graft.prediction.inputs import Input
from graft.prediction.kept_trunks import KeptTrunk
from graft.prediction.part import NOTHING_KEPT, Shape, Worker
from graft.registry import get_model
from graft.serving.engines.choice import Candidates
from graft.serving.predictor import Predictor
from graft.store import Store

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from graft.training.worker_group import Ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, alone: "Ranks") -> Store:
    """A store with a version of a frozen trunk, and what its training kept."""
    from graft.training.attempt import run_attempt

    folder = tmp_path_factory.mktemp("kept")
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(draw_colours(folder / "images", 6, 4)), "colours", test_fraction=0)
    spec = colour_spec(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
        augment={"kind": "standard", "views": 2},
        cache="on",
        train__epochs=1,
    )
    run_attempt(store, new_run(store, spec), alone, lambda event: None, started=0.0)
    return store


def test_what_training_kept_is_not_read_again(trained: Store) -> None:
    version, dataset = get_model(trained, "colours@1"), open_dataset(trained, "colours")
    kept = KeptTrunk.find(trained, dataset, version, None, embedding=True)
    validation = dataset.images("val")
    assert [image.sha256 in kept for image in validation] == [True] * 12
    assert not any(image.sha256 in kept for image in dataset.images("train"))  # other views alone
    engine = Candidates(trained, version).torch
    predictor, head_input = Predictor(version, engine), HeadInput(engine.model)

    def no_file(file: Input) -> Any:
        raise ImageError("is read")

    inputs = [Input(image.path, image.sha256) for image in validation]
    train = dataset.images("train")[0]
    inputs.insert(5, Input(train.path, train.sha256))
    worker = Worker(predictor, no_file, 1, 4, Shape(3, True, True, "parquet"), kept)
    part = worker.predict(0, inputs, trained)
    assert (part.images, part.unusable) == (12, 1)
    pixels = [predictor.prepare(dataset.read(image)) for image in validation]
    computed = kept.compute([image.sha256 for image in validation])
    np.testing.assert_allclose(computed.logits, predictor.logits(pixels), rtol=1e-4, atol=1e-5)
    assert computed.embedding is not None
    np.testing.assert_allclose(computed.embedding, head_input.rows(), rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_of_another_trunk(trained: Store) -> None:
    version, dataset = get_model(trained, "colours@1"), open_dataset(trained, "colours")
    other = version.model_copy(update={"trunk_digest": "0" * 64})
    assert KeptTrunk.find(trained, dataset, other, None, False) is NOTHING_KEPT
    whole = version.model_copy(update={"freeze": 0})
    assert KeptTrunk.find(trained, dataset, whole, None, False) is NOTHING_KEPT
