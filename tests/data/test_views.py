"""Views are functions of (seed, image, number) alone."""

import io
import random
import resource

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from graft.data.views import evaluation_view, random_crop, render, view_of_epoch
from graft.spec import NoAugment, Preprocess, StandardAugment

SMALL = Preprocess(resize=40, crop=32)


def picture(width=90, height=60, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (height // 6, width // 6, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (33, 200), (20, 31)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_view_0_is_torchvisions_evaluation_transform(size, interpolation):
    image = picture(*size)
    mode = v2.InterpolationMode(interpolation)
    published = v2.Compose([v2.Resize(40, interpolation=mode), v2.CenterCrop(32)])
    ours = evaluation_view(image, Preprocess(resize=40, crop=32, interpolation=interpolation))
    assert np.array_equal(ours, np.asarray(published(image)))


@pytest.mark.parametrize("size", [(9000, 1), (1, 9000), (4096, 3)])
def test_an_image_of_one_line_costs_no_more_than_others(size):
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = evaluation_view(image, Preprocess(resize=1024, crop=1024))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usage
    assert grown_kb < 200_000
    # The centre is where it was: half-way through the gradient, or the three lines.
    assert pixels.shape == (1024, 1024, 3)
    assert 100 < pixels.mean() < 155


def test_a_view_depends_on_seed_image_and_number_only():
    augment = StandardAugment()
    first = render(picture(), "a", 3, SMALL, augment)
    random.seed(99)
    assert np.array_equal(first, render(picture(), "a", 3, SMALL, augment))
    for other in (
        render(picture(), "b", 3, SMALL, augment),
        render(picture(), "a", 4, SMALL, augment),
        render(picture(), "a", 3, SMALL, StandardAugment(seed=1)),
        render(picture(), "a", 0, SMALL, augment),
    ):
        assert first.shape == other.shape == (32, 32, 3)
        assert not np.array_equal(first, other)


def test_without_flip_nothing_is_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8), (96, 1))).convert("RGB")
    for view in range(1, 30):
        pixels = render(ramp, "ramp", view, SMALL, StandardAugment(flip=0)).astype(int)
        assert pixels[0, 0, 0] < pixels[0, -1, 0]


def test_crops_keep_to_area_and_aspect():
    generator = random.Random(0)
    for _ in range(300):
        left, top, right, bottom = random_crop((300, 200), (0.2, 0.5), (0.75, 4 / 3), generator)
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        area = (right - left) * (bottom - top) / (300 * 200)
        assert 0.19 < area < 0.51
        assert 0.72 < (right - left) / (bottom - top) < 1.38


def test_a_crop_that_never_fits_falls_back_to_the_centre():
    box = random_crop((1000, 10), (0.9, 1.0), (0.75, 4 / 3), random.Random(0))
    assert box == (493, 0, 506, 10)


def test_epochs_rotate_through_the_views():
    live, four = StandardAugment(), StandardAugment(views=4)
    assert [view_of_epoch(live, e) for e in range(6)] == [1, 2, 3, 4, 5, 6]
    assert [view_of_epoch(four, e) for e in range(6)] == [1, 2, 3, 4, 1, 2]
    assert view_of_epoch(NoAugment(kind="none"), 3) == 0


def test_a_png_and_its_pixels_give_the_same_view():
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    again = Image.open(buffer)
    augment = StandardAugment()
    assert np.array_equal(
        render(picture(), "x", 2, SMALL, augment), render(again, "x", 2, SMALL, augment)
    )
