"""The held-out images of a version: those that fit, those that certify, and those that judge.

Test is divided by the images' hashes into `calibrate` and `judge`, and `calibrate` once more: a
third of it fits calibrations and orders thresholds, the rest certifies promises. What is certified
is so by images that nothing was made from, and judged by others again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from graft.data.manifest import DatasetVersion
from graft.decisions.calibration import FOLDS
from graft.decisions.choose import Labelled
from graft.errors import NotShown
from graft.registry import ModelVersion
from graft.report.evaluation.evaluate import evaluate, predictions_of
from graft.report.evaluation.predictions import Predictions
from graft.report.seen_images import Seen, seen_by, told_apart
from graft.report.uses import images_that_judge, part_of
from graft.spec import Scaling
from graft.store import Store

FITS_ONE_IN = 3
"""One image in so many of `calibrate` fits; the others certify."""


@dataclass(frozen=True)
class HeldOut:
    """A version's predictions for images that it has not seen, by what the images are for."""

    fitting: Predictions
    certifying: Predictions
    judging: Predictions
    left_out: tuple[str, ...]
    """Which images trained or tuned the version, a line each: they do nothing here."""

    @property
    def calibrating(self) -> Predictions:
        """All of `calibrate`."""
        return self.fitting.with_others(self.certifying)


def held_out(
    store: Store,
    version: ModelVersion,
    dataset: DatasetVersion,
    scaling: Scaling,
    progress: Callable[[int, int], object],
) -> HeldOut:
    """Return a version's predictions for a dataset's test images, by what they are for.

    Raises:
        NotShown: there are too few that the version has not seen.
        InputError: as `evaluate`.
    """
    few = f"{dataset.manifest.ref} has too few test images"
    if not images_that_judge(dataset.images("test"), "test"):
        raise NotShown(f"{few}: half of them judge, by their hashes, which are none; import more")
    report = evaluate(store, version, dataset, "test", scaling, progress)
    predictions = predictions_of(store, report)
    unseen, left_out = told_apart(predictions.images, seen_by(store, version))
    places: dict[str, list[int]] = {"fit": [], "certify": [], "judge": []}
    for place, digest in enumerate(predictions.images):
        if unseen[place]:
            places[role_of(digest)].append(place)
    if not all(places.values()):
        counts = ", ".join(f"{len(some)} to {role}" for role, some in places.items())
        why = f": {'; '.join(left_out)}" if left_out else ""
        raise NotShown(
            f"{few} that {version.ref} has not seen ({counts}, by their hashes){why}; import more"
        )
    fitting, certifying, judging = (predictions.at(some) for some in places.values())
    return HeldOut(fitting, certifying, judging, tuple(left_out))


def untrained(
    store: Store, version: ModelVersion, predictions: Predictions
) -> tuple[Predictions, tuple[str, ...]]:
    """Return the predictions for images that trained neither a version nor what it started from.

    And which did, a line each. Images that chose the epoch stay.
    """
    trained = [_trained(seen) for seen in seen_by(store, version)]
    unseen, left_out = told_apart(predictions.images, trained)
    return predictions.at(np.flatnonzero(unseen)), tuple(left_out)


def _trained(seen: Seen) -> Seen:
    """Return of the images that a version has seen those that trained it."""
    if seen.roles is None:
        return seen
    roles = {digest: role for digest, role in seen.roles.items() if role == "trained"}
    return replace(seen, roles=roles)


def role_of(digest: str) -> str:
    """Return what a test image is for, whatever the others are: fit, certify or judge."""
    if part_of(digest) == "judge":
        return "judge"
    return "certify" if _draw("fit", digest) % FITS_ONE_IN else "fit"


def folds_of(images: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the fold that each image is left out with: (N,)."""
    return np.array([_draw("fold", digest) % FOLDS for digest in images], np.int64)


def labelled(predictions: Predictions) -> Labelled:
    """Return the logits and labels of predictions."""
    return Labelled(predictions.logits, predictions.labels)


def _draw(what: str, digest: str) -> int:
    return int.from_bytes(sha256(f"{what}/{digest}".encode()).digest()[:4], "big")
