"""A model version in parts: its frozen stages, which other versions may share, and its tail.

Each part has memory for its own tensors alone. One after another, a version's parts compute what
its whole network does, to the last bit.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from graft.backbones.make_network import OnMeta
from graft.backbones.transfer_model import Steps, TransferModel, build
from graft.backbones.trunk import load_stages
from graft.errors import WeightsError
from graft.registry import ModelVersion
from graft.spec import Backbone
from graft.store import Store


def load_stage_parts(
    store: Store, version: ModelVersion, indices: Sequence[int], device: torch.device | None = None
) -> list[Steps]:
    """Return some of a version's frozen stages, ready to compute.

    Raises:
        WeightsError: their tensors are not those of the architecture.
        StoreError: a payload is missing or damaged.
    """
    state = load_stages(store, [version.stages[index] for index in indices])
    model = _with_memory_for(version, state)
    stages = model.stages.stages
    parts = [Steps(model.network, stages[index].steps) for index in indices]
    return [_ready(version, part, device) for part in parts]


def load_tail(store: Store, version: ModelVersion, device: torch.device | None = None) -> Steps:
    """Return a version's tail, ready to compute; errors as those of `load_stage_parts`."""
    return load_tail_model(store, version, device).tail


def load_tail_model(
    store: Store, version: ModelVersion, device: torch.device | None = None
) -> TransferModel:
    """Return a version of which the tail is ready to compute, and nothing else has memory.

    Raises:
        WeightsError: its tensors are not those of the architecture.
        StoreError: a payload is missing or damaged.
    """
    state = load_tensors(store.get_shared(version.folder, version.tail))
    model = _with_memory_for(version, state)
    _ready(version, model.tail, device)
    return model


def tensors_of(part: Steps) -> Iterable[Tensor]:
    """Yield the parameters and buffers of a part."""
    yield from part.parameters()
    yield from part.buffers()


def part_bytes(part: Steps) -> int:
    """Return what a part's tensors take of memory, in bytes."""
    return sum(tensor.nbytes for tensor in tensors_of(part))


def _with_memory_for(version: ModelVersion, state: Mapping[str, Tensor]) -> TransferModel:
    """Return a version's network in which `state` is loaded, and has memory for little else."""
    backbone = Backbone(
        arch=version.arch, weights="none", freeze=version.freeze, dropout=version.dropout
    )
    arguments = (backbone, version.head, len(version.classes), version.contract.crop)
    with OnMeta():
        model = build(*arguments)
    network = model.network
    without_memory = {name for name, buffer in network.named_buffers() if buffer.is_meta}
    if without_memory - network.state_dict().keys():  # its constructor makes them, and no file
        model = build(*arguments)
    try:
        model.load_some(state)
    except RuntimeError as error:
        raise WeightsError(f"{version.ref}: {error}") from error
    return model.cut(model.depth)


def _ready(version: ModelVersion, part: Steps, device: torch.device | None) -> Steps:
    if any(tensor.is_meta for tensor in tensors_of(part)):
        raise WeightsError(f"{version.ref}: tensors of its {version.arch} are missing")
    part = part.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return part.to(device) if device is not None else part
