"""Predictions that no model made: what is computed from them needs none."""

import numpy as np

from graft.report.evaluation.predictions import Predictions


def predictions(
    count: int = 500, classes: int = 4, seed: int = 0, skill: float = 1.5, model: str = "m@1"
) -> Predictions:
    """Images whose labels are the same for every seed; `skill` is how clearly they are seen."""
    labels = np.random.default_rng(99).integers(0, classes, count)
    logits = np.random.default_rng(seed).normal(size=(count, classes))
    logits[np.arange(count), labels] += skill
    return Predictions(
        model=model,
        dataset="d@1",
        split="test",
        classes=tuple(f"class {number}" for number in range(classes)),
        images=tuple(f"{number:064x}" for number in range(count)),
        paths=tuple(f"{number}.jpg" for number in range(count)),
        labels=labels,
        logits=logits.astype(np.float32),
    )
