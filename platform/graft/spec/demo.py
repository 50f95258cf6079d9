"""The spec of the demo, to run it on a cluster."""

from typing import Literal

from graft.spec.finetune import Scaling
from graft.spec.section import Name, Section


class Demo(Section):
    """The main job, whole, on images that it makes itself: `graft demo`."""

    kind: Literal["demo"]
    name: Name = "demo"
    """Beginning of the job's id."""

    @property
    def scaling(self) -> Scaling:
        """What its trainings and its server take."""
        return Scaling(workers=1, cpus_per_worker=2)
