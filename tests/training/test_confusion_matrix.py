"""Confusion matrices are payloads: markers stay small with many classes."""

import io
import pickle

import numpy as np
import pytest

from graft.errors import StoreError
from graft.store import Store
from graft.training.confusion_matrix import put_confusion, read_confusion

CLASSES = 1000


def test_a_matrix_of_1000_classes_takes_little_and_comes_back(tmp_path):
    store = Store.open(str(tmp_path))
    names = [f"n{number:08d} 马 a class of ImageNet" for number in range(CLASSES)]
    counts = np.diag(np.full(CLASSES, 43, np.int64))
    counts[np.arange(CLASSES), np.roll(np.arange(CLASSES), 7)] = 7
    ref = put_confusion(store, "runs/r", counts, names)
    assert ref.size < 60_000
    matrix = read_confusion(store, "runs/r", ref)
    assert matrix.classes == tuple(names)
    assert np.array_equal(matrix.counts, counts)
    by_class = matrix.by_class()
    assert set(by_class["recall"].values()) == {43 / 50} == set(by_class["precision"].values())


def saved(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD = {"counts": np.eye(2, dtype=np.int64), "classes": np.array(["a", "b"])}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing of the kind",
        saved(**GOOD)[:-30],
        saved(counts=GOOD["counts"]),
        saved(**GOOD | {"counts": np.eye(3, dtype=np.int64)}),
        saved(**GOOD | {"counts": np.eye(2)}),
        saved(**GOOD | {"classes": np.array([1, 2])}),
        saved(**GOOD | {"classes": np.array(["a", b"b", None], object)}),
        pickle.dumps(GOOD),
    ],
    ids=range(9),
)
def test_whatever_else_lies_there_is_refused(tmp_path, data):
    store = Store.open(str(tmp_path))
    ref = store.put("runs/r", "confusion.npz", data)
    with pytest.raises(StoreError, match=r"runs/r/confusion-.* is no matrix"):
        read_confusion(store, "runs/r", ref)
