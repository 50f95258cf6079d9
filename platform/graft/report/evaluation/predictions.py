"""A model version's predictions for a split: computed as a server computes them, and stored."""

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from graft.data.copies import distinct_images
from graft.data.index import Image, Images
from graft.data.manifest import DatasetVersion
from graft.report.evaluation.classes import labels_for
from graft.report.uses import may_judge
from graft.serving.predictor import Predictor

Pixels = NDArray[np.uint8]
"""What a model sees of an image: (crop, crop, 3) uint8."""
BATCH_SIZE = 64
AHEAD = 2
"""Batches that are decoded while the model works on one."""


@dataclass(frozen=True)
class Predictions:
    """One model version's logits for the distinct images of a split, in the dataset's order."""

    model: str
    """NAME@VERSION."""
    dataset: str
    """NAME@VERSION."""
    split: str
    classes: tuple[str, ...]
    """The model's classes, in the order of the logits."""
    images: tuple[str, ...]
    """SHA-256 of each source file."""
    paths: tuple[str, ...]
    """Path of each image in the source."""
    labels: NDArray[np.int64]
    """True classes, as positions in `classes`: (N,)."""
    logits: NDArray[np.float32]
    """(N, C)."""
    copies: int = 0
    """Images of the split that are left out, as copies of these."""

    def distinct(self) -> "Predictions":
        """Return the predictions without those for copies, which earlier releases stored."""
        first = np.sort(np.unique(self.images, return_index=True)[1])
        return replace(
            self,
            images=tuple(self.images[i] for i in first),
            paths=tuple(self.paths[i] for i in first),
            labels=self.labels[first],
            logits=self.logits[first],
            copies=self.copies + len(self.images) - len(first),
        )

    def at(self, places: Sequence[int] | NDArray[np.int64]) -> "Predictions":
        """Return the predictions for the images at these places."""
        places = np.asarray(places, np.int64)
        return replace(
            self,
            images=tuple(self.images[i] for i in places),
            paths=tuple(self.paths[i] for i in places),
            labels=self.labels[places],
            logits=self.logits[places],
        )

    def with_others(self, others: "Predictions") -> "Predictions":
        """Return these predictions and others of the same model and split."""
        return replace(
            self,
            images=self.images + others.images,
            paths=self.paths + others.paths,
            labels=np.concatenate([self.labels, others.labels]),
            logits=np.concatenate([self.logits, others.logits]),
        )

    def judging(self) -> "Predictions":
        """Return the predictions for the images that may judge."""
        return self.at([i for i, sha256 in enumerate(self.images) if may_judge(sha256, self.split)])

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits: (N, C)."""
        probabilities: NDArray[np.float64] = softmax(self.logits.astype(np.float64), axis=1)
        return probabilities

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class of the largest logit, of equal ones the first: (N,)."""
        predicted: NDArray[np.int64] = self.logits.argmax(axis=1)
        return predicted

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the label: (N,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    @property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy of each image, in nats: (N,)."""
        logs: NDArray[np.float64] = log_softmax(self.logits.astype(np.float64), axis=1)
        losses: NDArray[np.float64] = -np.take_along_axis(logs, self.labels[:, None], axis=1)[:, 0]
        return losses


def predict_split(
    predictor: Predictor,
    dataset: DatasetVersion,
    split: str,
    threads: int,
    progress: Callable[[int, int], object],
) -> Predictions:
    """Run a model version over a split's distinct images.

    Args:
        predictor: the version, loaded and tried on its golden images.
        dataset: where the images are.
        split: ``train``, ``val`` or ``test``.
        threads: number of threads that decode images.
        progress: called after each batch with the number of images done, and of all images.

    Raises:
        InputError: as `labels_for`.
    """
    version, indexed = predictor.version, dataset.images(split)
    images = distinct_images(indexed)
    labels = labels_for(version, dataset, split)
    logits = np.empty((len(images), len(version.classes)), np.float32)
    done = 0
    for pixels in pixel_batches(lambda i: predictor.prepare(dataset.read(i)), images, threads):
        logits[done : done + len(pixels)] = predictor.logits(pixels)
        done += len(pixels)
        progress(done, len(images))
    return Predictions(
        model=version.ref,
        dataset=dataset.manifest.ref,
        split=split,
        classes=version.classes,
        images=tuple(images.sha256),
        paths=tuple(images.paths),
        labels=labels,
        logits=logits,
        copies=len(indexed) - len(images),
    )


def pixel_batches(
    prepare: Callable[[Image], Pixels],
    images: Images,
    threads: int,
    size: int = BATCH_SIZE,
) -> Iterator[list[Pixels]]:
    """Yield what a model sees of images, in batches; threads prepare `AHEAD` more meanwhile."""
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        pending: deque[Iterator[Pixels]] = deque()
        for start in range(0, len(images), size):
            pending.append(pool.map(prepare, images[start : start + size]))
            if len(pending) > AHEAD:
                yield list(pending.popleft())
        while pending:
            yield list(pending.popleft())


def to_parquet(predictions: Predictions) -> bytes:
    """Return predictions as a Parquet file: a row for each image, a column for each class."""
    columns = [f"logit.{name}" for name in predictions.classes]
    table = pa.table(
        {
            "sha256": predictions.images,
            "path": predictions.paths,
            "label": pa.array([predictions.classes[i] for i in predictions.labels]),
            **dict(zip(columns, predictions.logits.T, strict=True)),
        },
        metadata={
            "model": predictions.model,
            "dataset": predictions.dataset,
            "split": predictions.split,
            "copies": str(predictions.copies),
        },
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def from_parquet(data: bytes) -> Predictions:
    """Read what `to_parquet` wrote, in this release or an earlier one."""
    table = pq.read_table(io.BytesIO(data))
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    columns = [name for name in table.column_names if name.startswith("logit.")]
    classes = tuple(name.removeprefix("logit.") for name in columns)
    positions = {name: position for position, name in enumerate(classes)}
    return Predictions(
        model=metadata["model"],
        dataset=metadata["dataset"],
        split=metadata["split"],
        classes=classes,
        images=tuple(table["sha256"].to_pylist()),
        paths=tuple(table["path"].to_pylist()),
        labels=np.array([positions[name] for name in table["label"].to_pylist()], np.int64),
        logits=np.stack([table[name].to_numpy() for name in columns], axis=1),
        copies=int(metadata.get("copies", 0)),
    ).distinct()
