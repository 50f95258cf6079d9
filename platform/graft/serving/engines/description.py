"""The description that lies beside an exported model: all that whoever runs it has to know."""

from typing import Literal

from pydantic import Field

from graft.decisions.records import Decision
from graft.registry import ModelVersion
from graft.spec import Contract, Digest, Head, Ref, Section
from graft.store.objects import FileName

FormName = Literal["onnx", "torch-export", "safetensors"]


class Proof(Section):
    """That the file gives what training recorded, from the golden images' bytes on."""

    golden_images: int = Field(gt=0)
    largest_difference: float = Field(ge=0)
    """Of a logit from the recorded one, divided by the image set's largest |logit|."""
    tolerance: float = Field(gt=0)
    """The largest difference that is allowed."""
    engine: str
    """What computed it, and its release."""


class Network(Section):
    """What a version is, apart from its file."""

    model: Ref
    """NAME@VERSION."""
    arch: str
    """Architecture, as `backbone.arch` in a spec."""
    head: Head
    trunk_digest: Digest
    """Name of its frozen stages with their preprocessing."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    preprocessing: Contract
    """From an image file's bytes to pixels: RGB (alpha over white), the longer side at most
    `max_side` (bilinear), upright by EXIF, the shorter side resized to `resize` (`interpolation`,
    Pillow's filter), the central `crop`; then (x / 255 - mean) / std."""

    @classmethod
    def of(cls, version: ModelVersion) -> "Network":
        """Return a version's."""
        return cls(
            model=version.ref,
            arch=version.arch,
            head=version.head,
            trunk_digest=version.trunk_digest,
            classes=version.classes,
            preprocessing=version.contract,
        )


class Description(Network):
    """What lies beside an exported file, as ``FILE.json``."""

    file: FileName
    sha256: Digest
    form: FormName
    input: str
    output: str = "logits (batch, classes) float32; their softmax gives probabilities"
    proof: Proof
    decision: Decision | None = None
    """What the logits mean, as it was in force at the export: softmax(scales * logits + shifts) are
    probabilities, of which `rule` makes an answer; null: the likeliest class."""
