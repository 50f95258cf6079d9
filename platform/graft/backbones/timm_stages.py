"""timm's classifiers (`arch: timm/NAME`), cut into stages as torchvision's are.

The library comes with the extra `graft-vision[timm]` and is imported when the first of its
architectures is asked for. A stage map is read off the network itself, made without memory.
Networks, and the names of their parameters, are those of ``timm.create_model(NAME)``.
"""

import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.stage_steps import Call, Step
from graft.backbones.torchvision_stages import Architecture, Stages
from graft.errors import SpecError
from graft.spec import Preprocess, nearest

PREFIX = "timm/"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class HubFile:
    """A file of published weights."""

    url: str
    cached: Path | None
    """The copy in Hugging Face's own cache; None: there is none."""


def timm_architecture(arch: str) -> Architecture:
    """Return the stages and the head of `timm/NAME`.

    Raises:
        SpecError: timm is not installed, has no such architecture, or it has no stage map.
    """
    network = _blank(arch)
    family = type(network).__name__
    if family not in FAMILIES:
        raise SpecError(
            f"backbone.arch: {arch} is a {family}, which has no stage map; of timm's "
            f"architectures those of {', '.join(FAMILIES)} have one"
        )
    return FAMILIES[family](network)


def timm_network(arch: str, classes: int, crop: int) -> nn.Module:
    """Make one of timm's classifiers with random weights, for `crop` where its size is fixed."""
    size = {"img_size": crop} if timm_patch(arch) else {}
    network: nn.Module = _timm().create_model(_name(arch), num_classes=classes, **size)
    return network


def timm_patch(arch: str) -> int | None:
    """Return the pixels that images' sides must be a multiple of; None: any size will do."""
    network = _blank(arch)
    return int(network.patch_embed.feat_ratio()) if hasattr(network, "patch_embed") else None


def timm_weights_names(arch: str) -> tuple[str, ...]:
    """Return the names, NAME.TAG, of published weights; last, the ones that timm would take."""
    name = _name(arch)
    default = f"{name}.{_timm().get_pretrained_cfg(name).tag}"
    names: list[str] = _timm().list_pretrained(f"{name}.*")
    return tuple(sorted(names, key=lambda name: (name == default, name)))


def timm_weights(arch: str, source: str) -> str | None:
    """Return the name of the published weights that `source` means; None: it is a file.

    Raises:
        SpecError: timm is not installed, has no such architecture, or publishes no such weights.
    """
    names = timm_weights_names(arch)
    if source == "imagenet" and not names:
        raise SpecError(
            f"backbone.weights: timm publishes none for {arch}; name a file, or "
            "--set backbone.weights=none"
        )
    if source == "imagenet":
        return names[-1]
    if source in names:
        return source
    looks_like_tag = source.startswith(f"{_name(arch)}.") and not Path(source).exists()
    if looks_like_tag or "_Weights." in source:
        raise SpecError(
            f"backbone.weights: {source} is none of {arch}'s weights{nearest(source, names)}"
        )
    return None


def timm_preprocess(weights: str) -> Preprocess:
    """Return the preprocessing that weights, NAME.TAG, were trained with.

    NAME alone stands for the weights that timm would take. A few were trained on images that timm
    squashes to a square; here the centre is cropped for all.
    """
    config = _timm().get_pretrained_cfg(weights)
    crop = config.input_size[-1]
    return Preprocess(
        resize=int(crop / config.crop_pct),
        crop=crop,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )


def timm_file(weights: str) -> HubFile:
    """Return the file of published weights, NAME.TAG."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    config = _timm().get_pretrained_cfg(weights)
    if not config.hf_hub_id:
        return HubFile(config.url, None)
    file = config.hf_hub_filename or WEIGHTS_FILE
    cached = try_to_load_from_cache(config.hf_hub_id, file)  # no str where it is not there
    url = hf_hub_url(config.hf_hub_id, file)
    return HubFile(url, Path(cached) if isinstance(cached, str) else None)


def timm_state(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a file's tensors as timm would load them.

    They get today's names, and position embeddings are resized to the network's images.
    """
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        with warnings.catch_warnings():  # torch's, about how timm interpolates
            warnings.simplefilter("ignore")
            converted: Mapping[str, Tensor] = convert(dict(state), network)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return state  # another architecture's: `fit` will list what does not fit
    return converted


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise SpecError(
            "backbone.arch: timm's architectures need timm, which is not installed; "
            "pip install 'graft-vision[timm]'"
        ) from error
    return timm


def _name(arch: str) -> str:
    """Return timm's own name of an architecture."""
    name = arch.removeprefix(PREFIX)
    names: list[str] = _timm().list_models()
    if name in names:
        return name
    base = name.partition(".")[0]
    if base in names:
        raise SpecError(
            f"backbone.arch: {arch} names weights too; write arch: {PREFIX}{base} and "
            f"weights: {name}"
        )
    near = ", ".join(PREFIX + n for n in difflib.get_close_matches(name, names, cutoff=0))
    raise SpecError(f"backbone.arch: unknown architecture '{arch}'; the nearest are {near}")


