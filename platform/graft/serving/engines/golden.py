"""Golden images: does what computes a version's logits give those that training recorded?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from graft.data.image import decode
from graft.data.views import evaluation_view
from graft.errors import ServingError
from graft.registry import ModelVersion
from graft.spec import Contract
from graft.store import Store

GOLDEN_TOLERANCE = 1e-3
"""Largest difference of a golden logit from the recorded one, divided by the largest |logit|.

Batch shapes, thread counts, instruction sets and engines move float32 logits by about 1e-6 to 1e-5
of that, so every machine passes, and a wrong pixel, a wrong colour order or a damaged layer is
still noticed. The top class can differ only where two recorded logits are this close.
"""

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Computes logits (B, classes) from prepared images (B, crop, crop, 3)."""


def prepare(data: bytes, contract: Contract) -> NDArray[np.uint8]:
    """Decode an image file and return its evaluation view: (crop, crop, 3) uint8.

    Raises:
        ImageError: not an image that can be used.
    """
    return evaluation_view(decode(data, contract.max_side), contract)


@dataclass(frozen=True)
class Replay:
    """How far what was computed from golden images is from what training recorded."""

    images: int
    """Number of golden images."""
    worst: int
    """Number of the image, from 0, that differs most."""
    difference: float
    """Its largest difference of a logit, divided by the largest |logit|; NaN if one is NaN."""

    @property
    def holds(self) -> bool:
        """Whether every image is within `GOLDEN_TOLERANCE`."""
        return self.difference <= GOLDEN_TOLERANCE

    def __str__(self) -> str:
        return (
            f"golden image {self.worst} of {self.images} differs by {self.difference:.2g} of the "
            f"largest logit (allowed {GOLDEN_TOLERANCE:g})"
        )


@dataclass(frozen=True)
class GoldenImages:
    """Original files of some validation images, and the logits that training computed of them."""

    files: tuple[bytes, ...]
    logits: NDArray[np.float32]
    """(images, classes)."""

    @classmethod
    def read(cls, store: Store, version: ModelVersion) -> "GoldenImages":
        """Read a version's.

        Raises:
            StoreError: the payload is missing or damaged.
        """
        tensors = load_tensors(store.get(version.folder, version.golden))
        logits = tensors["logits"].astype(np.float32)
        files = tuple(tensors[f"image.{i}"].tobytes() for i in range(len(logits)))
        return cls(files, logits)

    def replay(self, contract: Contract, logits: Logits) -> Replay:
        """Compute the images' logits from their files' bytes, and compare."""
        computed = logits(np.stack([prepare(data, contract) for data in self.files]))
        largest = np.abs(self.logits).max() or 1  # 0: a head whose units have died
        differences = np.abs(computed - self.logits).max(axis=1) / largest
        worst = int(np.argmax(differences))  # a NaN, if there is one
        return Replay(len(self.files), worst, float(differences[worst]))

    def prove(self, version: ModelVersion, logits: Logits) -> None:
        """Check that what computes a version's logits gives the recorded ones.

        Raises:
            ServingError: it does not.
        """
        replay = self.replay(version.contract, logits)
        if not replay.holds:
            raise ServingError(
                f"{version.ref} does not give its recorded outputs and takes no traffic: {replay}; "
                "serve another version, or train this one again"
            )
