"""The model that is trained and served: torchvision's network, cut into trunk and tail."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from graft.backbones.dropout import Dropout
from graft.backbones.network import OnMeta, make_network, published_sizes
from graft.backbones.stages import StageMap, freeze_depth, stage_map
from graft.backbones.steps import Call, Step, owns
from graft.errors import SpecError
from graft.spec import Backbone, Head, MLPHead

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Steps(nn.Module):
    """Submodules and functions of a network, applied one after another.

    A view: the network keeps owning the modules and parameters that are registered here too.
    """

    def __init__(self, network: nn.Module, steps: Sequence[Step]):
        super().__init__()
        self._own = tuple(steps)
        paths = [step for step in steps if isinstance(step, str)]
        self._modules_in_order = nn.ModuleList(network.get_submodule(path) for path in paths)
        modules = iter(self._modules_in_order)
        self._steps = [
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
        for step in self._steps:
            x = step(x)
        return x

    def owns(self, name: str) -> bool:
        """Whether a parameter or buffer, by torchvision's name, belongs to one of the steps."""
        return owns(self._own, name)


class Trunk(Steps):
    """Frozen stages: no gradient, and always in evaluation mode, whoever says ``.train()``."""

    def __init__(self, network: nn.Module, steps: Sequence[Step]):
        super().__init__(network, steps)
        self.requires_grad_(False)
        self.eval()
        # Not itself: a cycle would keep whole networks until the garbage collector comes by.
        self._all = [module for module in self.modules() if module is not self]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the activations that the tail starts from."""
        if any(module.training for module in self._all):  # network.train() reaches them
            self.eval()
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

    def cut(self, depth: int) -> "TransferModel":
        """Return the same network cut at another depth; this model is to be used no more."""
        return _cut(self.network, self.stages, depth)

    def train(self) -> Self:
        """Put the tail, and only it, into training mode."""
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
        """Load every parameter and buffer, by torchvision's names.

        Raises:
            RuntimeError: names or shapes differ.
        """
        own = self.network.state_dict()
        own.clear()  # what stays is torch's version metadata, without which MNASNet refuses
        own.update(state)
        self.network.load_state_dict(own)

    def stage_of(self, name: str) -> int:
        """Return the index of the stage that owns a parameter or buffer; N for the head's."""
        return self.stages.stage_of(name)

    def tail_state(self) -> dict[str, Tensor]:
        """Return the tail's parameters and buffers under torchvision's names."""
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if self.tail.owns(name)}

    def stage_state(self, index: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of stage `index` under torchvision's names."""
        steps = self.stages.stages[index].steps
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if owns(steps, name)}

    def named_tail_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what the optimiser trains, under torchvision's names."""
        for name, parameter in self.network.named_parameters():
            if self.tail.owns(name):
                yield name, parameter


def build(
    backbone: Backbone, head: Head, classes: int, crop: int, sync_batch_norm: bool = False
) -> TransferModel:
    """Make a model with random weights, drawn from torch's global generator.

    `sync_batch_norm` takes trained BatchNorm statistics over all workers (GPU only).

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
    if isinstance(head, MLPHead) or head.replaces == "classifier":
        path, _, name = stages.last.rpartition(".")
        inputs = _inputs(network.get_submodule(stages.last))
        setattr(network.get_submodule(path), name, _make_head(head, inputs, classes))
    if sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network.to(memory_format=torch.channels_last)
    model = _cut(network, stages, depth)
    if backbone.dropout is not None and not _published_dropout(model):
        raise SpecError(
            f"backbone.dropout has no effect: {backbone.arch} has no dropout layer that is "
            "trained; remove it"
        )
    return model


def check_input(backbone: Backbone, head: Head, crop: int) -> None:
    """Find out, without computing, whether images of a size get through an architecture.

    Raises:
        SpecError: they do not, or `build` refuses the rest.
    """
    model = build_on_meta(backbone, head, classes=2, crop=crop).eval()
    try:
        model(torch.empty(1, 3, crop, crop, device="meta"))
    except RuntimeError as error:
        raise SpecError(
            f"preprocess.crop: {crop} is too small for {backbone.arch}, which is published for "
            f"images of {published_sizes(backbone.arch)}"
        ) from error


def build_on_meta(backbone: Backbone, head: Head, classes: int, crop: int) -> TransferModel:
    """Make a model without memory, for its shapes."""
    with OnMeta():
        model = build(backbone, head, classes, crop)
    return model.to(torch.device("meta")).cut(model.depth)


def _cut(network: nn.Module, stages: StageMap, depth: int) -> TransferModel:
    frozen = [step for stage in stages.stages[:depth] for step in stage.steps]
    trained = [step for stage in stages.stages[depth:] for step in stage.steps]
    tail = Steps(network, [*trained, *stages.head]).requires_grad_(True)
    return TransferModel(stages, depth, network, Trunk(network, frozen), tail)


def _make_head(head: Head, inputs: int, classes: int) -> nn.Module:
    """Make a new head: (B, inputs) to (B, classes)."""
    if not isinstance(head, MLPHead):
        return nn.Linear(inputs, classes)
    layers: list[nn.Module] = []
    for units in head.hidden:
        activation = ACTIVATIONS[head.activation]()
        layers += [nn.Linear(inputs, units), activation, Dropout(head.dropout)]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _inputs(replaced: nn.Module) -> int:
    """Return the features that the first layer of what is replaced takes."""
    for module in replaced.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.Conv2d):  # SqueezeNet's
            return module.in_channels
    raise ValueError("no layer to replace")


def _published_dropout(model: TransferModel) -> bool:
    """Whether the tail has a dropout layer that is the architecture's own."""
    return any(
        isinstance(module, nn.Dropout)
        and model.tail.owns(name)
        and not f"{name}.".startswith(f"{model.stages.last}.")
        for name, module in model.network.named_modules()
    )
