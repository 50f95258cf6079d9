"""Images of several models in one forward: what their networks have in common computes once.

A *route* is the parts that an image passes on its way to its model's logits: a whole network in an
engine of its own, or the stages of a trunk, one by one, and then a tail. Models of one trunk have
routes that begin with the same parts. Trunks of different depth part where the shallower one ends.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Part = Callable[[Any], Any]
"""A batch in, a batch of as many rows out: the first part takes prepared images (B, crop, crop, 3)
uint8, the last gives logits (B, classes)."""
Route = tuple[Part, ...]
"""An image's way from its pixels to its model's logits."""


@dataclass(frozen=True)
class Asked:
    """A prepared image, and the way that it takes."""

    route: Route
    image: NDArray[np.uint8]
    """(crop, crop, 3)."""

    @property
    def root(self) -> Part:
        """What all images of one forward begin with: others would share nothing."""
        return self.route[0]


def logits(asked: Sequence[Asked]) -> list[NDArray[np.float32]]:
    """Return the logits of images of one root, each (classes,) of its own model."""
    # Neighbours in this order have the most parts in common.
    order = sorted(range(len(asked)), key=lambda i: [hash(part) for part in asked[i].route])
    images = np.stack([asked[i].image for i in order])
    with torch.inference_mode():
        rows = _rows(images, [asked[i].route for i in order], 0)
        return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]


def _rows(x: Any, routes: Sequence[Route], passed: int) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of images that have passed the same parts, so many, of their ways."""
    start = 0
    for (part, ends), group in groupby(routes, lambda way: (way[passed], len(way) == passed + 1)):
        together = list(group)
        end = start + len(together)
        y = part(x[start:end])
        if ends:
            yield from torch.as_tensor(y).float().cpu().numpy()
        else:
            yield from _rows(y, together, passed + 1)
        start = end
