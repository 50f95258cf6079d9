"""The model that is trained and served: torchvision's network, cut into trunk and tail."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torchvision
from torch import Tensor, nn

from graft.backbones.stages import StageMap, Step, freeze_depth, stage_map
from graft.errors import SpecError
from graft.spec import Backbone, LinearHead


class Steps(nn.Module):
    """Submodules and functions of a network, applied one after another."""

    def __init__(self, network: nn.Module, steps: Sequence[Step]):
        super().__init__()
        self._paths = [step for step in steps if isinstance(step, str)]
        self._modules_in_order = nn.ModuleList(network.get_submodule(path) for path in self._paths)
        modules = iter(self._modules_in_order)
        self._steps = [next(modules) if isinstance(step, str) else step for step in steps]

    def forward(self, x: Tensor) -> Tensor:
        """Apply all steps: (B, ...) to (B, ...)."""
        for step in self._steps:
            x = step(x)
        return x

    def owns(self, name: str) -> bool:
        """Whether a parameter or buffer, by torchvision's name, belongs to one of the steps."""
        return any(name.startswith(f"{path}.") for path in self._paths)


class Trunk(Steps):
    """Frozen stages: no gradient, and always in evaluation mode, also after ``.train()``."""

    def __init__(self, network: nn.Module, steps: Sequence[Step]):
        super().__init__(network, steps)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the activations that the tail starts from."""
        return super().forward(x)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: BatchNorm statistics and dropout in here never act."""
        return super().train(False)


@dataclass(frozen=True)
class TransferModel:
    """A network of which the first `depth` stages are frozen.

    `network` is torchvision's own module and owns every parameter under torchvision's
    names; `trunk` and `tail` are two views of it that share its modules.
    """

    stages: StageMap
    depth: int
    network: nn.Module
    trunk: Trunk
    tail: Steps

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits: (B, 3, crop, crop) float32 to (B, classes)."""
        logits: Tensor = self.tail(self.trunk(x))
        return logits

    def eval(self) -> Self:
        """Put the tail into evaluation mode too."""
        self.tail.eval()
        return self

    def to(self, device: torch.device) -> Self:
        """Move the network to a device."""
        self.network.to(device)
        return self

    def tail_state(self) -> dict[str, Tensor]:
        """Return the tail's parameters and buffers under torchvision's names."""
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if self.tail.owns(name)}

    def stage_state(self, index: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of stage `index` under torchvision's names."""
        paths = tuple(f"{s}." for s in self.stages.stages[index].steps if isinstance(s, str))
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if name.startswith(paths)}

    def named_tail_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what the optimiser trains, under torchvision's names."""
        for name, parameter in self.network.named_parameters():
            if self.tail.owns(name):
                yield name, parameter


def build(
    backbone: Backbone, head: LinearHead, classes: int, sync_batch_norm: bool = False
) -> TransferModel:
    """Make a model with random weights, drawn from torch's global generator.

    `sync_batch_norm` takes trained BatchNorm statistics over all workers (GPU only).

    Raises:
        SpecError: unknown architecture, freeze depth or head, or dropout without effect.
    """
    stages = stage_map(backbone.arch, head)
    depth = freeze_depth(backbone, stages)
    network = torchvision.models.get_model(backbone.arch, weights=None, num_classes=classes)
    if stages.last == "classifier":
        network.classifier = nn.Linear(_inputs(network.classifier), classes)
    if sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network.to(memory_format=torch.channels_last)
    frozen = [step for stage in stages.stages[:depth] for step in stage.steps]
    trained = [step for stage in stages.stages[depth:] for step in stage.steps]
    trunk, tail = Trunk(network, frozen), Steps(network, [*trained, *stages.head])
    if backbone.dropout is not None:
        layers = [module for module in tail.modules() if isinstance(module, nn.Dropout)]
        if not layers:
            raise SpecError(
                f"backbone.dropout has no effect: {backbone.arch} has no dropout layer that is "
                "trained; remove it"
            )
        for layer in layers:
            layer.p = backbone.dropout
    return TransferModel(stages, depth, network, trunk, tail)


def _inputs(classifier: nn.Module) -> int:
    return next(m.in_features for m in classifier.modules() if isinstance(m, nn.Linear))
