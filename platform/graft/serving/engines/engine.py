"""What runs a forward: torch, or ONNX Runtime where it is faster, proved alike."""

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.transfer_model import TransferModel
from graft.data.loader import to_tensor
from graft.spec import Contract

EngineName = Literal["torch", "onnxruntime"]


class Engine(Protocol):
    """Computes a version's logits; by one thread at a time."""

    name: EngineName

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (B, classes) of prepared images (B, crop, crop, 3)."""


class TorchEngine:
    """torch, channels_last, with as many threads as its process computes with."""

    name: EngineName = "torch"

    def __init__(
        self, model: TransferModel, contract: Contract, device: torch.device | None = None
    ):
        self._model = model.to(device) if device else model
        self._contract = contract
        self._device = device

    @torch.inference_mode()
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        pixels = to_tensor(images, self._contract, self._device)
        computed: NDArray[np.float32] = self._model(pixels).float().cpu().numpy()
        return computed


class OnnxEngine:
    """ONNX Runtime on CPUs, with threads that sleep while they have no work."""

    name: EngineName = "onnxruntime"

    def __init__(self, graph: Path | bytes, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin take a shared node's CPUs from those who could work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        computed: NDArray[np.float32] = self._session.run(["logits"], {"pixels": images})[0]
        return computed
