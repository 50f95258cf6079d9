"""The proof, on this machine, that an architecture is cut correctly: `graft backbones verify`.

Every check runs one network on real tensors, images as small as the architecture takes. Nothing
here knows how a stage map is written.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import torch
import torchvision
from torch import Tensor, nn

from graft.backbones.make_network import OnMeta, make_network
from graft.backbones.stage_steps import owns
from graft.backbones.timm_stages import PREFIX, timm_patch
from graft.backbones.transfer_model import Steps, TransferModel, build
from graft.spec import Backbone, LinearHead

BATCH = 2
CLASSES = 5
SIDE = 64
"""Side of the images in pixels, if the architecture takes it."""
SIDES = {"inception_v3": 75, "maxvit_t": 224}
"""Sides for architectures that do not."""

STOCHASTIC = (nn.Dropout, torchvision.ops.StochasticDepth)
"""Layers that drop something at random in training."""


@dataclass(frozen=True)
class Check:
    """The outcome of checking one property."""

    name: str
    passed: bool
    found: str
    """What was compared, or what is wrong."""


def small_crop(arch: str) -> int:
    """Return the side, in pixels, of small images that an architecture takes."""
    if arch.startswith(PREFIX):
        patch = timm_patch(arch) or 1
        return math.ceil(SIDE / patch) * patch
    if arch.startswith("vit_"):
        return 2 * int(arch.rpartition("_")[2])  # two patches
    return SIDES.get(arch, SIDE)


def random_model(arch: str) -> TransferModel:
    """Build an architecture for `verify`, with random weights that hide no missing step.

    With torchvision's initial weights a missing step could go unseen: normalisation is an identity,
    ViT's head gives zeros, and ConvNeXt's blocks add next to nothing.
    """
    model = build(Backbone(arch=arch, weights="none"), LinearHead(), CLASSES, small_crop(arch))
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand_like(buffer))
    return model


def verify(model: TransferModel) -> list[Check]:
    """Check a model with a linear head for `small_crop` images; two steps of training change it."""
    checks = [
        ("equal at every depth", _equal_everywhere),
        ("state dict", _round_trip),
        ("frozen stays", _frozen_stays),
    ]
    return [verify_structure(model), *(_run(name, check, model) for name, check in checks)]


def verify_structure(model: TransferModel) -> Check:
    """Check what needs no weights; a model from `build_on_meta` is enough."""
    return _run("owned once", _owned_once, model)


class _CheckError(Exception):
    """A property does not hold; the message says what is wrong."""


def _run(name: str, check: Callable[[TransferModel], str], model: TransferModel) -> Check:
    try:
        return Check(name, True, check(model))
    except _CheckError as failure:
        return Check(name, False, str(failure))
    except (RuntimeError, ValueError, IndexError) as error:  # torch's, when shapes do not fit
        return Check(name, False, str(error).partition("\n")[0])


def _owned_once(model: TransferModel) -> str:
    """Every tensor and every layer belongs to exactly one stage, or to the head."""
    tensors = list(model.network.state_dict())
    layers = [name for name, m in model.network.named_modules() if not list(m.children())]
    for name in (*tensors, *layers):
        owners = sum(owns(part.steps, name) for part in model.stages.parts)
        if owners != 1:
            raise _CheckError(f"{name} is owned by {owners} parts, expected 1")
    return f"{len(tensors)} tensors, {len(layers)} layers"


@torch.no_grad()
def _equal_everywhere(model: TransferModel) -> str:
    """At every depth, tail(trunk(x)) is the published network's output, bit for bit."""
    network, stages = model.network.eval(), model.stages
    images = _images(stages.arch)
    expected = network(images)
    if not expected.isfinite().all() or not expected.any():
        raise _CheckError(
            "the network's own output is not finite, or zero: nothing to compare with"
        )
    x = images
    # The activations at every depth: those of the depth before, through one stage more.
    for depth, steps in enumerate([(), *(stage.steps for stage in stages.stages)]):
        x = Steps(network, steps)(x)
        before = x.clone()
        cut = model.cut(depth)
        if not torch.equal(cut.eval().tail(x), expected):
            raise _CheckError(f"at depth {depth} the output differs from torchvision's")
        if not torch.equal(x, before):
            raise _CheckError(f"at depth {depth} the tail changes its input in place")
    if not torch.equal(cut.trunk(images), x):
        raise _CheckError("the trunk is not the chain of its stages")
    return f"{len(stages.stages) + 1} depths, images {tuple(images.shape)}"


@torch.no_grad()
def _round_trip(model: TransferModel) -> str:
    """The stages' and the tail's tensors are exactly what torchvision's own class loads."""
    state = model.network.state_dict()
    state.clear()  # torch's version metadata stays
    for index in range(model.depth):
        state.update(model.stage_state(index))
    state.update(model.tail_state())
    with OnMeta():
        fresh = make_network(model.stages.arch, CLASSES, small_crop(model.stages.arch))
    fresh.load_state_dict(state, strict=True, assign=True)
    if any(buffer.is_meta for buffer in fresh.buffers()):  # constants that no state dict has
        fresh = make_network(model.stages.arch, CLASSES, small_crop(model.stages.arch))
        fresh.load_state_dict(state, strict=True)
    images = _images(model.stages.arch)
    if not torch.equal(fresh.eval()(images), model.network.eval()(images)):
        raise _CheckError("with the state dict torchvision's own class gives another output")
    return f"{type(fresh).__name__} loads {len(state)} tensors"


def _frozen_stays(model: TransferModel) -> str:
    """Two training steps at a middle depth change the tail and nothing else."""
    depth = len(model.stages.stages) // 2
    model = model.cut(depth)
    frozen = _digests(model)
    model.network.train()
    model.train()
    for module in model.tail.modules():
        if isinstance(module, STOCHASTIC) or type(module).__name__ == "DropPath":  # timm's
            module.eval()  # weights that are dropped would get no gradient
    parameters = dict(model.named_tail_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    head_before = [value.detach().clone() for value in _head(model)]
    images = _images(model.stages.arch)
    labels = torch.arange(len(images))
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
        for name, parameter in parameters.items():
            if parameter.grad is None or not parameter.grad.isfinite().all():
                raise _CheckError(f"{name} is trained and has no finite gradient")
        optimizer.step()
    after = _digests(model)
    if moved := [name for name, digest in frozen.items() if after[name] != digest]:
        raise _CheckError(f"{moved[0]} is frozen and moved")
    if all(torch.equal(a, b) for a, b in zip(head_before, _head(model), strict=True)):
        raise _CheckError("the head did not move")
    return f"depth {depth}: {len(frozen)} tensors stayed, {len(parameters)} got gradients"


def _images(arch: str) -> Tensor:
    side = small_crop(arch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, side, side, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def _head(model: TransferModel) -> Iterator[nn.Parameter]:
    return model.network.get_submodule(model.stages.last).parameters()


def _digests(model: TransferModel) -> dict[str, str]:
    """Return hashes of the frozen tensors; copies of large trunks would fill the memory."""
    stages = (model.stage_state(index) for index in range(model.depth))
    return {
        name: sha256(value.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
        for stage in stages
        for name, value in stage.items()
    }
