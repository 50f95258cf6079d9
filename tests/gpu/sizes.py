"""How much is computed: on a GPU, and on a CPU to see that the rows themselves work."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Self


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    arch: str
    """The network whose numbers are compared."""
    images: int
    """Images to train on where numbers are compared; a multiple of 8."""
    crop: int
    """Side of what the network sees there, in pixels."""
    photos: int
    """Images to decode where that is timed."""
    photo: tuple[int, int]
    """Width and height of every image file, in pixels."""
    steps: tuple[tuple[str, str, str], ...]
    """Architecture, precision and layout of the steps that are timed."""
    compiled: tuple[str, ...]
    """Architectures whose steps are timed compiled, in bf16."""
    timed_crop: int
    """Side of what they see, in pixels."""
    timed_batch: int
    """Images in their steps."""
    seconds: float
    """How long a rate is measured."""
    megabytes: int
    """What travels to the GPU at a time."""

    @property
    def batch(self) -> int:
        """Images in a batch where numbers are compared: an epoch has several, none of one."""
        return min(16, self.images // 2)

    def with_images(self, images: int | None) -> Self:
        """Return these with another number of images, where one is given."""
        return self if images is None else replace(self, images=images)

    def among(self, archs: tuple[str, ...]) -> Self:
        """Return these with the first of `archs` in place of others."""

        def known(arch: str) -> str:
            return arch if arch in archs else archs[0]

        steps = tuple((known(arch), precision, layout) for arch, precision, layout in self.steps)
        compiled = tuple(known(arch) for arch in self.compiled)
        return replace(self, arch=known(self.arch), steps=steps, compiled=compiled)


GPU = Sizes(
    arch="resnet18",
    images=48,
    crop=128,
    photos=512,
    photo=(500, 375),
    steps=tuple(
        product(("resnet18", "resnet50"), ("fp32", "bf16"), ("channels_last", "NCHW")),
    ),
    compiled=("resnet18", "resnet50"),
    timed_crop=224,
    timed_batch=128,
    seconds=2.0,
    megabytes=512,
)
CPU = Sizes(
    arch="squeezenet1_1",
    images=8,
    crop=48,
    photos=8,
    photo=(96, 72),
    steps=(
        ("squeezenet1_1", "fp32", "channels_last"),
        ("squeezenet1_1", "fp32", "NCHW"),
        ("squeezenet1_1", "bf16", "channels_last"),
    ),
    compiled=("squeezenet1_1",),
    timed_crop=48,
    timed_batch=4,
    seconds=0.0,
    megabytes=1,
)