@functools.lru_cache(maxsize=8)
def _blank(arch: str) -> Any:
    """Return an architecture's network without memory, for images of the published size."""
    with torch.device("meta"):
        return _timm().create_model(_name(arch))


def _convnext(network: Any) -> Architecture:
    stages = {"stem": ("stem",), **_children(network, "stages", "stage")}
    return _with_head(network, stages, "norm", "norm_pre")


def _efficientnet(network: Any) -> Architecture:
    stages = {"stem": ("conv_stem", "bn1"), **_children(network, "blocks", "stage")}
    _end(network, stages, "conv_last", "conv_head", "bn2", "global_pool")
    return Architecture(stages, ("classifier",), "classifier")


def _mobilenet_v3(network: Any) -> Architecture:
    stages = {"stem": ("conv_stem", "bn1"), **_children(network, "blocks", "stage")}
    _end(network, stages, "pool", "global_pool")
    _end(network, stages, "hidden", "conv_head", "norm_head", "act2", "flatten")
    return Architecture(stages, ("classifier",), "classifier")


def _regnet(network: Any) -> Architecture:
    stages: Stages = {"stem": ("stem",)}
    stages |= {f"block{n}": (f"s{n}",) for n in range(1, 5)}
    return _with_head(network, stages, "conv_last", "final_conv")


def _resnet(_: Any) -> Architecture:
    stages: Stages = {"stem": ("conv1", "bn1", "act1", "maxpool")}
    stages |= {f"layer{n}": (f"layer{n}",) for n in range(1, 5)}
    stages["layer4"] += ("global_pool",)
    return Architecture(stages, ("fc",), "fc")


def _swin(network: Any) -> Architecture:
    stages = {"stem": ("patch_embed",), **_children(network, "layers", "stage")}
    return _with_head(network, stages, "norm", "norm")


def _vit(network: Any) -> Architecture:
    optional = ("cls_token", "reg_token", "pos_embed")
    tokens = Call(_embed, tuple(name for name in optional if getattr(network, name) is not None))
    stages: Stages = {"stem": ("patch_embed", tokens, "pos_drop", "patch_drop", "norm_pre")}
    stages |= _children(network, "blocks", "layer")
    pool: tuple[Step, ...] = (Call(_patches), "attn_pool") if network.attn_pool else (Call(_pool),)
    _end(network, stages, "norm", "norm", *pool, "fc_norm")
    return Architecture(stages, ("head_drop", "head"), "head")


FAMILIES: dict[str, Callable[[Any], Architecture]] = {
    "ConvNeXt": _convnext,
    "EfficientNet": _efficientnet,
    "MobileNetV3": _mobilenet_v3,
    "RegNet": _regnet,
    "ResNet": _resnet,
    "SwinTransformer": _swin,
    "VisionTransformer": _vit,
}
"""By timm's class. One class makes architectures of many names, such as ResNeSt or DeiT."""


def _children(network: nn.Module, parent: str, stage: str) -> Stages:
    """Make a stage of each child of the submodule `parent`."""
    count = len(list(network.get_submodule(parent).children()))
    return {f"{stage}{n + 1}": (f"{parent}.{n}",) for n in range(count)}


def _end(network: nn.Module, stages: Stages, name: str, *steps: Step) -> None:
    """Add steps as a new stage, or to the last one where they have no parameters."""
    paths = [step for step in steps if isinstance(step, str)]
    if any(list(network.get_submodule(path).parameters()) for path in paths):
        stages[name] = steps
    else:
        stages[list(stages)[-1]] += steps


def _with_head(network: nn.Module, stages: Stages, name: str, first: str) -> Architecture:
    """End the stages with `first` and all of `head` that comes before its dropout.

    timm registers a head's modules in the order in which they are applied.
    """
    steps = [f"head.{child}" for child, _ in network.get_submodule("head").named_children()]
    dropout = steps.index("head.drop")
    _end(network, stages, name, first, *steps[:dropout])
    return Architecture(stages, tuple(steps[dropout:]), "head.fc")


def _embed(network: Any, x: Tensor) -> Tensor:
    """ViT's patches (B, N, D) or (B, H, W, D) to tokens (B, prefix + N, D), with positions."""
    x = x.flatten(1, -2)
    if network.no_embed_class and network.pos_embed is not None:
        x = x + network.pos_embed
    prefix = [
        t.expand(x.shape[0], -1, -1)  # len(x) is a number: see torchvision's `embed`
        for t in (network.cls_token, network.reg_token)
        if t is not None
    ]
    x = torch.cat([*prefix, x], dim=1)
    if network.no_embed_class or network.pos_embed is None:
        return x
    embedded: Tensor = x + network.pos_embed
    return embedded


def _patches(network: Any, x: Tensor) -> Tensor:
    """(B, tokens, D) to (B, pooled tokens, D): the tokens that attention pools over."""
    return x if network.pool_include_prefix else x[:, network.num_prefix_tokens :]


def _pool(network: Any, x: Tensor) -> Tensor:
    """(B, tokens, D) to (B, D)."""
    pooled: Tensor = network.pool(x)
    return pooled
