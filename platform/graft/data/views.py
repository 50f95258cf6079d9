"""Views: a view is one deterministic preprocessing of one image.

View 0 is the evaluation transform. View k > 0 is the k-th augmentation, a function of
(`augment.seed`, image, k) alone: every worker, thread and trial gets the same pixels.

The transforms are our own, since torchvision's draw from a generator that all images share.
"""

import hashlib
import math
import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.spec import NoAugment, Preprocess, StandardAugment

LONGEST = 16
"""Evaluation resizes only the middle of an image that is more than this many times as long as wide:
an image of 9000 by 1 pixels would become 2 million pixels long, of which the centre is used."""

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def view_of_epoch(augment: NoAugment | StandardAugment, epoch: int) -> int:
    """Return the number of the view that `epoch` (from 0) trains on."""
    if isinstance(augment, NoAugment):
        return 0
    return 1 + (epoch if augment.views == "live" else epoch % augment.views)


def render(
    image: Image.Image,
    image_id: str,
    view: int,
    preprocess: Preprocess,
    augment: NoAugment | StandardAugment,
) -> NDArray[np.uint8]:
    """Return view number `view` of a decoded image: (crop, crop, 3) uint8."""
    if view == 0 or isinstance(augment, NoAugment):
        return evaluation_view(image, preprocess)
    return augmented_view(image, image_id, view, preprocess, augment)


def evaluation_view(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize the shorter side and crop the centre: (crop, crop, 3) uint8.

    The pixels equal those of torchvision's Resize and CenterCrop for a PIL image, up to `LONGEST`.
    """
    image = _middle(image)
    short = min(image.size)
    width, height = (int(preprocess.resize * side / short) for side in image.size)
    resized = image.resize((width, height), RESAMPLING[preprocess.interpolation])
    left, top = (round((side - preprocess.crop) / 2.0) for side in (width, height))
    return np.asarray(resized.crop((left, top, left + preprocess.crop, top + preprocess.crop)))


def _middle(image: Image.Image) -> Image.Image:
    """Cut what is longer than `LONGEST` allows off both ends alike."""
    width, height = image.size
    excess_x, excess_y = max(0, width - LONGEST * height), max(0, height - LONGEST * width)
    left, top = excess_x // 2, excess_y // 2
    return image.crop((left, top, width - left, height - top)) if left or top else image


def augmented_view(
    image: Image.Image, image_id: str, view: int, preprocess: Preprocess, augment: StandardAugment
) -> NDArray[np.uint8]:
    """Crop and mirror at random, the crop resized: (crop, crop, 3) uint8."""
    seed = hashlib.sha256(f"{augment.seed}/{image_id}/{view}".encode()).digest()
    generator = random.Random(seed)
    box = random_crop(image.size, augment.scale, augment.ratio, generator)
    side = (preprocess.crop, preprocess.crop)
    pixels = np.asarray(image.resize(side, RESAMPLING[preprocess.interpolation], box=box))
    return pixels[:, ::-1] if generator.random() < augment.flip else pixels


def random_crop(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: random.Random,
) -> tuple[int, int, int, int]:
    """Choose a box (left, top, right, bottom) as torchvision's RandomResizedCrop does.

    The area is uniform in `scale`, the aspect log-uniform in `ratio`. After ten boxes that do
    not fit into the image it is the largest central one whose aspect is allowed.
    """
    width, height = size
    for _ in range(10):
        area = width * height * _uniform(generator, *scale)
        aspect = math.exp(_uniform(generator, math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.random() * (width - w + 1))
            top = int(generator.random() * (height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _uniform(generator: random.Random, low: float, high: float) -> float:
    # Not generator.uniform(): Python promises only that random() stays the same across versions.
    return low + (high - low) * generator.random()
