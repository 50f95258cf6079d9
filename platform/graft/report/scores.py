"""How good predictions are: the figures of an evaluation. `scoring` computes them."""

from graft.spec import Section

LEVEL = 0.95
"""Of intervals."""


class Interval(Section):
    """A confidence interval."""

    low: float
    high: float
    level: float = LEVEL


class ClassScores(Section):
    """How well one class is recognised."""

    name: str
    images: int
    recall: float | None
    """Share of its images that were predicted as it; null: it has none."""
    precision: float | None
    """Share of predictions of it that were right; null: never predicted."""
    f1: float | None
    """Null: neither."""


class Bin(Section):
    """Images whose top probability lies in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Their mean top probability; null: no images."""
    accuracy: float | None


class WrongImage(Section):
    """An image that was predicted wrong."""

    sha256: str
    path: str
    label: str
    predicted: str
    probability: float
    """Of what was predicted."""


class Scores(Section):
    """What an evaluation found."""

    model: str
    """NAME@VERSION."""
    dataset: str
    """NAME@VERSION."""
    split: str
    images: int
    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    accuracy_interval: Interval
    """Wilson's, for images drawn from the same source."""
    top5_accuracy: float | None
    """Null: five classes or fewer."""
    macro_f1: float
    """Mean over the classes that occur among labels or predictions."""
    ece: float
    """Expected calibration error over `reliability`; Guo et al. (2017), arXiv:1706.04599."""
    classes: tuple[ClassScores, ...]
    """In the order of the model's logits."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows are true classes, columns predictions."""
    reliability: tuple[Bin, ...]
    wrong: tuple[WrongImage, ...]
    """The most confidently wrong ones, the most confident first."""
