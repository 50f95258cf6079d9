"""A shortlist of backbones: what is shown of each. `shortlist` measures it."""

from collections.abc import Sequence

from graft.spec import Section


class DepthCost(Section):
    """What an epoch over the training images costs at a freeze depth, on this machine."""

    depth: int
    """Frozen stages."""
    through: str | None
    """Name of the last of them; null: nothing is frozen."""
    epoch_s: float
    """Seconds, every image decoded and run through the trunk; a forecast from one measurement."""
    cached_s: float | None
    """Seconds with the trunk's activations kept; null: nothing is frozen."""


class Ranked(Section):
    """One candidate."""

    arch: str
    weights: str
    """As recorded: an enum, a file, a model, or `none`."""
    accuracy: float
    """Of a linear probe on the frozen features, the mean over folds of cross-validation."""
    deviation: float
    """Standard deviation over the folds."""
    logme: float
    """Mean log evidence per image; higher is better."""
    features: int
    """That the head sees of an image."""
    parameters: int
    images_per_second: float
    """Through the whole network, on this machine, decoding left out."""
    costs: tuple[DepthCost, ...]
    """By freeze depth, the deepest first."""
    computed: int
    """Images that went through the trunk for this; 0: their activations were kept already."""


def ordered(found: Sequence[Ranked]) -> list[Ranked]:
    """Return candidates, the most promising first: by accuracy, of equal ones by LogME."""
    return sorted(found, key=lambda one: (-one.accuracy, -one.logme))
