"""What a shortlist says of each backbone; `rank` measures it.

Apart from that, so that a table is drawn without loading torch.
"""

from collections.abc import Sequence

from graft.spec import Section


class EpochCost(Section):
    """The forecast cost of an epoch over the training images at a freeze depth, on this machine."""

    depth: int
    """Frozen stages."""
    through: str | None
    """Name of the last frozen stage; null: none is frozen."""
    epoch_s: float
    """Seconds if every image is decoded and goes through the trunk."""
    cached_s: float | None
    """Seconds if the trunk's activations are cached; null: no stage is frozen."""


class Candidate(Section):
    """One backbone with its weights, and what its frozen features give on a dataset."""

    arch: str
    weights: str
    """As recorded: an enum, a file, a model, or `none`."""
    accuracy: float
    """Accuracy of a linear probe on the frozen features: the mean over cross-validation's folds."""
    deviation: float
    """Standard deviation of that accuracy over the folds."""
    logme: float
    """LogME, the mean log evidence per image; higher is better."""
    features: int
    """Number of features of an image that the head sees."""
    parameters: int
    images_per_second: float
    """Throughput of the whole network on this machine, without decoding."""
    costs: tuple[EpochCost, ...]
    """One for each freeze depth, the deepest first."""
    computed: int
    """Images that went through the trunk for this; 0: all activations were cached already."""


def by_promise(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates, the most promising first: by accuracy, at equal accuracy by LogME."""
    return sorted(candidates, key=lambda candidate: (-candidate.accuracy, -candidate.logme))
