"""What one image costs, by depth."""

from activations_lab import CROP, Lab
from graft.activations.fill import Wanted
from graft.activations.measure import measure


def test_every_depth_is_measured(local_lab: Lab) -> None:
    costs = measure(local_lab.model, CROP)
    assert len(costs) == local_lab.model.depth
    for depth in (1, 5, len(costs)):
        assert local_lab.direct(Wanted("val", 0, depth), [0]).shape[1:] == costs[depth - 1].shape
    seconds = [cost.seconds for cost in costs]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
