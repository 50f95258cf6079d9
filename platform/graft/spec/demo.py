"""The spec of the demo, for running it on a cluster."""

from typing import Literal

from graft.spec.finetune import Scaling
from graft.spec.section import Name, Section


class Demo(Section):
    """All of Graft's main job, on images that the demo draws itself: `graft demo`."""

    kind: Literal["demo"]
    name: Name = "demo"
    """Beginning of the job's id."""

    @property
    def scaling(self) -> Scaling:
        """Resources of the demo's trainings and of its server."""
        return Scaling(workers=1, cpus_per_worker=2)
