"""What a training step minimises: class weights, smoothed labels, mixed images."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchvision.transforms import v2

from graft.errors import SpecError
from graft.spec import Train
from graft.training.metrics import image_losses


@dataclass(frozen=True)
class Objective:
    """Turns a batch into what the network sees, and its logits into losses."""

    class_weights: Tensor | None
    """(C,) float32."""
    label_smoothing: float
    mixing: v2.Transform | None
    adjustment: Tensor | None = None
    """(C,) float32, added to logits before the loss."""

    @classmethod
    def of(
        cls, train: Train, labels: ArrayLike, classes: tuple[str, ...], device: torch.device
    ) -> Self:
        """Make the objective for a training set with these labels.

        Raises:
            SpecError: `train.class_weights` does not name the dataset's classes.
        """
        weights = class_weights(train, labels, classes)
        mixes: list[v2.Transform] = []
        if train.mixup_alpha:
            mixes.append(v2.MixUp(alpha=train.mixup_alpha, num_classes=len(classes)))
        if train.cutmix_alpha:
            mixes.append(v2.CutMix(alpha=train.cutmix_alpha, num_classes=len(classes)))
        return cls(
            None if weights is None else weights.to(device),
            train.label_smoothing,
            v2.RandomChoice(mixes) if mixes else None,
            logit_adjustment(train, labels, len(classes), device),
        )

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images of a batch with each other: (B, 3, H, W), (B,) to images and targets.

        Targets are (B, C) probabilities where images are mixed, else the labels. A worker
        mixes within its own part of the batch; torch's generator of the CPU decides how.
        """
        if self.mixing is None or len(images) < 2:
            return images, labels
        mixed, targets = self.mixing(images, labels)
        return mixed.contiguous(memory_format=torch.channels_last), targets

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return each image's loss: (B, C) logits to (B,)."""
        if self.adjustment is not None:
            logits = logits + self.adjustment
        return image_losses(logits, targets, self.class_weights, self.label_smoothing)


def logit_adjustment(
    train: Train, labels: ArrayLike, classes: int, device: torch.device
) -> Tensor | None:
    """Return what logits of training get: (C,), the logarithms of the classes' shares; or None."""
    if not train.logit_adjustment:
        return None
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    logs = train.logit_adjustment * np.log(counts / counts.sum())
    return torch.tensor(logs, dtype=torch.float32, device=device)


def class_weights(train: Train, labels: ArrayLike, classes: tuple[str, ...]) -> Tensor | None:
    """Return (C,) weights under which the mean training image weighs 1, None for equal ones.

    Raises:
        SpecError: `train.class_weights` does not name the dataset's classes.
    """
    if train.class_weights == "none":
        return None
    counts = np.bincount(labels, minlength=len(classes))
    if train.class_weights == "balanced":
        weights = 1.0 / np.maximum(counts, 1)
    else:
        weighted = set(train.class_weights)
        differences = {"missing": set(classes) - weighted, "unknown": weighted - set(classes)}
        problems = [f"{problem} {', '.join(sorted(n))}" for problem, n in differences.items() if n]
        if problems:
            raise SpecError(
                f"train.class_weights has to name every class of the dataset: {'; '.join(problems)}"
            )
        weights = np.array([train.class_weights[name] for name in classes])
    weights *= counts.sum() / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)
