"""Predictions as they are stored."""

import numpy as np

from graft.report.evaluation.predictions import from_parquet, to_parquet
from report.evaluation.made_up import predictions


def test_predictions_survive_parquet() -> None:
    made = predictions()
    back = from_parquet(to_parquet(made))
    assert (back.model, back.dataset, back.split) == (made.model, made.dataset, made.split)
    assert (back.classes, back.images, back.paths) == (made.classes, made.images, made.paths)
    assert np.array_equal(back.labels, made.labels)
    assert np.array_equal(back.logits, made.logits)
