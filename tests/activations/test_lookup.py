"""What the training loop finds in place of images."""

from activations_lab import Lab, make_lab
from graft.activations.key import CacheEntry
from graft.activations.lookup import NO_ACTIVATIONS, OpenActivations, SharedActivations


def test_open_ones_are_found_and_no_others(local_lab: Lab) -> None:
    entry = CacheEntry("val", 0, 3)
    activations = local_lab.get(entry)
    lookup = OpenActivations({entry: activations})
    assert lookup.find("val", 0, 3) is activations
    assert lookup.find("val", 0, 5) is None
    assert NO_ACTIVATIONS.find("val", 0, 3) is None


def test_trials_share_what_is_open_until_it_is_forgotten(local_lab: Lab) -> None:
    shared = SharedActivations()
    lookup = shared.lookup(local_lab.cache())
    assert lookup.find("val", 0, 0) is None
    assert lookup.find("val", 0, 3) is None
    local_lab.fill(CacheEntry("val", 0, 3))
    assert lookup.find("val", 0, 3) is None  # the store is not asked again
    shared.forget()
    activations = lookup.find("val", 0, 3)
    assert activations is not None
    assert shared.lookup(local_lab.cache()).find("val", 0, 3) is activations
    other = make_lab(local_lab.store, local_lab.dataset, "timm/test_resnet")
    shared.lookup(other.cache())  # lets go of it
    assert shared.lookup(local_lab.cache()).find("val", 0, 3) is not activations
