"""The stage maps of torchvision's classifiers, a function for each family.

A stage begins with a layer that has parameters, or with dropout. The layers without parameters
that follow, pooling above all, belong to the same stage, so activations are small at its end.
Dropout belongs to the stage that it feeds, so that it still acts when all stages before are frozen.

The maps are written by hand: torchvision's own feature extractor (torch.fx) would trace a copy,
while here the published module stays whole, with its names, and is only called in pieces.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from graft.backbones.stage_steps import (
    Call,
    Step,
    class_token,
    embed,
    flatten,
    mean,
    pool,
    relu,
    transform_input,
)

Stages = dict[str, tuple[Step, ...]]


@dataclass(frozen=True)
class Classifier:
    """A submodule `classifier` that is more than the last layer, and may be replaced whole."""

    after: str
    """Name of the stage that is the last one when `classifier` is replaced."""
    pooling: tuple[Step, ...] = ()
    """Steps added to that stage: the pooling that went with `classifier`."""


@dataclass(frozen=True)
class Architecture:
    """Stages in the order of the forward pass, and what follows them."""

    stages: Stages
    head: tuple[Step, ...]
    """Steps after the last stage; among them the path `last`."""
    last: str
    """Path of the last layer."""
    classifier: Classifier | None = None
    """None: the classifier is the last layer alone."""


def _alexnet() -> Architecture:
    starts = (0, 3, 6, 8, 10, 13)
    blocks = {f"block{n + 1}": _run("features", *starts[n : n + 2]) for n in range(5)}
    blocks["block5"] += ("avgpool", flatten)
    hidden = {"fc6": _run("classifier", 0, 3), "fc7": _run("classifier", 3, 6)}
    return Architecture(blocks | hidden, ("classifier.6",), "classifier.6", Classifier("block5"))


def _convnext() -> Architecture:
    stages = _downsampled() | {"norm": ("avgpool", "classifier.0", "classifier.1")}
    classifier = Classifier("stage4", ("avgpool", flatten))
    return Architecture(stages, ("classifier.2",), "classifier.2", classifier)


def _densenet() -> Architecture:
    stages: Stages = {"stem": tuple(f"features.{name}0" for name in ("conv", "norm", "relu"))}
    stages["stem"] += ("features.pool0",)
    for n in range(1, 4):
        stages[f"denseblock{n}"] = (f"features.denseblock{n}", f"features.transition{n}")
    stages["denseblock4"] = ("features.denseblock4", "features.norm5", relu, pool, flatten)
    return Architecture(stages, ("classifier",), "classifier")


def _efficientnet(stages: int) -> Architecture:
    names = _names("stem", "stage", stages, "conv_last")
    return _dropout_then_linear(_features(names, ("avgpool", flatten)))


def _googlenet() -> Architecture:
    stages: Stages = {"stem": ("conv1", "maxpool1", "conv2", "conv3", "maxpool2")}
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        stages[f"inception{name}"] = (f"inception{name}",)
    stages["inception3b"] += ("maxpool3",)
    stages["inception4e"] += ("maxpool4",)
    stages["inception5b"] += ("avgpool", flatten)
    return _transformed(stages)


def _inception_v3() -> Architecture:
    stem = ("1a_3x3", "2a_3x3", "2b_3x3", "maxpool1", "3b_1x1", "4a_3x3", "maxpool2")
    stages: Stages = {"stem": tuple(n if "pool" in n else f"Conv2d_{n}" for n in stem)}
    for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
        stages[f"Mixed_{name}"] = (f"Mixed_{name}",)
    stages["Mixed_7c"] += ("avgpool", flatten)
    return _transformed(stages)


def _transformed(stages: Stages) -> Architecture:
    stages["stem"] = (Call(transform_input), *stages["stem"])
    return Architecture(stages, ("dropout", "fc"), "fc")


def _maxvit() -> Architecture:
    stages: Stages = {"stem": ("stem",)}
    stages |= {f"block{n + 1}": (f"blocks.{n}",) for n in range(4)}
    stages["hidden"] = _run("classifier", 0, 5)
    classifier = Classifier("block4", (pool, flatten))
    return Architecture(stages, ("classifier.5",), "classifier.5", classifier)


def _mnasnet() -> Architecture:
    stages: Stages = {"stem": _run("layers", 0, 8)}
    stages |= {f"stage{n}": (f"layers.{n + 7}",) for n in range(1, 7)}
    stages["conv_last"] = (*_run("layers", 14, 17), mean)
    return _dropout_then_linear(stages)


def _mobilenet_v2() -> Architecture:
    names = _names("stem", "block", 17, "conv_last")
    return _dropout_then_linear(_features(names, (pool, flatten)))


def _mobilenet_v3(blocks: int) -> Architecture:
    stages = _features(_names("stem", "block", blocks, "conv_last"), ("avgpool", flatten))
    stages["hidden"] = ("classifier.0", "classifier.1")
    head = ("classifier.2", "classifier.3")
    return Architecture(stages, head, "classifier.3", Classifier("conv_last"))


def _regnet() -> Architecture:
    stages: Stages = {"stem": ("stem",)}
    stages |= {f"block{n}": (f"trunk_output.block{n}",) for n in range(1, 5)}
    stages["block4"] += ("avgpool", flatten)
    return Architecture(stages, ("fc",), "fc")


def _resnet() -> Architecture:
    stages: Stages = {"stem": ("conv1", "bn1", "relu", "maxpool")}
    stages |= {f"layer{n}": (f"layer{n}",) for n in range(1, 5)}
    stages["layer4"] += ("avgpool", flatten)
    return Architecture(stages, ("fc",), "fc")


def _shufflenet() -> Architecture:
    stages: Stages = {"stem": ("conv1", "maxpool")}
    stages |= {f"stage{n}": (f"stage{n}",) for n in (2, 3, 4)}
    stages["conv5"] = ("conv5", mean)
    return Architecture(stages, ("fc",), "fc")


def _squeezenet(pools: tuple[int, int]) -> Architecture:
    """Make the map of a SqueezeNet with pooling after the fire modules `pools`."""
    stages: Stages = {"stem": _run("features", 0, 3)}
    start = 3
    for fire in range(2, 10):
        end = start + (2 if fire in pools else 1)
        stages[f"fire{fire}"] = _run("features", start, end)
        start = end
    head = (*_run("classifier", 0, 4), flatten)
    return Architecture(stages, head, "classifier.1", Classifier("fire9", (pool, flatten)))


def _swin() -> Architecture:
    stages = _downsampled() | {"norm": ("norm", "permute", "avgpool", "flatten")}
    return Architecture(stages, ("head",), "head")


def _vgg(convolutions: tuple[int, ...], layers: int) -> Architecture:
    """Make the map of a VGG from the convolutions of each block, and the layers of each of them."""
    blocks: Stages = {}
    start = 0
    for n, count in enumerate(convolutions, 1):
        end = start + count * layers + 1
        blocks[f"block{n}"] = _run("features", start, end)
        start = end
    blocks["block5"] += ("avgpool", flatten)
    hidden = {"fc6": _run("classifier", 0, 2), "fc7": _run("classifier", 2, 5)}
    head = ("classifier.5", "classifier.6")
    return Architecture(blocks | hidden, head, "classifier.6", Classifier("block5"))


def _vit(layers: int) -> Architecture:
    tokens = Call(embed, ("class_token", "encoder.pos_embedding"))
    stages: Stages = {"stem": ("conv_proj", tokens, "encoder.dropout")}
    for n in range(layers):
        stages[f"layer{n + 1}"] = (f"encoder.layers.encoder_layer_{n}",)
    stages["norm"] = ("encoder.ln", class_token)
    return Architecture(stages, ("heads.head",), "heads.head")


def _run(parent: str, start: int, end: int) -> tuple[Step, ...]:
    return tuple(f"{parent}.{i}" for i in range(start, end))


def _names(first: str, name: str, count: int, last: str) -> Iterable[str]:
    return (first, *(f"{name}{n}" for n in range(1, count + 1)), last)


def _features(names: Iterable[str], end: tuple[Step, ...]) -> Stages:
    """Make a stage of each submodule of `features`; the steps `end` are added to the last."""
    stages: Stages = {name: (f"features.{n}",) for n, name in enumerate(names)}
    stages[list(stages)[-1]] += end
    return stages


def _downsampled() -> Stages:
    """Make four stages of `features`; each but the first begins with its downsampling."""
    stages: Stages = {"stem": ("features.0",), "stage1": ("features.1",)}
    return stages | {f"stage{n}": _run("features", 2 * n - 2, 2 * n) for n in (2, 3, 4)}


def _dropout_then_linear(stages: Stages) -> Architecture:
    return Architecture(stages, ("classifier.0", "classifier.1"), "classifier.1")


MAPS: dict[str, Callable[[], Architecture]] = {
    "alexnet": _alexnet,
    **{f"convnext_{size}": _convnext for size in ("base", "large", "small", "tiny")},
    **{f"densenet{depth}": _densenet for depth in (121, 161, 169, 201)},
    **{f"efficientnet_b{n}": partial(_efficientnet, 7) for n in range(8)},
    "efficientnet_v2_l": partial(_efficientnet, 7),
    "efficientnet_v2_m": partial(_efficientnet, 7),
    "efficientnet_v2_s": partial(_efficientnet, 6),
    "googlenet": _googlenet,
    "inception_v3": _inception_v3,
    "maxvit_t": _maxvit,
    **{f"mnasnet{width}": _mnasnet for width in ("0_5", "0_75", "1_0", "1_3")},
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_large": partial(_mobilenet_v3, 15),
    "mobilenet_v3_small": partial(_mobilenet_v3, 11),
    **{
        f"regnet_{kind}_{flops}": _regnet
        for kind, most in (("x", ()), ("y", ("128gf",)))
        for flops in (*most, "16gf", "1_6gf", "32gf", "3_2gf", "400mf", "800mf", "8gf")
    },
    **{f"resnet{depth}": _resnet for depth in (101, 152, 18, 34, 50)},
    **{f"resnext{size}": _resnet for size in ("101_32x8d", "101_64x4d", "50_32x4d")},
    **{f"shufflenet_v2_x{width}": _shufflenet for width in ("0_5", "1_0", "1_5", "2_0")},
    "squeezenet1_0": partial(_squeezenet, (4, 8)),
    "squeezenet1_1": partial(_squeezenet, (3, 5)),
    **{f"swin_{size}": _swin for size in ("b", "s", "t", "v2_b", "v2_s", "v2_t")},
    **{
        f"vgg{depth}{norm}": partial(_vgg, convolutions, layers)
        for depth, convolutions in (
            (11, (1, 1, 2, 2, 2)),
            (13, (2, 2, 2, 2, 2)),
            (16, (2, 2, 3, 3, 3)),
            (19, (2, 2, 4, 4, 4)),
        )
        for norm, layers in (("", 2), ("_bn", 3))
    },
    "vit_b_16": partial(_vit, 12),
    "vit_b_32": partial(_vit, 12),
    "vit_h_14": partial(_vit, 32),
    "vit_l_16": partial(_vit, 24),
    "vit_l_32": partial(_vit, 24),
    "wide_resnet101_2": _resnet,
    "wide_resnet50_2": _resnet,
}
"""Every classification model of torchvision."""
