"""All architectures of torchvision as tests' cases: one a family on each commit, all at night."""

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


def tier(arch: str) -> object:
    """The smallest of a family on each commit, and the others at night."""
    if arch not in SMALLEST:
        return pytest.param(arch, marks=pytest.mark.nightly)
    return pytest.param(arch, marks=pytest.mark.slow if size(arch) > QUICK else ())
