"""What a transfer report keeps of each trained cell, as soon as it is tested.

reports/<report>/cells/<cell>.json                  its figures: a marker
reports/<report>/cells/hits-<SHA-256>.safetensors   which test images it predicted right

Of logits nothing is kept. A report that is resumed tests no cell again that has its marker.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from graft.errors import ObjectExists, StoreError
from graft.report.transfer.corruptions import CORRUPTIONS, STRENGTHS
from graft.report.transfer.design import Cell, Way, chosen_epoch
from graft.spec import Finetune, Id, Section
from graft.store import Marker, ObjectRef, Store, document_bytes, read_document
from graft.sweep.sweep_records import TrialRecord

RIGHT = "right"
"""Name of the array of hits on images as they are; those on corrupted ones have theirs."""


@dataclass(frozen=True)
class TrainedCell:
    """A cell after its training."""

    cell: Cell
    record: TrialRecord
    spec: Finetune
    """As the sweep's plan has it, with nothing left open: it is never resolved again."""

    @property
    def name(self) -> str:
        """The sweep of the report that trained it, and its number there: ``rates-3``."""
        return f"{'seeds' if self.cell.seed else 'rates'}-{self.record.number}"


class CellFigures(Section, Marker):
    """What testing a cell gave: the marker ``cells/<cell>.json``."""

    report: Id
    images: int
    """Number of distinct images that it trained on."""
    tuned: int
    """Number of further labelled images, by which its epoch and rate were chosen."""
    ece: float
    """Calibration error on the test images."""
    train_accuracy: float | None
    """Accuracy on its training images, without augmentation; null: not at the largest budget."""
    epoch_s: float | None = None
    """Seconds of an epoch of it alone, training and validation without set-up, with activations as
    they are cached; null: not at the largest budget, or not the first seed."""
    cold_s: float | None = None
    """Seconds to compute these activations; null: none are cached, or as for `epoch_s`."""
    way: Way | None = None
    """How it trained; null: from scratch, or as for `epoch_s`."""
    hits: ObjectRef
    """bool arrays of the test images: `right` (N,), and by corruption (strengths, N)."""

    @property
    def folder(self) -> str:
        """The store's folder that `hits` lies in."""
        return _folder(self.report)


@dataclass(frozen=True)
class CellResult:
    """A trained cell, tried on images on which nothing was tuned."""

    cell: Cell
    record: TrialRecord
    figures: CellFigures
    labels: NDArray[np.int64]
    """True classes of the test images: (N,)."""
    right: NDArray[np.bool_]
    """Whether a test image was predicted right: (N,)."""
    corrupted: Mapping[str, NDArray[np.bool_]]
    """By corruption, whether a corrupted test image was predicted right: (strengths, N)."""

    @property
    def epoch(self) -> int:
        """The epoch whose weights were tried; 0: none gave usable weights."""
        epoch = chosen_epoch(self.record)
        return epoch.epoch if epoch else 0

    @property
    def labelled(self) -> int:
        """Number of labelled images that it took, to train on or to be tuned by."""
        return self.figures.images + self.figures.tuned


def put_hits(store: Store, report: str, hits: Mapping[str, NDArray[np.bool_]]) -> ObjectRef:
    """Write which test images a cell predicted right."""
    return store.put(_folder(report), "hits.safetensors", save(dict(hits)))


def keep_figures(store: Store, cell: str, figures: CellFigures) -> None:
    """Commit a cell's figures; where it has some, tested as well, those stay."""
    data = document_bytes(figures)
    with contextlib.suppress(ObjectExists):
        store.create(f"{figures.folder}/{cell}.json", data)


def tested_cells(store: Store, report: str) -> set[str]:
    """Return the names of the cells whose figures are kept."""
    names = (key.rpartition("/")[2] for key, _ in store.scan(f"{_folder(report)}/"))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def read_result(
    store: Store, report: str, trained: TrainedCell, labels: NDArray[np.int64]
) -> CellResult:
    """Return what is kept of a tested cell; `labels` are those of the test images: (N,).

    Raises:
        StoreError: it is damaged, or of other images.
    """
    key = f"{_folder(report)}/{trained.name}.json"
    figures = read_document(store, key, CellFigures)
    try:
        hits = load(store.get(figures.folder, figures.hits))
    except SafetensorError as error:
        raise StoreError(f"{store.uri}/{key}: its hits are damaged: {error}") from error
    shapes = {name: (len(STRENGTHS), len(labels)) for name in CORRUPTIONS if name in hits}
    found = {name: array.shape for name, array in hits.items()}
    if found != {RIGHT: labels.shape} | shapes:
        raise StoreError(
            f"{store.uri}/{key}: expected hits on {len(labels)} test images, found {found}; "
            "remove it, and go on with the report"
        )
    right = hits.pop(RIGHT)
    return CellResult(trained.cell, trained.record, figures, labels, right, hits)


def _folder(report: str) -> str:
    return f"reports/{report}/cells"
