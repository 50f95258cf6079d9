"""All architectures of torchvision as cases: a few are fast, one a family slow, all nightly."""

import re

import pytest
import torchvision

from graft.backbones.published_weights import published

ARCHITECTURES = torchvision.models.list_models(module=torchvision.models)
QUICK = 15_000_000
"""Parameters; larger architectures take seconds each, and up to 7 GB."""


def size(arch: str) -> int:
    """Return the number of parameters."""
    return published(arch).meta["num_params"]


def family(arch: str) -> str:
    """Return what architectures share that differ in width, depth and patch alone."""
    return re.match(r"(wide_)?[a-z]+(_v\d)?", arch)[0] + ("_bn" if arch.endswith("_bn") else "")


_BY_FAMILY = {family(arch): arch for arch in sorted(ARCHITECTURES, key=size, reverse=True)}
SMALLEST = set(_BY_FAMILY.values())
"""One of each family."""


FAST = ("resnet18", "squeezenet1_1", "mobilenet_v3_small")
"""Residual blocks, a head that is a convolution, and one with a hidden layer."""


def tier(arch: str) -> object:
    """A few are fast, the smallest of each other family is slow, and the rest nightly."""
    if arch not in SMALLEST:
        return pytest.param(arch, marks=pytest.mark.nightly)
    return pytest.param(arch, marks=() if arch in FAST else pytest.mark.slow)
