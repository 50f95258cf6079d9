"""Calibration: probabilities that are as often right as they say.

Temperature scaling divides the logits by one number; vector scaling gives each class a scale and a
shift (Guo, Pleiss, Sun & Weinberger, ICML 2017). Both are fitted by the likelihood of held-out
labels, held near no calibration: a few images that are all answered right would else ask for
probabilities of one. Of the two, and of none, the one is taken that cross-validation shows to be
better: a finer one has to make labels likelier by more than the noise of the images, and by more
than its parameters would gain by chance, with a calibration error that is no larger.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import chi2

from graft.spec import Section
from graft.training.metrics import calibration_sums, mean_distance

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

FOLDS = 5
"""Parts of the images that cross-validation leaves out in turn."""
LEAST_FOLDS = 2
"""Fewer leave nothing to fit on."""
AHEAD = 1.0
"""Standard errors by which a finer calibration has to be ahead, to be taken."""
CHANCE = 0.95
"""What its parameters gain by chance is less in such a share of draws, by Wilks' theorem."""
_WIDEST = np.log(20.0)
"""A temperature lies between a twentieth and twenty."""
_PULL = 2.0
"""Weight of the squared log temperature, in nats: as if half of all temperatures that there are lay
between 0.7 and 1.4."""
_PULL_OF_CLASS = 0.2
"""Weight of the squared distances of a class's scale and shift from those of the temperature."""


class Calibration(Section):
    """How logits z become probabilities: softmax(scale * z + shift)."""

    method: Literal["none", "temperature", "vector"] = "none"
    scales: tuple[float, ...] = (1.0,)
    """One for all classes, or one for each."""
    shifts: tuple[float, ...] = (0.0,)
    """One for all classes, or one for each."""

    def apply(self, logits: NDArray[np.float32]) -> Floats:
        """Return probabilities of logits: (N, classes) to (N, classes)."""
        probabilities: Floats = softmax(self._calibrated(logits), axis=1)
        return probabilities

    def losses(self, logits: NDArray[np.float32], labels: Labels) -> Floats:
        """Return the cross-entropy of each image, in nats: (N,)."""
        logs = log_softmax(self._calibrated(logits), axis=1)
        losses: Floats = -np.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
        return losses

    @property
    def steepest(self) -> float:
        """The most that a calibrated logit moves where a logit moves by one."""
        return max(abs(scale) for scale in self.scales)

    def _calibrated(self, logits: NDArray[np.float32]) -> Floats:
        return np.asarray(logits.astype(np.float64) * np.array(self.scales) + np.array(self.shifts))

    def __str__(self) -> str:
        if self.method == "temperature":
            return f"temperature {1 / self.scales[0]:.3g}"
        return "none" if self.method == "none" else "a scale and a shift for each class"


NONE = Calibration()
"""Probabilities as the model gives them."""


def fit_temperature(logits: NDArray[np.float32], labels: Labels) -> Calibration:
    """Return the temperature of the highest likelihood: logits (N, classes), labels (N,)."""

    def loss(log: float) -> float:
        return float(_scaled(np.exp(log)).losses(logits, labels).sum() + _PULL * log**2)

    optimum = minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded")
    return _scaled(float(np.exp(optimum.x)))


def fit_vector(logits: NDArray[np.float32], labels: Labels) -> Calibration:
    """Return the scales and shifts of the highest likelihood, held near the temperature alone."""
    count, classes = logits.shape
    z, start = logits.astype(np.float64), fit_temperature(logits, labels).scales[0]
    hits = np.eye(classes)[labels]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scales, shifts = parameters[:classes], parameters[classes:]
        logs = log_softmax(z * scales + shifts, axis=1)
        error = (np.exp(logs) - hits) / count
        away = np.concatenate([scales / start - 1, shifts])
        slopes = np.concatenate([(error * z).sum(0), error.sum(0)])
        weight = _PULL_OF_CLASS / count
        pull = 2 * weight * np.concatenate([away[:classes] / start, shifts])
        value = -(logs * hits).sum() / count + weight * (away**2).sum()
        return float(value), slopes + pull

    first = np.concatenate([np.full(classes, start), np.zeros(classes)])
    optimum = minimize(loss, first, jac=True, method="L-BFGS-B").x
    return Calibration(
        method="vector", scales=tuple(optimum[:classes]), shifts=tuple(optimum[classes:])
    )


