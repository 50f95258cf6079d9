"""The name of cached activations: which trunk, of which view, kept how, computed by what."""

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from graft.spec import NoAugment, StandardAugment

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "float16"]

BYTES = {"float32": 4, "float16": 2}
"""Bytes of one number, by dtype."""

_NAME = re.compile(r"(v\d+(?:-[0-9a-f]{8})?)-(float32|float16)-(.+)")


@dataclass(frozen=True)
class Key:
    """Activations of one trunk for one view of images.

    The size of the batches they were computed in is no part of it. It moves them by rounding
    alone (measured: 1.3e-6 of their maximum), as the processor does that computed them; in
    the key it would have every `train.batch_size` of a sweep pay for the trunk again. So
    that numbers hang on nobody's batch size, all are computed in batches of
    `compute.BATCH_SIZE`, and an index records what each of its shards was computed with.
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
        """Return the key of a folder in the store, None where it is no key's."""
        match = _NAME.fullmatch(kind)
        if match is None:
            return None
        view, dtype, backend = match.groups()
        return cls(trunk, view, "float16" if dtype == "float16" else "float32", backend)


def view_name(augment: NoAugment | StandardAugment, view: int) -> str:
    """Return the name of view number `view`: ``v0``, or ``v<k>-<what decides its pixels>``.

    How many views there are (`augment.views`) decides no pixel, and is left out.
    """
    if view == 0 or isinstance(augment, NoAugment):
        return "v0"
    decides = augment.model_dump(mode="json", exclude={"views"})
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    return f"v{view}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def backend_name(device: "torch.device | str") -> str:
    """Return what computes on a device, such as ``torch2.15-cpu``: another release rounds
    otherwise, and so does another kind of device."""
    major, minor = version("torch").partition("+")[0].split(".")[:2]
    return f"torch{major}.{minor}-{str(device).partition(':')[0]}"
