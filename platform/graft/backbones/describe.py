"""What a person chooses an architecture by: stages, parameters, cost, activation sizes.

Nothing is computed and no weights are needed: networks are made without memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graft.backbones.flops import part_costs
from graft.backbones.make_network import LEFT_OUT
from graft.backbones.published_weights import published, published_preprocess, weights_names
from graft.backbones.stage_map import stage_map
from graft.backbones.stage_steps import label
from graft.backbones.torchvision_stages import MAPS
from graft.backbones.transfer_model import Steps, build_on_meta, check_input
from graft.spec import Backbone, LinearHead

CLASSES = 1000
"""Classes of the published networks: ImageNet's."""
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Summary:
    """One architecture as torchvision publishes it, in a line."""

    name: str
    stages: int
    parameters: int
    gflops: float
    """A multiply-add counts one, as in torchvision's tables and most papers."""
    crop: int
    """Side of the images that its best weights were trained on, in pixels."""
    accuracy: float
    """Top-1 accuracy of its best weights on ImageNet, as published, in %."""
    weights: tuple[str, ...]
    """What `backbone.weights` may name; `imagenet` means the last one."""


@dataclass(frozen=True)
class StageDescription:
    """A stage, or the head."""

    name: str
    modules: tuple[str, ...]
    """Paths in the network, and names of the functions between them."""
    parameters: int
    gflops: float
    """Forward for one image; a multiply-add counts one."""
    shape: tuple[int, ...]
    """Shape of one image's activations at the end of the stage."""

    @property
    def bytes(self) -> int:
        """Memory that one image's activations take in float32."""
        return FLOAT32_BYTES * math.prod(self.shape)


@dataclass(frozen=True)
class Description:
    """An architecture, part by part."""

    arch: str
    crop: int
    """Side of the images, in pixels."""
    parts: tuple[StageDescription, ...]
    """The stages, and the head last."""
    weights: tuple[str, ...]
    """What `backbone.weights` may name; `imagenet` means the last one."""
    left_out: str | None
    """What Graft leaves out of the published architecture, and why."""


def summaries() -> Iterator[Summary]:
    """Yield all of torchvision's classifiers, by name."""
    for arch in sorted(MAPS):
        best = published(arch)
        yield Summary(
            name=arch,
            stages=len(MAPS[arch]().stages),
            parameters=best.meta["num_params"],
            gflops=best.meta["_ops"],
            crop=published_preprocess(best).crop,
            accuracy=best.meta["_metrics"]["ImageNet-1K"]["acc@1"],
            weights=weights_names(arch),
        )


def describe(arch: str, crop: int | None = None) -> Description:
    """Describe an architecture for images of `crop` x `crop` pixels, by default as published.

    Raises:
        SpecError: unknown architecture, or images that it cannot take.
    """
    backbone, head = Backbone(arch=arch, weights="none", freeze=0), LinearHead()
    stage_map(arch, head)  # raises for an unknown architecture
    crop = crop or published_preprocess(published(arch)).crop
    check_input(backbone, head, crop)
    model = build_on_meta(backbone, head, CLASSES, crop)
    descriptions = tuple(
        StageDescription(
            name=part.name,
            modules=tuple(label(step) for step in part.steps),
            parameters=sum(p.numel() for p in Steps(model.network, part.steps).parameters()),
            gflops=cost.gflops,
            shape=cost.shape,
        )
        for part, cost in zip(model.stages.parts, part_costs(model, crop), strict=True)
    )
    return Description(arch, crop, descriptions, weights_names(arch), LEFT_OUT.get(arch))
