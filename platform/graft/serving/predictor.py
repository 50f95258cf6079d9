"""A model version that answers: from an image file's bytes to class probabilities.

Nothing here knows HTTP or Ray. `Predictor.load` checks the model before it is used: from
the golden images' bytes it must give the logits that training recorded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.transfer_model import TransferModel
from graft.backbones.trunk import load_model
from graft.data.loader import to_tensor
from graft.errors import ServingError
from graft.registry import ModelVersion
from graft.serving.engines.golden import GoldenImages, prepare
from graft.store import Store


class Predictor:
    """One model version in memory.

    `prepare` may run in many threads at once, `predict` and `logits` in one at a time.
    """

    def __init__(
        self, version: ModelVersion, model: TransferModel, device: torch.device | None = None
    ):
        self.version = version
        self._model = model.to(device) if device else model
        self._device = device

    @classmethod
    def load(
        cls, store: Store, version: ModelVersion, device: torch.device | None = None
    ) -> "Predictor":
        """Load a version, by default onto the CPU, and check its golden images.

        Raises:
            ServingError: a golden image's logits differ by more than its tolerance.
            StoreError: a payload is missing or damaged.
        """
        predictor = cls(version, load_model(store, version), device)
        replay = GoldenImages.read(store, version).replay(version.contract, predictor._logits)
        if not replay.holds:
            raise ServingError(
                f"{version.ref} does not give its recorded outputs and takes no traffic: {replay}; "
                "serve another version, or train this one again"
            )
        return predictor

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image file and return its evaluation view: (crop, crop, 3) uint8.

        Raises:
            ImageError: not an image that can be used.
        """
        return prepare(data, self.version.contract)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return class probabilities of B prepared images: (B, classes)."""
        return torch.softmax(self._forward(np.stack(images)), dim=1).numpy()

    def logits(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the logits of B prepared images: (B, classes)."""
        return self._logits(np.stack(images))

    def _logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._forward(images).numpy()

    @torch.inference_mode()
    def _forward(self, images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = to_tensor(images, self.version.contract, self._device)
        return self._model(pixels).float().cpu()
