"""A model version that answers: from an image file's bytes to class probabilities.

Nothing here knows HTTP or Ray. An engine is proved before it answers: from the golden images'
bytes it must give the logits that training recorded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from graft.registry import ModelVersion
from graft.serving.engines.choice import Candidates, Place
from graft.serving.engines.engine import Engine
from graft.serving.engines.golden import prepare
from graft.store import Store


class Predictor:
    """One model version in memory.

    `prepare` may run in many threads at once, `predict` and `logits` in one at a time.
    """

    def __init__(self, version: ModelVersion, engine: Engine, reason: str = "it was asked for"):
        """Answer by an engine that has been proved; `reason` says why it is this one."""
        self.version = version
        self.engine = engine
        self.reason = reason

    @classmethod
    def load(
        cls, store: Store, version: ModelVersion, device: torch.device | None = None
    ) -> "Predictor":
        """Load a version in torch, by default onto the CPU, and check its golden images.

        Raises:
            ServingError: a golden image's logits differ by more than its tolerance.
            StoreError: a payload is missing or damaged.
        """
        return cls(version, Candidates(store, version, Place(device=device)).torch)

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image file and return its evaluation view: (crop, crop, 3) uint8.

        Raises:
            ImageError: not an image that can be used.
        """
        return prepare(data, self.version.contract)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return class probabilities of B prepared images: (B, classes)."""
        return torch.softmax(torch.from_numpy(self.logits(images)), dim=1).numpy()

    def logits(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the logits of B prepared images: (B, classes)."""
        return self.engine.logits(np.stack(images))
