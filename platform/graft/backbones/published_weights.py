"""What torchvision and timm publish for an architecture: weights, and how images are prepared."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision

from graft.backbones.timm_stages import (
    PREFIX,
    timm_file,
    timm_preprocess,
    timm_weights,
    timm_weights_names,
)
from graft.errors import SpecError
from graft.spec import Preprocess, nearest


@dataclass(frozen=True)
class PublishedWeights:
    """Published weights of one architecture, and where their file is."""

    name: str
    """In torchvision's enum, or timm's NAME.TAG."""
    preprocess: Preprocess
    """What they were trained with."""
    file: str
    """What messages call the file."""
    url: str
    cached: Path | None
    """The copy in the library's own cache; None: there is none."""
    cache_advice: str
    """Where a user may put a copy."""
    recorded_source: str
    """`source` in the store's record of the file."""
    sha256_start: str
    """How the file's SHA-256 begins; empty: not published."""


def find_published(arch: str, source: str) -> PublishedWeights | None:
    """Return the published weights that `backbone.weights` names; None: `source` is a file.

    Raises:
        SpecError: no such weights are published for `arch`, or timm cannot cut it.
    """
    if arch.startswith(PREFIX):
        return _published_by_timm(arch, source)
    return _published_by_torchvision(arch, source)


def published(arch: str) -> Any:
    """Return an architecture's best weights as a member of torchvision's enum.

    For timm/NAME it is NAME, which stands for the weights that timm would take.
    """
    if arch.startswith(PREFIX):
        return arch.removeprefix(PREFIX)
    return torchvision.models.get_model_weights(arch).DEFAULT


def weights_names(arch: str) -> tuple[str, ...]:
    """Return the names of an architecture's published weights, the best ones last.

    Names in torchvision's enum, or timm's NAME.TAG.
    """
    if arch.startswith(PREFIX):
        return timm_weights_names(arch)
    enum = torchvision.models.get_model_weights(arch)
    others = [member.name for member in enum if member is not enum.DEFAULT]
    return tuple(f"{enum.__name__}.{name}" for name in (*others, enum.DEFAULT.name))


def published_sizes(arch: str) -> str:
    """Return the sides of the images that an architecture is published for, in words."""
    if arch.startswith(PREFIX):
        return str(published_preprocess(published(arch)).crop)
    return f"at least {published(arch).meta['min_size'][0]}"


def published_preprocess(weights: Any) -> Preprocess:
    """Return the preprocessing that published weights were trained with.

    `weights` is a member of torchvision's enum, or timm's NAME or NAME.TAG.
    """
    if isinstance(weights, str):
        return timm_preprocess(weights)
    transforms = weights.transforms()
    return Preprocess(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def file_preprocess(arch: str) -> Preprocess:
    """Return the preprocessing assumed for a file of weights: timm's for `arch`, or ImageNet's."""
    if arch.startswith(PREFIX):
        return timm_preprocess(arch.removeprefix(PREFIX))
    return Preprocess()


def _published_by_torchvision(arch: str, source: str) -> PublishedWeights | None:
    if source != "imagenet" and ("_Weights." not in source or "/" in source):
        return None
    enum = torchvision.models.get_model_weights(arch)
    members = {f"{enum.__name__}.{name}": member for name, member in enum.__members__.items()}
    if source != "imagenet" and source not in members:
        raise SpecError(
            f"backbone.weights: {source} is none of {arch}'s weights{nearest(source, members)}"
        )
    member = members.get(source, enum.DEFAULT)
    file = PurePosixPath(urlsplit(member.url).path).name
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    return PublishedWeights(
        name=f"{enum.__name__}.{member.name}",
        preprocess=published_preprocess(member),
        file=file,
        url=member.url,
        cached=cached if cached.exists() else None,
        cache_advice=f"put it at {cached}",
        recorded_source=file,
        sha256_start=file.rpartition("-")[2].partition(".")[0],  # torchvision's naming of files
    )


def _published_by_timm(arch: str, source: str) -> PublishedWeights | None:
    name = timm_weights(arch, source)
    if name is None:
        return None
    hub_file = timm_file(name)
    file = PurePosixPath(urlsplit(hub_file.url).path).name
    return PublishedWeights(
        name=name,
        preprocess=timm_preprocess(name),
        file=f"{name}'s {file}",
        url=hub_file.url,
        cached=hub_file.cached,
        cache_advice="put it into Hugging Face's cache (`hf download`)",
        recorded_source=f"{PREFIX}{name}/{file}",  # no user's file has a name with slashes
        sha256_start="",
    )
