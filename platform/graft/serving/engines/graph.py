"""The network as a graph, from pixels to logits: what ONNX and torch.export write."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from graft.backbones.transfer_model import Steps, TransferModel
from graft.data.loader import scale_and_shift
from graft.errors import ServingError
from graft.spec import Preprocess


class PixelNetwork(nn.Module):
    """Normalises prepared images and applies every stage and the head, or the trunk alone."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TransferModel, preprocess: Preprocess, trunk_only: bool = False):
        super().__init__()
        parts = model.stages.parts[: model.depth if trunk_only else None]
        steps = [step for part in parts for step in part.steps]
        self.steps = Steps(model.network, steps)
        scale, shift = scale_and_shift(preprocess)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits: (B, crop, crop, 3) uint8 to (B, classes) float32; or activations."""
        normalised = torch.addcmul(self.shift, pixels.float(), self.scale)
        computed: Tensor = self.steps(normalised.permute(0, 3, 1, 2))
        return computed.float()


def as_graph(
    model: TransferModel, preprocess: Preprocess, trunk_only: bool = False
) -> ExportedProgram:
    """Return `PixelNetwork` as a graph for batches of any size.

    Raises:
        ServingError: torch.export does not follow the architecture.
    """
    network = PixelNetwork(model, preprocess, trunk_only).to(memory_format=torch.contiguous_format)
    pixels = torch.zeros(2, preprocess.crop, preprocess.crop, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), quiet(), _plain_attention():
            return torch.export.export(network, (pixels,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as error:  # of many kinds, and torch's own
        raise cannot_be_written(model.stages.arch, "a graph", error) from error


def cannot_be_written(arch: str, form: str, error: Exception) -> ServingError:
    """Return what is raised where torch cannot write an architecture, in its own words."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ServingError(
        f"{arch} cannot be written as {form}: {reason}; --format safetensors exports its weights"
    )


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Have attention made of operations that other engines know, not of torch's own fast one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch deprecates of itself from the person who exports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
