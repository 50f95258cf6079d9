"""The model that is trained and served: a published network, cut into trunk and tail.

The network stays torchvision's (or timm's) own module and owns all tensors under its own names;
"published name" below means a parameter's or buffer's name in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from graft.backbones.dropout import Dropout
from graft.backbones.heads import make_head
from graft.backbones.make_network import OnMeta, make_network
from graft.backbones.published_weights import published_sizes
from graft.backbones.stage_map import StageMap, freeze_depth, stage_map
from graft.backbones.stage_steps import Call, Step, owns
from graft.errors import SpecError
from graft.spec import Backbone, Head


class Steps(nn.Module):
    """Submodules and functions of a network, applied one after another.

    A view: the modules and parameters registered here still belong to the network.
    """

    def __init__(self, network: nn.Module, steps: Sequence[Step]):
        super().__init__()
        self._steps = tuple(steps)
        paths = [step for step in steps if isinstance(step, str)]
        self._modules_in_order = nn.ModuleList(network.get_submodule(path) for path in paths)
        modules = iter(self._modules_in_order)
        self._functions = [
            next(modules)
            if isinstance(step, str)
            else partial(step.function, network)
            if isinstance(step, Call)
            else step
            for step in steps
        ]
        for step in steps:
            for name in step.parameters if isinstance(step, Call) else ():
                self.register_parameter(name.replace(".", "_"), network.get_parameter(name))

    def forward(self, x: Tensor) -> Tensor:
        """Apply all steps: (B, ...) to (B, ...)."""
        for function in self._functions:
            x = function(x)
        return x

    def owns(self, name: str) -> bool:
        """Whether a parameter or buffer, by its published name, belongs to one of the steps."""
        return owns(self._steps, name)


class Trunk(Steps):
    """Frozen stages: without gradients, and in evaluation mode even after ``.train()``."""

    def __init__(self, network: nn.Module, steps: Sequence[Step]):
        super().__init__(network, steps)
        self.requires_grad_(False)
        self.eval()
        # Without the trunk itself: in a reference cycle, whole networks would stay in memory until
        # the garbage collector runs.
        self._inner = [module for module in self.modules() if module is not self]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the activations that the tail starts from: (B, 3, crop, crop) to (B, ...)."""
        if any(module.training for module in self._inner):  # network.train() reaches them
            self.eval()
        return super().forward(x)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: no BatchNorm statistic moves, and nothing is dropped."""
        return super().train(False)


@dataclass(frozen=True)
class TransferModel:
    """A network of which the first `depth` stages are frozen.

    `network` is the published module and owns every parameter; `trunk` and `tail` are two views
    of it that share its modules.
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

    def cut(self, depth: int) -> "TransferModel":
        """Return the same network cut at another depth; do not use this model afterwards."""
        return _cut(self.network, self.stages, depth)

    def train(self) -> Self:
        """Put the tail alone into training mode."""
        self.trunk.eval()
        self.tail.train()
        return self

    def eval(self) -> Self:
        """Put the tail into evaluation mode too."""
        self.tail.eval()
        return self

    def to(self, device: torch.device) -> Self:
        """Move the network to a device."""
        self.network.to(device)
        return self

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load every parameter and buffer, by published names.

        Raises:
            RuntimeError: names or shapes differ.
        """
        self.network.load_state_dict(self._with_metadata(state))

    def load_some(self, state: Mapping[str, Tensor]) -> None:
        """Take these tensors, by published names, as parameters and buffers: without a copy.

        Cut the model again before it computes: its views still have the former ones.

        Raises:
            RuntimeError: there is none of that name and shape.
        """
        loaded = self.network.load_state_dict(self._with_metadata(state), strict=False, assign=True)
        if loaded.unexpected_keys:
            raise RuntimeError(f"it has no {', '.join(loaded.unexpected_keys)}")

    def _with_metadata(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        complete = self.network.state_dict()
        complete.clear()  # torch's version metadata stays; without it MNASNet refuses
        complete.update(state)
        return complete

    def stage_of(self, name: str) -> int:
        """Return the index of the stage that owns a parameter or buffer; N for the head's."""
        return self.stages.stage_of(name)

    def tail_state(self) -> dict[str, Tensor]:
        """Return the tail's parameters and buffers under their published names."""
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if self.tail.owns(name)}

    def stage_state(self, index: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of stage `index` under their published names."""
        steps = self.stages.stages[index].steps
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if owns(steps, name)}

    def named_tail_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the optimiser trains, under their published names."""
        for name, parameter in self.network.named_parameters():
            if self.tail.owns(name):
                yield name, parameter


def build(
    backbone: Backbone, head: Head, classes: int, crop: int, sync_batch_norm: bool = False
) -> TransferModel:
    """Make a model with random weights, drawn from torch's global generator.

    With `sync_batch_norm`, trained BatchNorm layers take statistics over all workers (GPU only).

    Raises:
        SpecError: unknown architecture, freeze depth or head, a crop that the architecture
            cannot be built for, or dropout without effect.
    """
    stages = stage_map(backbone.arch, head)
    depth = freeze_depth(backbone.freeze, stages)
    network = make_network(backbone.arch, classes, crop)
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Dropout):
            # Never in place: as a tail's first layer it would change cached activations.
            probability = module.p if backbone.dropout is None else backbone.dropout
            network.set_submodule(path, Dropout(probability))
    new_head = make_head(head, network.get_submodule(stages.last), classes)
    network.set_submodule(stages.last, new_head)
    if sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network.to(memory_format=torch.channels_last)
    model = _cut(network, stages, depth)
    if backbone.dropout is not None and not _has_published_dropout(model):
        raise SpecError(
            f"backbone.dropout has no effect: {backbone.arch} has no dropout layer that is "
            "trained; remove it"
        )
    return model


def check_input(backbone: Backbone, head: Head, crop: int) -> None:
    """Check, without computing, that an architecture takes images of `crop` x `crop` pixels.

    Raises:
        SpecError: it does not, or `build` refuses backbone or head.
    """
    model = build_on_meta(backbone, head, classes=2, crop=crop).eval()
    try:
        model(torch.empty(1, 3, crop, crop, device="meta"))
    except RuntimeError as error:
        raise SpecError(
            f"preprocess.crop: {crop} is too small for {backbone.arch}, which is published for "
            f"images of {published_sizes(backbone.arch)}"
        ) from error


def build_on_meta(
    backbone: Backbone, head: Head, classes: int, crop: int, sync_batch_norm: bool = False
) -> TransferModel:
    """Make a model whose tensors have shapes and no memory; arguments and errors as `build`'s."""
    with OnMeta():
        model = build(backbone, head, classes, crop, sync_batch_norm)
    return model.to(torch.device("meta")).cut(model.depth)


def _cut(network: nn.Module, stages: StageMap, depth: int) -> TransferModel:
    frozen = [step for stage in stages.stages[:depth] for step in stage.steps]
    trained = [step for stage in stages.stages[depth:] for step in stage.steps]
    tail = Steps(network, [*trained, *stages.head]).requires_grad_(True)
    return TransferModel(stages, depth, network, Trunk(network, frozen), tail)


def _has_published_dropout(model: TransferModel) -> bool:
    """Whether the tail has a dropout layer outside the new head."""
    return any(
        isinstance(module, nn.Dropout)
        and model.tail.owns(name)
        and not f"{name}.".startswith(f"{model.stages.last}.")
        for name, module in model.network.named_modules()
    )
