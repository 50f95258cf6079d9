"""What the trunk takes for one image, by depth."""

from activations_lab import CROP, Lab
from graft.activations.key import CacheEntry
from graft.activations.measure import time_depths


def test_every_depth_is_measured(local_lab: Lab) -> None:
    timings = time_depths(local_lab.model, CROP)
    assert len(timings) == local_lab.model.depth
    for depth in (1, 5, len(timings)):
        activations = local_lab.direct(CacheEntry("val", 0, depth), [0])
        assert activations.shape[1:] == timings[depth - 1].shape
    seconds = [timing.seconds for timing in timings]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
