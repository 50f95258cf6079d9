"""A model version that answers: from an image file's bytes to class probabilities.

Nothing here knows HTTP or Ray. `Predictor.load` checks the model before it is used: from
the golden images' bytes it must give the logits that training recorded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from graft.backbones.transfer_model import TransferModel
from graft.backbones.trunk import load_model
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.views import evaluation_view
from graft.errors import ServingError
from graft.registry import ModelVersion
from graft.store import Store

GOLDEN_TOLERANCE = 1e-3
"""Largest difference of a golden logit from the recorded one, divided by the largest |logit|.

Batch shapes, thread counts and instruction sets move float32 logits by about 1e-6 to 1e-5 of
that, so every machine passes, and a wrong pixel, a wrong colour order or a damaged layer is
still noticed. The top class can differ only where two recorded logits are this close.
"""


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
            ServingError: a golden image's logits differ by more than `GOLDEN_TOLERANCE`.
            StoreError: a payload is missing or damaged.
        """
        predictor = cls(version, load_model(store, version), device)
        golden = load_tensors(store.get(version.folder, version.golden))
        predictor._check(golden)
        return predictor

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image file and return its evaluation view: (crop, crop, 3) uint8.

        Raises:
            ImageError: not an image that can be used.
        """
        contract = self.version.contract
        return evaluation_view(decode(data, contract.max_side), contract)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return class probabilities of B prepared images: (B, classes)."""
        return torch.softmax(self._forward(images), dim=1).numpy()

    def logits(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the logits of B prepared images: (B, classes)."""
        return self._forward(images).numpy()

    @torch.inference_mode()
    def _forward(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        pixels = to_tensor(np.stack(images), self.version.contract, self._device)
        return self._model(pixels).float().cpu()

    def _check(self, golden: dict[str, NDArray[np.generic]]) -> None:
        recorded = golden["logits"].astype(np.float32)  # (n, classes)
        files = [golden[f"image.{i}"].tobytes() for i in range(len(recorded))]
        logits = self.logits([self.prepare(data) for data in files])
        largest = np.abs(recorded).max() or 1  # 0: a head whose units have died
        differences = np.abs(logits - recorded).max(axis=1) / largest
        if not np.all(differences <= GOLDEN_TOLERANCE):
            worst = int(np.argmax(differences))  # a NaN, if there is one
            raise ServingError(
                f"{self.version.ref} does not give its recorded outputs and takes no traffic: "
                f"golden image {worst} of {len(files)} differs by {differences[worst]:.2g} of the "
                f"largest logit (allowed {GOLDEN_TOLERANCE:g}); serve another version, or train "
                "this one again"
            )
