"""What every rival does with a JPEG, and what it answers: Graft's work and Graft's document.

Nothing of Graft is imported: the rivals' environments have none of it. The work is what a model's
description says (docs/exports.md).
"""

import io
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image, ImageOps


class Task:
    """What a model's description says: from a file's bytes to pixels, and the answer."""

    def __init__(self, description: str):
        self.description = json.loads(Path(description).read_text())
        self.contract = self.description["preprocessing"]
        self.classes = self.description["classes"]

    def pixels(self, data: bytes) -> np.ndarray:
        """Decode, shrink, turn, resize and crop: (crop, crop, 3) uint8."""
        contract = self.contract
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        if max(image.size) > contract["max_side"]:
            scale = contract["max_side"] / max(image.size)
            size = [max(1, round(side * scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.BILINEAR)
        image = ImageOps.exif_transpose(image)
        size = [int(contract["resize"] * side / min(image.size)) for side in image.size]
        image = image.resize(size, Image.Resampling[contract["interpolation"].upper()])
        crop = contract["crop"]
        left, top = (round((side - crop) / 2) for side in image.size)
        return np.asarray(image.crop((left, top, left + crop, top + crop)))

    def document(self, logits: np.ndarray, began: float, decoded: float) -> dict[str, Any]:
        """Return what answers an image, of its logits and when its work began."""
        odds = np.exp(logits - logits.max())
        probabilities = odds / odds.sum()
        best = np.argsort(-probabilities, kind="stable")[:5]
        ended = perf_counter()
        return {
            "model": self.description["model"],
            "predictions": [
                {"class": self.classes[i], "probability": float(probabilities[i])} for i in best
            ],
            "timing_ms": {
                "decode": round(1e3 * (decoded - began), 2),
                "predict": round(1e3 * (ended - decoded), 2),
                "total": round(1e3 * (ended - began), 2),
            },
        }


def onnx_session(path: str, threads: int) -> Any:
    """Return ONNX Runtime's session of an exported file, with its own defaults but the threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
