"""The forms that a version is exported in: how each is written, and read back to be proved.

What a form needs beyond torch is imported as it is used.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from graft.backbones.transfer_model import TransferModel, build
from graft.cpus import available_cpus
from graft.errors import ResourceError, ServingError
from graft.serving.engines.description import FormName, Network
from graft.serving.engines.engine import OnnxEngine
from graft.serving.engines.golden import Logits
from graft.serving.engines.graph import PixelNetwork, as_graph, cannot_be_written, quiet
from graft.spec import Backbone

IMAGES = "pixels (batch, {crop}, {crop}, 3) uint8, RGB, not normalised"


@dataclass(frozen=True)
class Form:
    """A form that a version is exported in."""

    takes: str
    """What is computed from, as the description says it."""
    engine: str
    """Distribution that runs it."""
    write: Callable[[TransferModel, Network, Path], None]
    read: Callable[[Path, Network], Logits]
    """Return what computes logits by the file, and by what its description says."""

    @property
    def runs_on(self) -> str:
        """The engine and its release, as they are installed here."""
        return f"{self.engine} {release_of(self.engine)}"


def write_onnx(
    model: TransferModel, network: Network, path: Path, trunk_only: bool = False
) -> None:
    """Write a network as an ONNX graph, from pixels to logits, or to its trunk's activations.

    Raises:
        ResourceError: what writes it is not installed.
        ServingError: torch cannot write the architecture.
    """
    _onnx("onnxscript")  # torch imports it
    _onnx("onnxruntime")
    graph = as_graph(model, network.preprocessing, trunk_only)
    names = ["activations"] if trunk_only else ["logits"]
    try:
        with quiet():
            program = torch.onnx.export(
                graph, dynamo=True, input_names=["pixels"], output_names=names, verbose=False
            )
        if program is None:  # as it is only with an `f`
            raise ServingError("torch gave none")
        program.model.metadata_props["graft"] = network.model_dump_json()
        program.save(path)
    except Exception as error:  # of many kinds, and torch's own
        raise cannot_be_written(network.arch, "ONNX", error) from error


def _read_onnx(path: Path, network: Network) -> Logits:
    return OnnxEngine(path, available_cpus()).logits


def _onnx(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ResourceError(
            f"ONNX needs {module}, which is not installed: pip install 'graft-vision[onnx]'"
        ) from error


def _write_program(model: TransferModel, network: Network, path: Path) -> None:
    # A file and not a path: torch asks paths to end in .pt2.
    with path.open("wb") as file:
        torch.export.save(as_graph(model, network.preprocessing), file)


def _read_program(path: Path, network: Network) -> Logits:
    with path.open("rb") as file:
        return _of_module(torch.export.load(file).module())


def _write_tensors(model: TransferModel, network: Network, path: Path) -> None:
    state = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    save_file(state, path, {"graft": network.model_dump_json()})


def _read_tensors(path: Path, network: Network) -> Logits:
    backbone = Backbone(arch=network.arch, weights="none", freeze="all")
    crop = network.preprocessing.crop
    model = build(backbone, network.head, len(network.classes), crop)
    model.load(load_file(path))
    return _of_module(PixelNetwork(model.eval(), network.preprocessing))


def _of_module(module: torch.nn.Module) -> Logits:
    @torch.inference_mode()
    def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        computed: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return computed

    return logits


FORMS: dict[FormName, Form] = {
    "onnx": Form(IMAGES, "onnxruntime", write_onnx, _read_onnx),
    "torch-export": Form(IMAGES, "torch", _write_program, _read_program),
    "safetensors": Form(
        "weights under their published names, for images (batch, 3, {crop}, {crop}) float32, "
        "normalised",
        "torch",
        _write_tensors,
        _read_tensors,
    ),
}
