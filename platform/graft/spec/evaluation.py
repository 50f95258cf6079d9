"""The spec of an evaluation, for running it on a cluster."""

from typing import Annotated, Literal

from pydantic import Field

from graft.spec.data import Dataset
from graft.spec.finetune import Scaling
from graft.spec.section import Name, Positive, Section


class Evaluation(Section):
    """Measure a model version on the images of one split: `graft evaluate`."""

    kind: Literal["evaluation"]
    name: Name = "evaluation"
    """Beginning of the job's id."""
    model: str
    """NAME (its champion, or the newest version where none is set), NAME@VERSION or NAME@ALIAS."""
    dataset: Dataset | None = None
    """Images to measure on; null: the dataset version that the model was trained on."""
    split: Literal["test", "val", "train"] | None = None
    """Split to measure on; null: test where it has images, else val."""
    cpus: Positive = 2
    """Logical CPUs to reserve: also the number of decoding and of computing threads."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs to use."""

    @property
    def scaling(self) -> Scaling:
        """Resources of the single worker."""
        return Scaling(workers=1, cpus_per_worker=self.cpus, gpus_per_worker=self.gpus)
