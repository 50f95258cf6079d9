"""Stage maps: an architecture as an ordered list of stages, cut in two by the freeze depth.

A stage is a name and the steps that run it. What follows the last stage is the head. All
pretrained parameters lie in stages; the last layer of the head is new.
"""

from dataclasses import dataclass

from graft.backbones.maps import MAPS
from graft.backbones.steps import Call, Step, owns
from graft.backbones.timm import PREFIX, timm_architecture
from graft.errors import SpecError
from graft.spec import Head, MLPHead, nearest

__all__ = ["STAGE_MAP_VERSION", "Call", "Stage", "StageMap", "Step", "freeze_depth", "stage_map"]

STAGE_MAP_VERSION = 2
"""Part of every trunk digest: a stage map that changes gets another number."""


@dataclass(frozen=True)
class Stage:
    """A part of the backbone that is frozen or trained as a whole."""

    name: str
    steps: tuple[Step, ...]
    flat: bool = False
    """Whether it ends with the pooling, and what is after it is a new classifier."""


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
        found = timm_architecture(arch)
    elif arch in MAPS:
        found = MAPS[arch]()
    else:
        raise SpecError(f"backbone.arch: unknown architecture '{arch}'{nearest(arch, MAPS)}")
    stages = tuple(Stage(name, steps) for name, steps in found.stages.items())
    if head.replaces == "last":
        if isinstance(head, MLPHead) and arch.startswith("squeezenet"):
            raise SpecError(
                f"head.kind: mlp cannot replace the last layer of {arch}, a convolution before "
                "the pooling; set head.replaces: classifier"
            )
        return StageMap(arch, stages, found.head, found.last)
    if found.classifier is None:
        raise SpecError(
            f"head.replaces: classifier has no effect on {arch}, whose classifier is one layer; "
            "use `last`"
            if arch in MAPS
            else "head.replaces: classifier has no effect on timm's architectures; use `last`"
        )
    before, end = found.classifier
    kept = stages[: list(found.stages).index(before)]
    ended = Stage(before, found.stages[before] + end, flat=True)
    return StageMap(arch, (*kept, ended), ("classifier",), "classifier")


def freeze_depth(freeze: int | str, stages: StageMap, key: str = "backbone.freeze") -> int:
    """Resolve a freeze depth, as `backbone.freeze` gives it, to a number of stages from 0 to N.

    Raises:
        SpecError: out of range, or no stage of that name; `key` is where the spec says it.
    """
    count = len(stages.stages)
    if freeze == "all":
        return count
    if isinstance(freeze, str):
        if freeze in stages.names:
            return stages.names.index(freeze) + 1
        known = ("all", *stages.names)
        raise SpecError(f"{key}: {stages.arch} has no stage '{freeze}'{nearest(freeze, known)}")
    if not -count <= freeze <= count:
        raise SpecError(
            f"{key}: {freeze} is out of range for {stages.arch}, "
            f"which has {count} stages ({', '.join(stages.names)}); expected -{count} to {count}"
        )
    return freeze if freeze >= 0 else count + freeze
