"""timm's classifiers (`arch: timm/NAME`), cut into stages as torchvision's are.

The library comes with the extra `graft[timm]` and is imported when the first of its
architectures is asked for. A map is read off the network itself, built without memory.
Networks are those of ``timm.create_model(NAME)``, and so are the names of their parameters.
"""

import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.maps import Architecture, Stages
from graft.backbones.steps import Call, Step
from graft.errors import SpecError
from graft.spec import Preprocess, nearest

PREFIX = "timm/"
WEIGHTS_FILE = "model.safetensors"


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
    """Make one of timm's classifiers with random weights, where it is built for a size `crop`."""
    sized = {"img_size": crop} if timm_patch(arch) else {}
    network: nn.Module = _timm().create_model(_name(arch), num_classes=classes, **sized)
    return network


def timm_patch(arch: str) -> int | None:
    """Return the pixels that the side of images must be a multiple of; None where any will do."""
    network = _blank(arch)
    return int(network.patch_embed.feat_ratio()) if hasattr(network, "patch_embed") else None


def timm_weights_names(arch: str) -> tuple[str, ...]:
    """Return the names, NAME.TAG, of published weights; those that timm itself would take last."""
    name = _name(arch)
    default = f"{name}.{_timm().get_pretrained_cfg(name).tag}"
    names: list[str] = _timm().list_pretrained(f"{name}.*")
    return tuple(sorted(names, key=lambda known: (known == default, known)))


def timm_weights(arch: str, source: str) -> str | None:
    """Return the name of published weights, `imagenet` resolved; None where `source` is a file.

    Raises:
        SpecError: as `timm_architecture`, or timm publishes no such weights.
    """
    known = timm_weights_names(arch)
    if source == "imagenet" and not known:
        raise SpecError(
            f"backbone.weights: timm publishes none for {arch}; name a file, or "
            "--set backbone.weights=none"
        )
    if source == "imagenet" or source in known:
        return known[-1] if source == "imagenet" else source
    named = source.startswith(f"{_name(arch)}.") and not Path(source).exists()
    if named or "_Weights." in source:
        raise SpecError(
            f"backbone.weights: {source} is none of {arch}'s weights{nearest(source, known)}"
        )
    return None


def timm_preprocess(weights: str) -> Preprocess:
    """Return what weights were trained with: NAME.TAG, or NAME for those that timm would take.

    timm squashes images to a square for a few of them; here the centre is cropped for all.
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


def timm_file(weights: str) -> tuple[str, Path | None]:
    """Return the address of published weights' file, and its path in Hugging Face's own cache."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    config = _timm().get_pretrained_cfg(weights)
    if not config.hf_hub_id:
        return config.url, None
    file = config.hf_hub_filename or WEIGHTS_FILE
    cached = try_to_load_from_cache(config.hf_hub_id, file)
    return hf_hub_url(config.hf_hub_id, file), Path(cached) if isinstance(cached, str) else None


def timm_state(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a file's tensors as timm would load them: today's names, positions for the crop."""
    change = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if change is None:
        return state
    try:
        with warnings.catch_warnings():  # torch's, about how timm interpolates
            warnings.simplefilter("ignore")
            changed: Mapping[str, Tensor] = change(dict(state), network)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return state  # of another architecture: what does not fit is going to be listed
    return changed


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise SpecError(
            "backbone.arch: timm's architectures need timm, which is not installed; "
            "pip install 'graft[timm]'"
        ) from error
    return timm


def _name(arch: str) -> str:
    """Return timm's own name of an architecture."""
    name = arch.removeprefix(PREFIX)
    known: list[str] = _timm().list_models()
    if name in known:
        return name
    base = name.partition(".")[0]
    if base in known:
        raise SpecError(
            f"backbone.arch: {arch} names weights too; write arch: {PREFIX}{base} and "
            f"weights: {name}"
        )
    near = ", ".join(PREFIX + n for n in difflib.get_close_matches(name, known, cutoff=0))
    raise SpecError(f"backbone.arch: unknown architecture '{arch}'; the nearest are {near}")


@functools.lru_cache(maxsize=8)
def _blank(arch: str) -> Any:
    """Return an architecture's network without memory, in its published size."""
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
    read = ("cls_token", "reg_token", "pos_embed")
    tokens = Call(_embed, tuple(name for name in read if getattr(network, name) is not None))
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
"""By class: timm builds architectures of many names, ResNeSt or DeiT, with one of them."""


def _children(network: nn.Module, parent: str, stage: str) -> Stages:
    """Each child of a submodule is a stage."""
    count = len(list(network.get_submodule(parent).children()))
    return {f"{stage}{n + 1}": (f"{parent}.{n}",) for n in range(count)}


def _end(network: nn.Module, stages: Stages, name: str, *steps: Step) -> None:
    """Add steps as a stage of their own, or to the last stage where they have no parameters."""
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
    at = steps.index("head.drop")
    _end(network, stages, name, first, *steps[:at])
    return Architecture(stages, tuple(steps[at:]), "head.fc")


def _embed(network: Any, x: Tensor) -> Tensor:
    """ViT's patches (B, N, D) or (B, H, W, D) to tokens (B, prefix + N, D), with positions."""
    x = x.flatten(1, -2)
    if network.no_embed_class and network.pos_embed is not None:
        x = x + network.pos_embed
    prefix = [
        t.expand(len(x), -1, -1) for t in (network.cls_token, network.reg_token) if t is not None
    ]
    x = torch.cat([*prefix, x], dim=1)
    if network.no_embed_class or network.pos_embed is None:
        return x
    embedded: Tensor = x + network.pos_embed
    return embedded


def _patches(network: Any, x: Tensor) -> Tensor:
    """(B, tokens, D) to those that attention pools over."""
    return x if network.pool_include_prefix else x[:, network.num_prefix_tokens :]


def _pool(network: Any, x: Tensor) -> Tensor:
    """(B, tokens, D) to (B, D)."""
    pooled: Tensor = network.pool(x)
    return pooled