Fit = Callable[[NDArray[np.float32], Labels], Calibration]


def _fits(classes: int) -> tuple[tuple[Fit, int], ...]:
    """Return what may be fitted, from the coarsest to the finest, and its number of parameters."""
    return (lambda logits, labels: NONE, 0), (fit_temperature, 1), (fit_vector, 2 * classes - 1)


@dataclass(frozen=True)
class _LeftOut:
    """What a kind of calibration does to images, each of them fitted without its fold."""

    fit: Fit
    parameters: int
    losses: Floats
    """(N,)."""
    error: float
    """Mean distance of confidence and accuracy within bins."""

    def is_better_than(self, coarser: "_LeftOut") -> bool:
        """Whether it is ahead by more than noise and chance, and says no less how sure it may be.

        That labels become likelier is not enough: a calibration may make a class that is never
        answered right again, and leave confidence behind.
        """
        gains = coarser.losses - self.losses
        noise = gains.std() * len(gains) ** 0.5
        by_chance = chi2.ppf(CHANCE, self.parameters - coarser.parameters) / 2
        return bool(gains.sum() > max(AHEAD * noise, by_chance)) and self.error <= coarser.error


def fit_calibration(
    logits: NDArray[np.float32], labels: Labels, folds: NDArray[np.int64]
) -> Calibration:
    """Return the calibration that cross-validation shows to be best, fitted on all images.

    Where one fold has all images, nothing can be left out, and so nothing is shown: none is best.

    Args:
        logits: (N, classes).
        labels: (N,).
        folds: of each image, the part that it is left out with, from 0 to `FOLDS` - 1.
    """
    if len(np.unique(folds)) < LEAST_FOLDS:
        return NONE
    best, *finer = (
        _left_out(fit, parameters, logits, labels, folds)
        for fit, parameters in _fits(logits.shape[1])
    )
    for other in finer:
        if other.is_better_than(best):
            best = other
    return best.fit(logits, labels)


def cross_fitted(logits: NDArray[np.float32], labels: Labels, folds: NDArray[np.int64]) -> Floats:
    """Return probabilities (N, classes), each by what was fitted without the image's fold.

    The images are of `LEAST_FOLDS` folds at least.
    """
    probabilities = np.empty(logits.shape, np.float64)
    for out, kept in _splits(folds):
        calibration = fit_calibration(logits[kept], labels[kept], folds[kept])
        probabilities[out] = calibration.apply(logits[out])
    return probabilities


def _left_out(
    fit: Fit,
    parameters: int,
    logits: NDArray[np.float32],
    labels: Labels,
    folds: NDArray[np.int64],
) -> _LeftOut:
    losses, top = np.empty(len(labels), np.float64), np.empty(len(labels), np.float64)
    right = np.empty(len(labels), np.bool_)
    for out, kept in _splits(folds):
        calibration = fit(logits[kept], labels[kept])
        losses[out] = calibration.losses(logits[out], labels[out])
        probabilities = calibration.apply(logits[out])
        top[out] = probabilities.max(axis=1)
        right[out] = probabilities.argmax(axis=1) == labels[out]
    confidence = torch.from_numpy(top)
    sums = calibration_sums(confidence, torch.from_numpy(right), torch.ones_like(confidence))
    return _LeftOut(fit, parameters, losses, mean_distance(sums))


def _splits(folds: NDArray[np.int64]) -> Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return for each fold which images are left out, and which are kept."""
    return [(folds == fold, folds != fold) for fold in np.unique(folds)]


def _scaled(scale: float) -> Calibration:
    return Calibration(method="temperature", scales=(scale,))
