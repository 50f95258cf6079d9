"""Steps: what a stage of a backbone is made of.

A step is a submodule's path in the network, a function without parameters, or a `Call`.
No stage may change its input in place: activations are cached and shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Call:
    """A function that needs the network: parameters that no submodule owns, or its settings."""

    function: Callable[[Any, Tensor], Tensor]
    """`function(network, x)`."""
    parameters: tuple[str, ...] = ()
    """Names of the parameters that it reads; they belong to its stage."""


Step = str | Callable[[Tensor], Tensor] | Call
"""A submodule's path in the network, a function without parameters, or a call."""


def owns(steps: Sequence[Step], name: str) -> bool:
    """Whether a parameter, buffer or layer of the network belongs to one of the steps."""
    return any(
        name in step.parameters
        if isinstance(step, Call)
        else isinstance(step, str) and f"{name}.".startswith(f"{step}.")
        for step in steps
    )


def label(step: Step) -> str:
    """Return the name under which a step is shown."""
    if isinstance(step, str):
        return step
    function = step.function if isinstance(step, Call) else step
    return str(getattr(function, "__name__", function)).strip("_")


def flatten(x: Tensor) -> Tensor:
    """(B, ...) to (B, features)."""
    return torch.flatten(x, 1)


def pool(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, 1, 1): the average over each map."""
    return functional.adaptive_avg_pool2d(x, (1, 1))


def mean(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C): the average over each map."""
    return x.mean([2, 3])


def relu(x: Tensor) -> Tensor:
    """Rectify a copy; DenseNet's own does it in place."""
    return functional.relu(x)


def transform_input(network: Any, x: Tensor) -> Tensor:
    """Change ImageNet's normalisation to mean and deviation 0.5, as Inception was trained with."""
    transformed: Tensor = network._transform_input(x)
    return transformed


def embed(network: Any, x: Tensor) -> Tensor:
    """ViT's patches (B, D, H, W) to tokens (B, 1 + H * W, D), the class token first."""
    # Not len(x), a number: a graph of it would take batches of one size.
    tokens = torch.cat([network.class_token.expand(x.shape[0], -1, -1), x.flatten(2).mT], dim=1)
    embedded: Tensor = tokens + network.encoder.pos_embedding
    return embedded


def class_token(x: Tensor) -> Tensor:
    """(B, tokens, D) to (B, D)."""
    return x[:, 0]
