"""Spec sections on the network: backbone, freeze depth and head."""

from typing import Annotated, Literal

from pydantic import Field

from graft.spec.section import Digest, Fraction, Positive, Section


class Backbone(Section):
    """The pretrained network, and the depth at which it is cut into trunk and tail."""

    arch: str
    """Architecture: any of torchvision's classifiers (`graft backbones ls`), or, with the extra
    `graft-vision[timm]`, timm/NAME."""
    weights: str = "imagenet"
    """`imagenet`, a torchvision weights enum (`ResNet18_Weights.IMAGENET1K_V1`), a path or
    s3:// URI of a .safetensors or .pth file, `model://NAME[@VERSION]`, or `none` (random).
    For timm/NAME `imagenet` means timm's default weights, and weights are named as timm names
    them (`resnet18.a1_in1k`) instead of by an enum."""
    weights_sha256: Digest | None = None
    """SHA-256 that the weights file must have; null: not checked. A run records it."""
    freeze: int | str = "all"
    """Freeze depth, the number of frozen stages: 0 trains everything, `all` only the head; -1
    freezes all but the last stage, and a stage's name all stages through it, inclusive."""
    dropout: Fraction | None = None
    """Probability of the dropout layers that the architecture has in its trained stages; null: as
    published."""


class LinearHead(Section):
    """A single linear layer to the classes, shaped as in the architecture's own classifier."""

    kind: Literal["linear"] = "linear"
    replaces: Literal["last", "classifier"] = "last"
    """Part of the architecture that the head replaces: its `last` layer, or the whole
    `classifier` after the pooling."""


class MLPHead(Section):
    """Hidden layers before the classes, such as the classic Dense(256) with dropout on VGG16."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (256,)
    """Units of each hidden layer, in order."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Activation function after each hidden layer."""
    dropout: Fraction = 0.5
    """Dropout probability after each activation."""
    replaces: Literal["last", "classifier"] = "last"
    """Part of the architecture that the head replaces: its `last` layer, or the whole
    `classifier` after the pooling."""


Head = Annotated[LinearHead | MLPHead, Field(discriminator="kind")]
