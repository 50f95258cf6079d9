"""The spec of an evaluation, to run it on a cluster."""

from typing import Annotated, Literal

from pydantic import Field

from graft.spec.data import Dataset
from graft.spec.finetune import Scaling
from graft.spec.section import Name, Positive, Section


class Evaluation(Section):
    """How good a model version is on images of one split: `graft evaluate`."""

    kind: Literal["evaluation"]
    name: Name = "evaluation"
    """Beginning of the job's id."""
    model: str
    """NAME (the champion, or else the newest), NAME@VERSION or NAME@ALIAS."""
    dataset: Dataset | None = None
    """null: the dataset version that the model was trained on."""
    split: Literal["test", "val", "train"] | None = None
    """null: test where it has images, else val."""
    cpus: Positive = 2
    """Logical CPUs that it reserves: threads that decode, and that compute."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 0

    @property
    def scaling(self) -> Scaling:
        """What its one worker takes."""
        return Scaling(workers=1, cpus_per_worker=self.cpus, gpus_per_worker=self.gpus)
