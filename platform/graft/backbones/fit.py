"""Fitting tensors from a file, or from another model, to a network."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.models.vision_transformer import interpolate_embeddings

from graft.backbones.model import TransferModel
from graft.backbones.timm import PREFIX, timm_state
from graft.errors import WeightsError

SHOWN = 8
"""How many names of a kind an error lists."""

POSITIONS = "encoder.pos_embedding"
"""ViT's only parameter whose shape depends on the size of the images."""

OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
"""torchvision's files of DenseNet and ViT have names that its networks have no more."""

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Heads that torchvision's files hold, for training from scratch, and Graft leaves out."""


def fit(model: TransferModel, state: Mapping[str, Tensor], keep_head: bool, source: str) -> None:
    """Copy `state` into a model, all but what its head replaces unless `keep_head`.

    ViT's position embeddings are interpolated to the size that the model is built for, and
    timm's files changed as timm does.

    Raises:
        WeightsError: names or shapes differ; all are listed, and `source` is named.
    """
    own = model.network.state_dict()
    if model.stages.arch.startswith(PREFIX):
        state = timm_state(model.network, state)
    state = _present(state, own, AUXILIARY.get(model.stages.arch, ()))
    skip = "\0" if keep_head else f"{model.stages.last}."
    missing, unlike, fitted = [], [], {}
    for name, mine in own.items():
        theirs = state.get(name)
        if theirs is not None and name == POSITIONS and theirs.shape != mine.shape:
            theirs = _interpolated(model.network, theirs)
        if name.startswith(skip):
            fitted[name] = mine
        elif theirs is None and name.endswith("num_batches_tracked"):
            fitted[name] = mine  # files older than torch 0.4.1 do not have it
        elif theirs is None:
            missing.append(f"{name} {tuple(mine.shape)}")
        elif theirs.shape != mine.shape:
            unlike.append(f"{name} is {tuple(theirs.shape)}, expected {tuple(mine.shape)}")
        else:
            fitted[name] = theirs.to(mine.dtype)
    unknown = [name for name in state if name not in own and not name.startswith(skip)]
    if missing or unlike or unknown:
        kinds = (("", unlike), ("missing ", missing), ("unknown ", unknown))
        problems = [what + _some(names) for what, names in kinds if names]
        raise WeightsError(f"{source} does not fit: {'; '.join(problems)}")
    model.load(fitted)


def _present(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], dropped: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return `state` under the names of today, without what is dropped."""
    renamed = {}
    for name, value in state.items():
        today = name
        for pattern, new in OLD_NAMES:
            today = pattern.sub(new, today)
        if not name.startswith(dropped):
            renamed[today if today in own else name] = value
    return renamed


def _interpolated(network: Any, positions: Tensor) -> Tensor:
    """Return ViT's position embeddings for the size of image that `network` takes."""
    state: dict[str, Tensor] = OrderedDict({POSITIONS: positions.float()})
    try:
        state = interpolate_embeddings(network.image_size, network.patch_size, state)
    except ValueError:  # not those of a square image: the shapes are reported
        return positions
    return state[POSITIONS]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
