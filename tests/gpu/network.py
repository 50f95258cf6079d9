"""ResNets of the tests' own, and a stand-in for torchvision where it is not installed.

The networks have the sizes, and the names of parameters, of torchvision's: Graft's stage maps
fit them. Nothing else of torchvision's is needed to train or to serve one.
"""

import sys
from types import ModuleType

from torch import Tensor, nn

LAYERS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
"""Blocks of each of the four layers."""


class Block(nn.Module):
    """Two convolutions, or with a bottleneck three, and a way around them."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        sizes = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        self.count = len(sizes)
        channels = inputs
        for n, (kernel, step) in enumerate(sizes, 1):
            to = outputs if n == self.count else width
            conv = nn.Conv2d(channels, to, kernel, step, kernel // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            setattr(self, f"conv{n}", conv)
            setattr(self, f"bn{n}", nn.BatchNorm2d(to))
            channels = to
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        for n in range(1, self.count + 1):
            x = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(x))
            x = self.relu(x if n < self.count else x + around)
        return x


class ResNet(nn.Module):
    """(B, 3, H, W) to logits (B, classes)."""

    def __init__(self, arch: str, classes: int):
        super().__init__()
        bottleneck = arch == "resnet50"
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for n, blocks in enumerate(LAYERS[arch]):
            width, layer = 64 << n, []
            for block in range(blocks):
                layer.append(Block(inputs, width, 2 if n and not block else 1, bottleneck))
                inputs = 4 * width if bottleneck else width
            setattr(self, f"layer{n + 1}", nn.Sequential(*layer))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def stand_in_for_torchvision() -> None:
    """Have Graft import without torchvision, and build the networks above."""

    def get_model(arch: str, weights: None, num_classes: int) -> ResNet:
        return ResNet(arch, num_classes)

    names = ("", ".models", ".models.vision_transformer", ".transforms", ".transforms.v2")
    modules = {name: ModuleType(f"torchvision{name}") for name in names}
    for name, module in modules.items():
        sys.modules[module.__name__] = module
        parent, _, child = name.rpartition(".")
        if child:
            setattr(modules[parent], child, module)
    modules[".models"].get_model = get_model  # type: ignore[attr-defined]
    # Named where they are imported, and not used: mixed images, ViT's position embeddings.
    modules[".transforms.v2"].Transform = type("Transform", (), {})  # type: ignore[attr-defined]
    modules[".models.vision_transformer"].interpolate_embeddings = None  # type: ignore[attr-defined]
