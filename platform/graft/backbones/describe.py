"""Architectures as a person chooses among them: stages, parameters, cost, activation sizes.

Nothing is computed and no weights are needed: networks are made without memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.maps import MAPS
from graft.backbones.model import Steps, build_on_meta, check_input
from graft.backbones.network import LEFT_OUT, published, published_preprocess, weights_names
from graft.backbones.stages import stage_map
from graft.backbones.steps import label
from graft.spec import Backbone, LinearHead

CLASSES = 1000
"""As published, for ImageNet."""
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Summary:
    """One architecture as torchvision publishes it, on a line."""

    name: str
    stages: int
    parameters: int
    gflops: float
    """A multiply-add counts one, as in torchvision's tables and most papers."""
    crop: int
    """Side of the images that its best weights were trained on, in pixels."""
    accuracy: float
    """Top-1 of its best weights on ImageNet, as published."""
    weights: tuple[str, ...]
    """What `backbone.weights` may name; `imagenet` means the last one."""


@dataclass(frozen=True)
class Part:
    """A stage, or the head."""

    name: str
    modules: tuple[str, ...]
    """Paths in the network, and names of the functions between them."""
    parameters: int
    gflops: float
    """For one image."""
    shape: tuple[int, ...]
    """Of one image's activations at its end."""

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
    parts: tuple[Part, ...]
    """The stages, and the head last."""
    weights: tuple[str, ...]
    """What `backbone.weights` may name; `imagenet` means the last one."""
    left_out: str | None
    """What of the published architecture is not there, and why."""


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
    """Describe an architecture for images of a size; by default that of its best weights.

    Raises:
        SpecError: unknown architecture, or images that it cannot take.
    """
    backbone, head = Backbone(arch=arch, weights="none", freeze=0), LinearHead()
    stage_map(arch, head)  # knows whether there is such an architecture
    crop = crop or published_preprocess(published(arch)).crop
    check_input(backbone, head, crop)
    model = build_on_meta(backbone, head, CLASSES, crop).eval()
    named = [(stage.name, stage.steps) for stage in model.stages.stages]
    x = torch.empty(1, 3, crop, crop, device="meta")
    parts = []
    for name, steps in (*named, ("head", model.stages.head)):
        part = Steps(model.network, steps).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            x = part(x)
        parts.append(
            Part(
                name=name,
                modules=tuple(label(step) for step in steps),
                parameters=sum(p.numel() for p in part.parameters()),
                gflops=counter.get_total_flops() / 2e9,
                shape=tuple(x.shape[1:]),
            )
        )
    return Description(arch, crop, tuple(parts), weights_names(arch), LEFT_OUT.get(arch))
