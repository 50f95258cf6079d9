"""What `cache: auto` decides, and the line that says why."""

import pytest

from activations_lab import Lab
from graft.activations.cache_decision import (
    Costs,
    FreeSpace,
    Reads,
    choose_to_cache,
    decide,
    measure,
)
from graft.activations.key import CacheEntry
from graft.errors import ResourceError, SpecError

ANTS = Costs(row_bytes=346_112, trunk_s=0.006, decode_s=0.006)
"""SqueezeNet 1.1 at 224 before its head, on two cores: (512, 13, 13)."""
IN_FRONT = Costs(row_bytes=3_211_264, trunk_s=0.0005, decode_s=0.006, read_bytes_s=2e8)
"""After one cheap layer: (64, 112, 112), on a slow disk."""


def sweep(trials: int, epochs: int = 5, views: int = 5, cached: bool = False) -> list[Reads]:
    train = [
        Reads("train", view, 244, trials * epochs // views, 244 * cached)
        for view in range(1, views + 1)
    ]
    return [Reads("val", 0, 153, trials * (epochs + 1), 153 * cached), *train]


def live(epochs: int, val: int) -> list[Reads]:
    train = [Reads("train", view, 244, 1) for view in range(1, epochs + 1)]
    return [Reads("val", 0, val, epochs + 1), *train]


@pytest.mark.parametrize(
    ("reads", "costs", "cached", "reason"),
    [
        (
            sweep(12),
            ANTS,
            6,
            "cache: 475 MB of activations are read 19 times; computing them once saves about "
            "280 s of 308 s",
        ),
        (
            sweep(12, cached=True),
            ANTS,
            6,
            "cache: 475 MB of activations are read 19 times; all of them are in the store, "
            "which saves about 299 s of 308 s",
        ),
        (
            live(5, 153),
            ANTS,
            1,
            "cache: 53 MB of activations (val) are read 6 times; computing them once saves about "
            "8.6 s of 26 s; train is read too seldom",
        ),
        (
            [Reads("train", 1, 244, 1)],
            ANTS,
            0,
            "not cached: every view is seen once (augment.views: live, or no fewer than epochs)",
        ),
        (
            sweep(12),
            IN_FRONT,
            0,
            "not cached: 4.4 GB of activations are read 19 times; computing, writing and "
            "reading them takes about 443 s, decoding and trunk without it 167 s",
        ),
        (
            [Reads("train", 1, 244, 0.8)],  # a tenth of the labels, eight epochs
            ANTS,
            0,
            "not cached: no more than a part of the images is read once (dataset.labels, "
            "dataset.holdout)",
        ),
    ],
    ids=["a sweep", "a second sweep", "live views", "once", "large rows", "a part once"],
)
def test_auto(reads: list[Reads], costs: Costs, cached: int, reason: str) -> None:
    decision = decide("auto", 12, reads, costs)
    assert decision.reason == reason
    assert bool(decision.cached) == (cached > 0)
    assert len(decision.cached) == cached
    assert (("val", 0) in {(r.split, r.view) for r in decision.cached}) == (cached > 0)
    assert decision.cached_s <= decision.uncached_s


def test_bytes_are_counted_once() -> None:
    decision = decide("auto", 12, sweep(12), ANTS)
    assert decision.nbytes == decision.new_bytes == (153 + 5 * 244) * 346_112
    assert decide("auto", 12, sweep(12, cached=True), ANTS).new_bytes == 0


def test_off_and_on() -> None:
    off = decide("off", 12, sweep(12), ANTS)
    assert (off.reason, off.entries) == ("not cached: cache is off", ())
    on = decide("on", 12, live(5, 153), ANTS)
    assert len(on.entries) == 6
    useless = decide("on", 12, [Reads("train", 1, 244, 1)], ANTS)
    assert useless.cached
    assert useless.reason.startswith("cache: it is on, though 84 MB of activations are read once")


def test_where_there_is_nothing_to_cache() -> None:
    decision = decide("auto", 0, sweep(12), ANTS)
    assert not decision.cached
    assert "nothing is frozen" in decision.reason
    with pytest.raises(SpecError, match="cache: on has no effect: nothing is frozen"):
        decide("on", 0, sweep(12), ANTS)


def test_space_is_shared_by_what_is_decided_one_after_another() -> None:
    space = FreeSpace(store_bytes=1_000_000_000, node_bytes=600_000_000)
    left = space.less(decide("auto", 12, sweep(12), ANTS, space))
    assert left.store_bytes == pytest.approx(525e6, rel=0.01)
    assert not decide("auto", 12, sweep(12), ANTS, left).cached


@pytest.mark.parametrize(
    ("space", "place"),
    [
        (FreeSpace(store_bytes=400_000_000), "the store"),
        (FreeSpace(node_bytes=400_000_000), "the node-local cache"),
    ],
)
def test_too_little_space(space: FreeSpace, place: str) -> None:
    decision = decide("auto", 12, sweep(12), ANTS, space)
    assert decision.reason == (f"not cached: activations take 475 MB, {place} has room for 400 MB")
    with pytest.raises(ResourceError, match=f"475 MB, {place} has room for 400 MB; free some"):
        decide("on", 12, sweep(12), ANTS, space)


def test_what_is_in_the_store_takes_no_more_room_there() -> None:
    assert decide("auto", 12, sweep(12, cached=True), ANTS, FreeSpace(store_bytes=0)).cached


def test_only_what_is_missing_takes_time_and_space() -> None:
    grown = [Reads("train", 1, 1000, 5, cached_images=990)]
    decision = decide("on", 12, grown, ANTS, FreeSpace(store_bytes=20 * ANTS.row_bytes))
    assert (decision.nbytes, decision.new_bytes) == (1000 * ANTS.row_bytes, 10 * ANTS.row_bytes)
    new = decide("on", 12, [Reads("train", 1, 1000, 5)], ANTS)
    whole = decide("on", 12, [Reads("train", 1, 1000, 5, cached_images=1000)], ANTS)
    computing = new.cached_s - whole.cached_s
    assert decision.cached_s - whole.cached_s == pytest.approx(computing / 100)


def test_a_part_of_a_split_is_weighed_against_computing_all_of_it(local_lab: Lab) -> None:
    entry = CacheEntry("train", 1, local_lab.model.depth)
    cache, dataset = local_lab.cache(), local_lab.dataset
    measurement = measure(local_lab.setup, cache.store, dataset.images("train"), cache.keys.dtype)
    (decision,) = choose_to_cache(cache, measurement, "auto", {entry: 1.4})
    images, costs = len(local_lab.dataset.images("train")), decision.costs
    one_s = costs.decode_s + costs.trunk_s
    assert decision.uncached_s == pytest.approx(1.4 * images * one_s)
