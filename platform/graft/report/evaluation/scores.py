"""What an evaluation says of a model, as it is stored; `compute_scores` computes it.

Apart from that, so that a stored evaluation is shown without loading scikit-learn.
"""

from graft.report.interval import Interval
from graft.report.uses import Part
from graft.spec import Digest, Section


class ClassScores(Section):
    """How well one class is recognised."""

    name: str
    images: int
    recall: float | None
    """Share of the class's images that were predicted as it; null: it has no images."""
    precision: float | None
    """Share of the predictions of this class that were right; null: it was never predicted."""
    f1: float | None
    """null: the class has no images and was never predicted."""


class Bin(Section):
    """The images whose top probability lies in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean top probability of the images; null: no images."""
    accuracy: float | None
    """Share of the images that were predicted right; null: no images."""


class WrongImage(Section):
    """An image that was predicted wrong."""

    sha256: Digest
    path: str
    label: str
    predicted: str
    probability: float
    """Probability that the model gave to the predicted class."""


class Scores(Section):
    """The figures of one model on one split: a report's `found`."""

    model: str
    """NAME@VERSION."""
    dataset: str
    """NAME@VERSION."""
    split: str
    images: int
    """Distinct ones."""
    copies: int = 0
    """Images of the split that are left out, as copies of these."""
    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    accuracy_interval: Interval
    """Wilson's, for images drawn from the same source."""
    top5_accuracy: float | None
    """null: five classes or fewer."""
    macro_f1: float
    """Mean F1 over the classes that occur among labels or predictions."""
    ece: float
    """Calibration error: the root mean square distance of confidence and accuracy over the bins of
    `reliability`, debiased; see `graft.training.metrics.calibration_error`. Reports of earlier
    releases hold the mean distance, with its bias."""
    classes: tuple[ClassScores, ...]
    """In the order of the model's logits."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Counts; rows are true classes, columns predictions. Of reports of earlier releases alone:
    others have the file `confusion.npz`, since matrices grow with the square of the classes."""
    reliability: tuple[Bin, ...]
    wrong: tuple[WrongImage, ...]
    """The images predicted wrong with most confidence, the most confident first."""
    part: Part | None = None
    """Part of the split that judges, to which the figures are held; null: all of it."""
    seen: tuple[str, ...] = ()
    """Which of the images that judge trained or tuned the model, a line each."""
    left_out: int = 0
    """Number of these; the figures are of the others. 0: there are no others, and the figures are
    of these; those of earlier releases, of both."""
    used_before: int = 0
    """How many other reports had used one of these images before."""
