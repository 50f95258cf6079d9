"""Prediction sets that hold the true class as often as is said, on average over draws of images.

Split conformal prediction (Vovk, Gammerman & Shafer, 2005) with the score of least ambiguous sets,
one less the probability of the true class (Sadinle, Lei & Wasserman, JASA 114, 2019). The promise
is marginal: over all images of the kind, not for each class, and not for each draw of the images
that calibrate.
"""

import math

import numpy as np

from graft.decisions.calibration import Floats, Labels
from graft.decisions.rules import Sets


def least_images_of_sets(coverage: float) -> int:
    """Return how many images it takes until sets leave any class out."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def conformal_sets(probabilities: Floats, labels: Labels, coverage: float) -> Sets | None:
    """Return the rule whose sets hold the true class in `coverage` of images.

    None: the images are too few, so that sets would have to hold all classes.

    Args:
        probabilities: of images that nothing was made from: (N, classes).
        labels: what is on them: (N,).
        coverage: share of new images whose set holds the true class, on average over draws.
    """
    count = len(labels)
    rank = math.ceil((count + 1) * coverage - 1e-9)
    if rank > count:
        return None
    of_labels = np.sort(np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0])[::-1]
    return Sets(threshold=float(of_labels[rank - 1]))
