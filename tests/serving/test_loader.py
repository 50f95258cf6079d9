"""A replica's versions are warm before they answer."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.registry import get_model
from graft.serving.batching import MAX_BATCH
from graft.serving.loader import Loader
from graft.serving.predictor import Predictor
from graft.store import Store


def test_each_size_of_batch_is_computed_before_a_version_answers(
    model_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    predict = Predictor.predict

    def noted(self: Predictor, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        computed.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", noted)
    predictor = Loader(model_store).load(get_model(model_store, "ants-bees"))
    assert computed == list(range(1, MAX_BATCH + 1))
    assert (predictor.engine.name, predictor.reason) == ("torch", "it was asked for")
