"""Fitting tensors from a file, or from another model, to a network."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.models.vision_transformer import interpolate_embeddings

from graft.backbones.timm_stages import PREFIX, timm_state
from graft.backbones.transfer_model import TransferModel
from graft.errors import WeightsError

SHOWN = 8
"""Most names that an error lists of those missing, unlike or unknown."""

POSITIONS = "encoder.pos_embedding"
"""ViT's only parameter whose shape depends on the size of the images."""

OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
"""Names in torchvision's files of DenseNet and ViT, and what its networks call them today."""

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Heads for training from scratch, by architecture: in torchvision's files, left out by Graft."""


def fit(model: TransferModel, state: Mapping[str, Tensor], keep_head: bool, source: str) -> None:
    """Copy the tensors `state` into a model; see `fitted_state`."""
    model.load(fitted_state(model, state, keep_head, source))


def fitted_state(
    model: TransferModel, state: Mapping[str, Tensor], keep_head: bool, source: str
) -> dict[str, Tensor]:
    """Return the tensors `state` as a model has them; without `keep_head`, all but its new head's.

    ViT's position embeddings are interpolated to the images that the model is made for, and
    timm's files are converted as timm does it. The model may be on the meta device.

    Raises:
        WeightsError: names, shapes or kinds of numbers differ, or a number is NaN or infinite; the
            message lists all and names `source`.
    """
    current = model.network.state_dict()
    if model.stages.arch.startswith(PREFIX):
        state = timm_state(model.network, state)
    state = _renamed(state, current, AUXILIARY.get(model.stages.arch, ()))
    new_head = "\0" if keep_head else f"{model.stages.last}."  # no name begins with a zero byte
    missing, unlike, not_finite, fitted = [], [], [], {}
    for name, tensor in current.items():
        loaded = state.get(name)
        if loaded is not None and name == POSITIONS and loaded.shape != tensor.shape:
            loaded = _interpolated(model.network, loaded)
        if name.startswith(new_head):
            fitted[name] = tensor
        elif loaded is None and name.endswith("num_batches_tracked"):
            fitted[name] = tensor  # files older than torch 0.4.1 do not have it
        elif loaded is None:
            missing.append(f"{name} {tuple(tensor.shape)}")
        elif loaded.shape != tensor.shape:
            unlike.append(f"{name} is {tuple(loaded.shape)}, expected {tuple(tensor.shape)}")
        elif tensor.is_floating_point() and not loaded.is_floating_point():
            unlike.append(f"{name} is {loaded.dtype}, expected floating-point numbers")
        else:
            fitted[name] = loaded.to(tensor.dtype)
            if not fitted[name].isfinite().all():
                not_finite.append(name)
    unknown = [name for name in state if name not in current and not name.startswith(new_head)]
    if missing or unlike or unknown:
        kinds = (("", unlike), ("missing ", missing), ("unknown ", unknown))
        problems = [kind + _first_few(names) for kind, names in kinds if names]
        advice = _prefix_advice([name.partition(" ")[0] for name in missing], state)
        raise WeightsError(f"{source} does not fit: {'; '.join(problems)}{advice}")
    if not_finite:
        raise WeightsError(
            f"{source} holds numbers that are not finite, in {_first_few(not_finite)}; no training "
            "can mend that: take another copy of the file, or an earlier checkpoint"
        )
    return fitted


def _prefix_advice(missing: list[str], state: Mapping[str, Tensor]) -> str:
    """Say what to remove where every missing name is in a file behind one prefix.

    DataParallel puts `module.` before all names, torch.compile `_orig_mod.`, and training code the
    attribute that holds the backbone.
    """
    if not missing:
        return ""
    ends = f".{missing[0]}"
    prefixes = [name.removesuffix(missing[0]) for name in state if name.endswith(ends)]
    whole = [p for p in prefixes if all(p + name in state for name in missing)]
    if not whole:
        return ""
    return (
        f". Every missing name is there behind {' and behind '.join(map(repr, whole))}; save the "
        f"tensors without it: {{k.removeprefix({whole[0]!r}): v for k, v in state.items() if "
        f"k.startswith({whole[0]!r})}}"
    )


def _renamed(
    state: Mapping[str, Tensor], current: Mapping[str, Tensor], dropped: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return `state` under the names of `current`, without names that begin as in `dropped`."""
    renamed = {}
    for name, value in state.items():
        today = name
        for pattern, new in OLD_NAMES:
            today = pattern.sub(new, today)
        if not name.startswith(dropped):
            renamed[today if today in current else name] = value
    return renamed


def _interpolated(network: Any, positions: Tensor) -> Tensor:
    """Return ViT's position embeddings resized to the images that `network` takes."""
    state: dict[str, Tensor] = OrderedDict({POSITIONS: positions.float()})
    try:
        state = interpolate_embeddings(network.image_size, network.patch_size, state)
    except ValueError:  # made for images that are not square: `fit` reports the shapes
        return positions
    return state[POSITIONS]


def _first_few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
