"""Heads: what takes the place of a network's last layer, or of its whole classifier.

One builder for each `head.kind`; a new kind needs an entry in `BUILDERS`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from graft.backbones.dropout import Dropout
from graft.errors import SpecError
from graft.spec import Head, LinearHead, MLPHead, nearest

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def make_head(head: Head, replaced: nn.Module, classes: int) -> nn.Module:
    """Return the head that takes the place of the submodule `replaced`, with random weights.

    `replaced` belongs to a network that was made for `classes`. The head takes what `replaced`
    takes, (B, features), and gives (B, classes).

    Raises:
        SpecError: no builder makes heads of this kind.
    """
    builder = BUILDERS.get(head.kind)
    if builder is None:
        raise SpecError(
            f"head.kind: no builder makes '{head.kind}' heads{nearest(head.kind, BUILDERS)}"
        )
    return builder(head, replaced, classes)


def _linear(head: LinearHead, replaced: nn.Module, classes: int) -> nn.Module:
    if head.replaces == "last":
        return replaced  # it has `classes` outputs already; SqueezeNet's is a convolution
    return nn.Linear(_input_features(replaced), classes)


def _mlp(head: MLPHead, replaced: nn.Module, classes: int) -> nn.Module:
    features = _input_features(replaced)
    layers: list[nn.Module] = []
    for units in head.hidden:
        activation = ACTIVATIONS[head.activation]()
        layers += [nn.Linear(features, units), activation, Dropout(head.dropout)]
        features = units
    return nn.Sequential(*layers, nn.Linear(features, classes))


BUILDERS: dict[str, Callable[[Any, nn.Module, int], nn.Module]] = {"linear": _linear, "mlp": _mlp}
"""By `head.kind`."""


def _input_features(replaced: nn.Module) -> int:
    """Return how many features the first layer of `replaced` takes."""
    for module in replaced.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.Conv2d):  # SqueezeNet's
            return module.in_channels
    raise ValueError("no layer to replace")
