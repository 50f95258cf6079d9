"""Confusion matrices in the store: payloads, for they grow with the square of the classes."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import StoreError
from graft.store import ObjectRef, Store

FILE = "confusion.npz"


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often images of each class were predicted to be of each."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """(C, C): rows are true classes, columns predictions."""

    def to_bytes(self) -> bytes:
        """Return the file `FILE`: arrays `counts` and `classes` of NumPy."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, counts=self.counts, classes=np.array(self.classes, np.str_))
        return buffer.getvalue()

    def by_class(self) -> dict[str, Any]:
        """Return `recall` and `precision` by class, and the counts as lists, `confusion`.

        A class without images has recall None, one that was never predicted precision None.
        """
        hits = np.diag(self.counts)
        return {
            "recall": self._shares(hits, self.counts.sum(1)),
            "precision": self._shares(hits, self.counts.sum(0)),
            "confusion": self.counts.tolist(),
        }

    def _shares(
        self, parts: NDArray[np.int64], wholes: NDArray[np.int64]
    ) -> dict[str, float | None]:
        rows = zip(self.classes, parts, wholes, strict=True)
        return {name: int(part) / int(whole) if whole else None for name, part, whole in rows}


def put_confusion(
    store: Store, folder: str, counts: NDArray[np.int64], classes: Sequence[str]
) -> ObjectRef:
    """Write a matrix into a folder of the store."""
    return store.put(folder, FILE, ConfusionMatrix(tuple(classes), counts).to_bytes())


def read_confusion(store: Store, folder: str, ref: ObjectRef) -> ConfusionMatrix:
    """Read a matrix that `ConfusionMatrix.to_bytes` made.

    Raises:
        StoreError: it is damaged, or no matrix.
    """
    data = store.get(folder, ref)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            counts, classes = arrays["counts"], arrays["classes"]
        if counts.dtype != np.int64 or classes.dtype.kind != "U" or classes.ndim != 1:
            raise ValueError(f"counts are {counts.dtype}, classes {classes.dtype}")
        if counts.shape != 2 * classes.shape:
            raise ValueError(f"counts have the shape {counts.shape}, of {len(classes)} classes")
    except (ValueError, OSError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise StoreError(f"{store.uri}/{folder}/{ref.name} is no matrix: {error}") from error
    return ConfusionMatrix(tuple(map(str, classes)), counts)
