"""Stage maps: an architecture as an ordered list of stages, cut in two by the freeze depth.

A stage is a name and the steps that run it. What follows the last stage is the head. All
pretrained parameters belong to stages; the last layer of the head is new.
"""

from dataclasses import dataclass

from graft.backbones.stage_steps import Call, Step, owns
from graft.backbones.timm_stages import PREFIX, timm_architecture
from graft.backbones.torchvision_stages import MAPS
from graft.errors import SpecError
from graft.spec import Head, nearest

__all__ = ["STAGE_MAP_VERSION", "Call", "Stage", "StageMap", "Step", "freeze_depth", "stage_map"]

STAGE_MAP_VERSION = 2
"""Part of every trunk digest: raise it when any stage map changes."""


@dataclass(frozen=True)
class Stage:
    """A part of the network that is frozen or trained as a whole."""

    name: str
    steps: tuple[Step, ...]
    flat: bool = False
    """Whether it ends with the pooling because a new head replaces the whole classifier."""


@dataclass(frozen=True)
class StageMap:
    """An architecture's stages, in the order of the forward pass, and its head."""

    arch: str
    stages: tuple[Stage, ...]
    head: tuple[Step, ...]
    """Steps after the last stage; among them the path `last`."""
    last: str
    """Path of the submodule that the new head replaces."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages in order, and last the head's steps under the name `head`."""
        return (*self.stages, Stage("head", self.head))

    def stage_of(self, name: str) -> int:
        """Return the index of the stage that owns a parameter or buffer; N for the head's."""
        owners = (n for n, stage in enumerate(self.stages) if owns(stage.steps, name))
        return next(owners, len(self.stages))


def stage_map(arch: str, head: Head) -> StageMap:
    """Return the stage map of an architecture under a head.

    Raises:
        SpecError: the architecture has no stage map, or the head does not fit it.
    """
    if arch.startswith(PREFIX):
        architecture = timm_architecture(arch)
    elif arch in MAPS:
        architecture = MAPS[arch]()
    else:
        raise SpecError(f"backbone.arch: unknown architecture '{arch}'{nearest(arch, MAPS)}")
    stages = tuple(Stage(name, steps) for name, steps in architecture.stages.items())
    if head.replaces == "last":
        if head.kind != "linear" and arch.startswith("squeezenet"):
            raise SpecError(
                f"head.kind: {head.kind} cannot replace the last layer of {arch}, a convolution "
                "before the pooling; set head.replaces: classifier"
            )
        return StageMap(arch, stages, architecture.head, architecture.last)
    if architecture.classifier is None:
        raise SpecError(
            f"head.replaces: classifier has no effect on {arch}, whose classifier is one layer; "
            "use `last`"
            if arch in MAPS
            else "head.replaces: classifier has no effect on timm's architectures; use `last`"
        )
    last_stage, pooling = architecture.classifier.after, architecture.classifier.pooling
    earlier = stages[: list(architecture.stages).index(last_stage)]
    pooled = Stage(last_stage, architecture.stages[last_stage] + pooling, flat=True)
    return StageMap(arch, (*earlier, pooled), ("classifier",), "classifier")


def freeze_depth(freeze: int | str, stages: StageMap, key: str = "backbone.freeze") -> int:
    """Return how many stages, 0 to N, a freeze depth written as `backbone.freeze` freezes.

    Raises:
        SpecError: out of range, or no stage of that name; it begins with the spec's key, `key`.
    """
    count = len(stages.stages)
    if freeze == "all":
        return count
    if isinstance(freeze, str):
        if freeze in stages.names:
            return stages.names.index(freeze) + 1
        names = ("all", *stages.names)
        raise SpecError(f"{key}: {stages.arch} has no stage '{freeze}'{nearest(freeze, names)}")
    if not -count <= freeze <= count:
        raise SpecError(
            f"{key}: {freeze} is out of range for {stages.arch}, "
            f"which has {count} stages ({', '.join(stages.names)}); expected -{count} to {count}"
        )
    return freeze if freeze >= 0 else count + freeze
