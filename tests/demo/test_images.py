"""The demo's images: what a backbone is to learn from must be there to see."""

import numpy as np
import pytest
from PIL import Image

from graft.demo.images import CHARACTERS, SIDE, render_characters

PER_CLASS = 4


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """Each character's images, (4, SIDE, SIDE, 3)."""
    folder = tmp_path_factory.mktemp("characters")
    assert render_characters(folder, PER_CLASS) == PER_CLASS * len(CHARACTERS)
    return {
        character: np.stack(
            [np.asarray(Image.open(f), float) for f in sorted((folder / character).iterdir())]
        )
        for character in CHARACTERS
    }


def test_paper_is_of_one_colour_but_for_noise(characters):
    pixels = np.concatenate(list(characters.values()))
    assert pixels.shape == (PER_CLASS * len(CHARACTERS), SIDE, SIDE, 3)
    corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # (N, 4, 3)
    spread = np.median(corners.std(axis=1))
    assert 5 < spread < 15, "the noise has a standard deviation of 12"
    papers = corners.mean(axis=(1, 2))
    assert (papers < 100).mean() > 0.3 < (papers > 140).mean(), "dark paper, and light"


def test_characters_lie_near_the_middle_and_move_both_ways_on_their_own(characters):
    offsets = []
    for pixels in characters.values():
        for image in pixels:
            paper = np.median(image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
            ink = np.abs(image - paper).mean(axis=2) > 60
            offsets.append(np.argwhere(ink).mean(axis=0) - (SIDE - 1) / 2)
    down, right = np.array(offsets).T
    assert np.abs(np.array(offsets)).mean() < 3
    assert down.std() > 0.5 < right.std()
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.3
