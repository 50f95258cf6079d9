"""The names of cached activations: of which trunk and view, in which dtype, computed by what."""

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from graft.spec import Finetune, NoAugment, StandardAugment

if TYPE_CHECKING:
    import torch

    from graft.backbones.trunk import TrunkChain

Dtype = Literal["float32", "float16"]

BYTES = {"float32": 4, "float16": 2}
"""Bytes of one number, by dtype."""

_NAME = re.compile(r"(v\d+(?:-[0-9a-f]{8})?)-(float32|float16)-(.+)")


@dataclass(frozen=True)
class Key:
    """Activations of one trunk for one view of images.

    The size of the batches they were computed in is no part of it: like the processor, it
    changes them by rounding alone (measured: 1.3e-6 of their maximum), and with it in the key
    every `train.batch_size` of a sweep would pay for the trunk again. All are computed in
    batches of `compute.BATCH_SIZE`, so that they do not depend on anybody's batch size, and an
    index records what each of its shards was computed with.
    """

    trunk: str
    """Trunk digest in hex."""
    view: str
    """As `view_name` gives it."""
    dtype: Dtype
    """Of the stored numbers; float16 is rounded float32, for half the bytes."""
    backend: str
    """As `backend_name` gives it."""

    @property
    def kind(self) -> str:
        """The name of the folder below the trunk's."""
        return f"{self.view}-{self.dtype}-{self.backend}"

    @property
    def folder(self) -> str:
        """The folder in the store that holds the shards and the indexes."""
        return f"activations/{self.trunk}/{self.kind}"

    @classmethod
    def parse(cls, trunk: str, kind: str) -> "Key | None":
        """Return the key of a folder in the store, None where the folder is not a key's."""
        match = _NAME.fullmatch(kind)
        if match is None:
            return None
        view, dtype, backend = match.groups()
        return cls(trunk, view, "float16" if dtype == "float16" else "float32", backend)


@dataclass(frozen=True)
class KeyScheme:
    """What the keys of one model's activations have in common."""

    chain: "TrunkChain"
    augment: NoAugment | StandardAugment
    dtype: Dtype
    backend: str

    def key(self, depth: int, view: int, dtype: Dtype | None = None) -> Key:
        """Return the key of a freeze depth and a view."""
        view_id = view_name(self.augment, view)
        return Key(self.chain.digests[depth], view_id, dtype or self.dtype, self.backend)


def key_scheme(spec: Finetune, chain: "TrunkChain", device: "torch.device | str") -> KeyScheme:
    """Return how the activations of a run are named that computes on `device`."""
    backend = backend_name(device, spec.backbone.arch)
    return KeyScheme(chain, spec.augment, spec.cache_dtype, backend)


@dataclass(frozen=True)
class CacheEntry:
    """The activations of one split, in one view, at one freeze depth: what is found or computed.

    With a `KeyScheme` and a dataset version, it says where they lie in the store.
    """

    split: str
    view: int
    depth: int
    """Frozen stages; 0 stands for the images themselves, of which nothing is cached."""


def view_name(augment: NoAugment | StandardAugment, view: int) -> str:
    """Return the name of view number `view`: ``v0``, or ``v<k>-<what decides its pixels>``.

    The number of views (`augment.views`) decides no pixel, and is left out.
    """
    if view == 0 or isinstance(augment, NoAugment):
        return "v0"
    settings = augment.model_dump(mode="json", exclude={"views"})
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return f"v{view}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def backend_name(device: "torch.device | str", arch: str) -> str:
    """Return what computes a network on a device, such as ``torch2.15-pillow12.3-cpu``.

    Another release of torch rounds differently, and so does another kind of device; another one of
    Pillow may decode and resize differently. timm changes what its networks compute in any release,
    those of the last digit too; torchvision's release follows from torch's.
    """
    releases = [f"{name}{_release(name)}" for name in ("torch", "pillow")]
    if arch.startswith("timm/"):
        releases.append(f"timm{version('timm')}")
    return "-".join((*releases, str(device).partition(":")[0]))


def _release(package: str) -> str:
    major, minor = version(package).partition("+")[0].split(".")[:2]
    return f"{major}.{minor}"
