"""How far two results are apart, and how fast something is."""

import math
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor


def apart(of: Tensor, against: Tensor) -> float:
    """Return the largest difference of two tensors, as a part of the largest number."""
    of, against = of.detach().cpu().double(), against.detach().cpu().double()
    return float((of - against).abs().max() / against.abs().max())


def losses_apart(of: Iterable[float], against: Iterable[float]) -> float:
    """Return the largest difference of two runs' losses, each as a part of the loss."""
    parts = [abs(a - b) / abs(b) for a, b in zip(of, against, strict=True)]
    return math.nan if any(map(math.isnan, parts)) else max(parts)


def weights_apart(
    of: Mapping[str, Tensor], against: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> float:
    """Return the distance (L2) of two tails, as a part of the way that training moved them."""
    names = [name for name, tensor in start.items() if tensor.is_floating_point()]
    distance = sum(float((of[name] - against[name]).double().square().sum()) for name in names)
    way = sum(float((against[name] - start[name]).double().square().sum()) for name in names)
    return math.sqrt(distance / way)


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(step: Callable[[], float], device: torch.device, seconds: float) -> float:
    """Return what a step does in a second; it returns what it did, such as its images.

    Where there are seconds to measure, three steps come first that are not counted.
    """
    for _ in range(3 if seconds else 0):
        step()
    wait(device)
    start, done = time.perf_counter(), 0.0
    while True:
        done += step()
        if time.perf_counter() - start >= seconds:
            wait(device)
            return done / (time.perf_counter() - start)
