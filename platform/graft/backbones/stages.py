"""Stage maps: an architecture as an ordered list of stages, cut in two by the freeze depth.

A stage is a name and the steps that run it: paths of submodules of the torchvision
model, and plain functions between them. What follows the last stage is the head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from graft.errors import SpecError
from graft.spec import Backbone, LinearHead, nearest

STAGE_MAP_VERSION = 1
"""Part of every trunk digest: a stage map that changes gets another number."""

Step = str | Callable[[Tensor], Tensor]
"""A submodule's path in the torchvision model, or a function without parameters."""

flatten = partial(torch.flatten, start_dim=1)


@dataclass(frozen=True)
class Stage:
    """A part of the backbone that is frozen or trained as a whole."""

    name: str
    steps: tuple[Step, ...]


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


def stage_map(arch: str, head: LinearHead) -> StageMap:
    """Return the stage map of an architecture under a head.

    Raises:
        SpecError: the architecture has no stage map, or `head.replaces` has no effect on it.
    """
    if arch not in _MAPS:
        raise SpecError(f"backbone.arch: unknown architecture '{arch}'{nearest(arch, _MAPS)}")
    stages, tail, last = _MAPS[arch]
    if head.replaces == "last":
        return StageMap(arch, stages, tail, last)
    if arch not in _CLASSIFIERS:
        raise SpecError(
            f"head.replaces: classifier has no effect on {arch}, whose classifier is one layer; "
            "use `last`"
        )
    kept, tail = _CLASSIFIERS[arch]
    return StageMap(arch, stages[:kept], tail, "classifier")


def freeze_depth(backbone: Backbone, stages: StageMap) -> int:
    """Resolve `backbone.freeze` to a number of stages from 0 to N.

    Raises:
        SpecError: out of range, or no stage of that name.
    """
    freeze, count = backbone.freeze, len(stages.stages)
    if freeze == "all":
        return count
    if isinstance(freeze, str):
        if freeze in stages.names:
            return stages.names.index(freeze) + 1
        known = ("all", *stages.names)
        raise SpecError(
            f"backbone.freeze: {stages.arch} has no stage '{freeze}'{nearest(freeze, known)}"
        )
    if not -count <= freeze <= count:
        raise SpecError(
            f"backbone.freeze: {freeze} is out of range for {stages.arch}, "
            f"which has {count} stages ({', '.join(stages.names)}); expected -{count} to {count}"
        )
    return freeze if freeze >= 0 else count + freeze


def _resnet() -> tuple[tuple[Stage, ...], tuple[Step, ...], str]:
    stages = (
        Stage("stem", ("conv1", "bn1", "relu", "maxpool")),
        *(Stage(name, (name,)) for name in ("layer1", "layer2", "layer3", "layer4")),
    )
    return stages, ("avgpool", flatten, "fc"), "fc"


def _squeezenet1_1() -> tuple[tuple[Stage, ...], tuple[Step, ...], str]:
    # features: conv, relu, pool, fire2, fire3, pool, fire4, fire5, pool, fire6 .. fire9
    fires = {"fire2": (3,), "fire3": (4, 5), "fire4": (6,), "fire5": (7, 8)}
    fires |= {"fire6": (9,), "fire7": (10,), "fire8": (11,), "fire9": (12,)}
    stages = (
        Stage("stem", ("features.0", "features.1", "features.2")),
        *(Stage(name, tuple(f"features.{i}" for i in at)) for name, at in fires.items()),
    )
    head = tuple(f"classifier.{i}" for i in range(4))
    return stages, (*head, flatten), "classifier.1"


def _vgg16() -> tuple[tuple[Stage, ...], tuple[Step, ...], str]:
    ends = (0, 5, 10, 17, 24, 31)
    blocks = tuple(
        Stage(f"block{n + 1}", tuple(f"features.{i}" for i in range(ends[n], ends[n + 1])))
        for n in range(5)
    )
    hidden = (
        Stage("fc6", ("avgpool", flatten, *(f"classifier.{i}" for i in (0, 1, 2)))),
        Stage("fc7", tuple(f"classifier.{i}" for i in (3, 4, 5))),
    )
    return blocks + hidden, ("classifier.6",), "classifier.6"


def _mobilenet_v3_small() -> tuple[tuple[Stage, ...], tuple[Step, ...], str]:
    names = ("stem", *(f"block{n}" for n in range(1, 12)), "conv_last")
    features = tuple(Stage(name, (f"features.{n}",)) for n, name in enumerate(names))
    hidden = Stage("hidden", ("avgpool", flatten, "classifier.0", "classifier.1", "classifier.2"))
    return (*features, hidden), ("classifier.3",), "classifier.3"


_MAPS = {
    "resnet18": _resnet(),
    "resnet34": _resnet(),
    "resnet50": _resnet(),
    "squeezenet1_1": _squeezenet1_1(),
    "vgg16": _vgg16(),
    "mobilenet_v3_small": _mobilenet_v3_small(),
}

_CLASSIFIERS: dict[str, tuple[int, tuple[Step, ...]]] = {
    "vgg16": (5, ("avgpool", flatten, "classifier")),
    "mobilenet_v3_small": (13, ("avgpool", flatten, "classifier")),
}
"""For `replaces: classifier`, where that is more than the last layer: stages kept, and the head."""
