"""What the trunk takes for one image, by depth."""

import itertools
from types import SimpleNamespace

import pytest

from activations_lab import CROP, Lab
from graft.activations.cache_decision import measure_costs
from graft.activations.key import CacheEntry
from graft.activations.time_trunk import time_depths


def test_every_depth_is_measured(local_lab: Lab) -> None:
    timings = time_depths(local_lab.model, CROP)
    assert len(timings) == local_lab.model.depth
    for depth in (1, 5, len(timings)):
        activations = local_lab.direct(CacheEntry("val", 0, depth), [0])
        assert activations.shape[1:] == timings[depth - 1].shape
    seconds = [timing.seconds for timing in timings]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)


def test_a_deeper_trunk_costs_what_its_stages_cost_together(
    local_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()  # a clock on which each stage takes a second, for four images
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("graft.activations.time_trunk.time", clock)
    costs = measure_costs(local_lab.setup, local_lab.dataset.images("train"), "float32")
    depths = range(1, local_lab.model.depth + 1)
    assert {depth: cost.trunk_s for depth, cost in costs.items()} == {d: d / 4 for d in depths}
