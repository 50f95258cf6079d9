"""Spec sections on the network: backbone, freeze depth, head."""

from typing import Annotated, Literal

from pydantic import Field

from graft.spec.section import Fraction, Positive, Section


class Backbone(Section):
    """The pretrained network and where it is cut into trunk and tail."""

    arch: str
    """Architecture: any of torchvision's classifiers (`graft backbones ls`), or, with the extra
    `graft[timm]`, timm/NAME."""
    weights: str = "imagenet"
    """`imagenet`, a torchvision weights enum (`ResNet18_Weights.IMAGENET1K_V1`), a path or
    s3:// URI of a .safetensors or .pth file, `model://NAME[@VERSION]`, or `none` (random).
    For timm/NAME `imagenet` is what timm would take, and a name of timm's takes the enum's
    place (`resnet18.a1_in1k`)."""
    weights_sha256: str | None = None
    """SHA-256 that the weights' file must have; a run records it."""
    freeze: int | str = "all"
    """Freeze depth: 0 trains everything, `all` (or N) the head alone, -1 all but the last
    stage, a stage's name freezes through it, inclusive."""
    dropout: Fraction | None = None
    """Probability of the architecture's own dropout layers that are trained; null: as published."""


class LinearHead(Section):
    """One linear layer to the classes, shaped as in the architecture's own classifier."""

    kind: Literal["linear"] = "linear"
    replaces: Literal["last", "classifier"] = "last"
    """What of the architecture it replaces: its last layer, or all after the pooling."""


class MLPHead(Section):
    """Hidden layers before the classes: VGG16's classic Dense(256) with dropout is one."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (256,)
    """Units of each hidden layer, in order."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """After each hidden layer."""
    dropout: Fraction = 0.5
    """Probability after each activation."""
    replaces: Literal["last", "classifier"] = "last"
    """What of the architecture it replaces: its last layer, or all after the pooling."""


Head = Annotated[LinearHead | MLPHead, Field(discriminator="kind")]
