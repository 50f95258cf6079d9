"""The proof that an architecture is cut rightly, on this machine: `graft backbones verify`.

Every check runs on real tensors, the smallest images that the architecture takes, and one
network; nothing here knows how a stage map is written.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import torch
import torchvision
from torch import Tensor, nn

from graft.backbones.model import Steps, TransferModel, build
from graft.backbones.network import OnMeta, make_network
from graft.backbones.steps import owns
from graft.backbones.timm import PREFIX, timm_patch
from graft.spec import Backbone, LinearHead

BATCH = 2
CLASSES = 5
SIDE = 64
SIDES = {"inception_v3": 75, "maxvit_t": 224}
"""Pixels of the images; where 64 does not do, and for vit (two patches)."""

STOCHASTIC = (nn.Dropout, torchvision.ops.StochasticDepth)


@dataclass(frozen=True)
class Check:
    """One property, and what was found."""

    name: str
    passed: bool
    found: str


def small_crop(arch: str) -> int:
    """Return the side of small images that the architecture takes, in pixels."""
    if arch.startswith(PREFIX):
        patch = timm_patch(arch) or 1
        return math.ceil(SIDE / patch) * patch
    if arch.startswith("vit_"):
        return 2 * int(arch.rpartition("_")[2])
    return SIDES.get(arch, SIDE)


def random_model(arch: str) -> TransferModel:
    """Build an architecture for `verify`, with random weights that hide nothing.

    As torchvision initialises it, normalisation is an identity, ViT's head gives zeros, and
    ConvNeXt's blocks next to nothing: steps could be missing unseen.
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
    """Check a model of `small_crop` images and a linear head; its weights are trained a little."""
    checks = [
        ("equal at every depth", _equal_everywhere),
        ("state dict", _round_trip),
        ("frozen stays", _frozen_stays),
    ]
    return [verify_structure(model), *(_run(name, check, model) for name, check in checks)]


def verify_structure(model: TransferModel) -> Check:
    """Check what needs no weights: a model that `build_on_meta` made will do."""
    return _run("owned once", _owned_once, model)


class _CheckError(Exception):
    """A property does not hold; the message is what was found."""


def _run(name: str, check: Callable[[TransferModel], str], model: TransferModel) -> Check:
    try:
        return Check(name, True, check(model))
    except _CheckError as failure:
        return Check(name, False, str(failure))
    except (RuntimeError, ValueError, IndexError) as error:  # what torch raises on unlike shapes
        return Check(name, False, str(error).partition("\n")[0])


def _owned_once(model: TransferModel) -> str:
    """Every tensor, and every layer, is in one stage or in the head, and in no other."""
    parts = [*(stage.steps for stage in model.stages.stages), model.stages.head]
    tensors = list(model.network.state_dict())
    layers = [name for name, m in model.network.named_modules() if not list(m.children())]
    for name in (*tensors, *layers):
        owners = sum(owns(steps, name) for steps in parts)
        if owners != 1:
            raise _CheckError(f"{name} is owned by {owners} parts, expected 1")
    return f"{len(tensors)} tensors, {len(layers)} layers"


@torch.no_grad()
def _equal_everywhere(model: TransferModel) -> str:
    """tail(trunk(x)) is the published network's own output, bit for bit, at every depth."""
    network, stages = model.network.eval(), model.stages
    images = _images(stages.arch)
    expected = network(images)
    if not expected.isfinite().all() or not expected.any():
        raise _CheckError(
            "the network's own output is not finite, or zero: nothing to compare with"
        )
    x = images
    # The activations of every depth, each one stage further than those before.
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
    """What is kept, stage by stage, is all that torchvision's own class needs, strictly."""
    state = model.network.state_dict()
    state.clear()  # torch's version metadata stays
    for index in range(model.depth):
        state.update(model.stage_state(index))
    state.update(model.tail_state())
    with OnMeta():
        theirs = make_network(model.stages.arch, CLASSES, small_crop(model.stages.arch))
    theirs.load_state_dict(state, strict=True, assign=True)
    if any(buffer.is_meta for buffer in theirs.buffers()):  # constants, in no state dict
        theirs = make_network(model.stages.arch, CLASSES, small_crop(model.stages.arch))
        theirs.load_state_dict(state, strict=True)
    images = _images(model.stages.arch)
    if not torch.equal(theirs.eval()(images), model.network.eval()(images)):
        raise _CheckError("with the state dict torchvision's own class gives another output")
    return f"{type(theirs).__name__} loads {len(state)} tensors"


def _frozen_stays(model: TransferModel) -> str:
    """Two steps at a middle depth, in training mode, move the tail and nothing else."""
    depth = len(model.stages.stages) // 2
    model = model.cut(depth)
    frozen = _digests(model)
    model.network.train()
    model.train()
    for module in model.tail.modules():
        if isinstance(module, STOCHASTIC) or type(module).__name__ == "DropPath":  # timm's
            module.eval()  # what they drop gets no gradient
    parameters = dict(model.named_tail_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    before = [value.detach().clone() for value in _head(model)]
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
    if all(torch.equal(a, b) for a, b in zip(before, _head(model), strict=True)):
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
    """Hash what is frozen: copies of the largest networks' trunks would fill the memory."""
    stages = (model.stage_state(index) for index in range(model.depth))
    return {
        name: sha256(value.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
        for stage in stages
        for name, value in stage.items()
    }
