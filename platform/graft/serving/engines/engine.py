"""What runs a forward: torch, or ONNX Runtime where it is faster, proved alike."""

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.transfer_model import TransferModel
from graft.data.loader import to_tensor
from graft.errors import ResourceError, ServingError
from graft.serving.routes import Route
from graft.spec import Contract

EngineName = Literal["torch", "onnx"]
EngineSetting = Literal["auto", "torch", "onnx"]
"""`auto`: the one that a race has shown to be the fastest."""


class Engine(Protocol):
    """Computes a version's logits; by one thread at a time."""

    name: EngineName

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (B, classes) of prepared images (B, crop, crop, 3)."""
        ...

    @property
    def in_memory(self) -> Route:
        """The way of an image as far as it never has to be loaded."""
        return (self.logits,)

    def ready_route(self) -> Route | None:
        """Return the way to the logits; None: something has to be loaded first."""
        return self.in_memory

    def route(self) -> Route:
        """Return the way to the logits, loaded where it has to be.

        Raises:
            StoreError: it cannot be.
        """
        return self.in_memory


class TorchEngine(Engine):
    """torch, channels_last, with as many threads as its process computes with."""

    name: EngineName = "torch"

    def __init__(
        self, model: TransferModel, contract: Contract, device: torch.device | None = None
    ):
        self.model = model.to(device) if device else model
        self._contract = contract
        self._device = device

    @torch.inference_mode()
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        pixels = to_tensor(images, self._contract, self._device)
        computed: NDArray[np.float32] = self.model(pixels).float().cpu().numpy()
        return computed


class OnnxEngine(Engine):
    """ONNX Runtime on CPUs, with threads that sleep while they have no work."""

    name: EngineName = "onnx"

    def __init__(self, graph: Path | bytes, threads: int):
        """Load a graph.

        Raises:
            ResourceError: ONNX Runtime is not installed.
            ServingError: it does not take the graph.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ResourceError(
                "ONNX needs onnxruntime, which is not installed: pip install 'graft-vision[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin take a shared node's CPUs from those who could work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds, and ONNX Runtime's own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ServingError(f"ONNX Runtime does not take the graph: {reason}") from error

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        computed: NDArray[np.float32] = self._session.run(None, {"pixels": images})[0]
        return computed
