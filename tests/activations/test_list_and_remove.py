"""What is listed, and what is left after a removal."""

import pytest

from activations_lab import Lab, make_lab, objects
from graft.activations.key import CacheEntry
from graft.activations.list_and_remove import list_activations, remove_activations
from graft.backbones.trunk import publish_stages
from graft.errors import InputError, NotFoundError

ENTRIES = (
    CacheEntry("train", 1, 3),
    CacheEntry("val", 0, 3),
    CacheEntry("train", 0, 3),
    CacheEntry("val", 0, 5),
)


@pytest.mark.slow
def test_the_list(lab: Lab) -> None:
    assert list_activations(lab.store) == []
    lab.fill(*ENTRIES)
    lab.fill(CacheEntry("val", 0, 3), dtype="float16")
    by_key = {entry.key: entry for entry in list_activations(lab.store)}
    scheme = lab.cache().keys
    keys = [scheme.key(3, 0), scheme.key(3, 1), scheme.key(5, 0), scheme.key(3, 0, "float16")]
    assert set(by_key) == set(keys)
    ref = lab.dataset.manifest.ref
    assert by_key[keys[0]].datasets == [f"{ref}/train", f"{ref}/val"]
    assert [by_key[key].images for key in keys] == [54, 39, 15, 15]
    stored = {
        key: sum(len(data) for name, data in objects(lab.store, f"{key.folder}/part-").items())
        for key in keys
    }
    assert {key: entry.bytes for key, entry in by_key.items()} == stored
    assert {entry.arch for entry in by_key.values()} == {None}
    publish_stages(lab.store, lab.model, lab.chain)
    named = {entry.key: (entry.arch, entry.stage) for entry in list_activations(lab.store)}
    assert named[keys[0]] == ("squeezenet1_1", lab.model.stages.names[2])


def test_a_trunk_is_removed_by_the_beginning_of_its_digest(local_lab: Lab) -> None:
    local_lab.fill(*ENTRIES)
    three, five = local_lab.chain.digests[3], local_lab.chain.digests[5]
    before = objects(local_lab.store)
    mine = {name: data for name, data in before.items() if name.split("/")[1] == three}
    removed = remove_activations(local_lab.store, three[:10])
    assert removed.trunk == three
    assert removed.views == ("v0", local_lab.cache().keys.key(3, 1).view)
    assert (removed.objects, removed.bytes) == (len(mine), sum(map(len, mine.values())))
    assert objects(local_lab.store) == {k: v for k, v in before.items() if k not in mine}
    with pytest.raises(NotFoundError, match=f"it has those of {five[:12]}$"):
        remove_activations(local_lab.store, three[:10])
    assert local_lab.fill(*ENTRIES).trunk_forwards == 39 + 39 + 15


def test_one_view_is_removed(local_lab: Lab) -> None:
    local_lab.fill(*ENTRIES)
    trunk, view = local_lab.chain.digests[3], local_lab.cache().keys.key(3, 1).view
    with pytest.raises(NotFoundError, match=f"no activations of view 'v2'; it has v0, {view}"):
        remove_activations(local_lab.store, trunk, "v2")
    assert remove_activations(local_lab.store, trunk, "v1").views == (view,)
    assert local_lab.fill(*ENTRIES).trunk_forwards == 39
    assert remove_activations(local_lab.store, trunk, view).views == (view,)


def test_what_is_mapped_is_read_on(local_lab: Lab) -> None:
    entry = CacheEntry("val", 0, 3)
    activations = local_lab.get(entry)
    before = activations.take(activations.digests).clone()
    remove_activations(local_lab.store, activations.key.trunk)
    assert bool((activations.take(activations.digests) == before).all())


def test_unknown_and_ambiguous_trunks(local_lab: Lab) -> None:
    with pytest.raises(NotFoundError, match=r"no activations of a trunk 'ab'.*none at all"):
        remove_activations(local_lab.store, "ab")
    stages = local_lab.model.depth
    local_lab.fill(*(CacheEntry("val", 0, depth) for depth in range(1, stages + 1)))
    other = make_lab(local_lab.store, local_lab.dataset, "timm/test_resnet")
    other.fill(*(CacheEntry("val", 0, depth) for depth in range(1, other.model.depth + 1)))
    digests = sorted([*local_lab.chain.digests[1:], *other.chain.digests[1:]])
    firsts = [digest[0] for digest in digests]
    shared = next(first for first in firsts if firsts.count(first) > 1)
    with pytest.raises(InputError, match=f"trunks begin with '{shared}'"):
        remove_activations(local_lab.store, shared)
    with pytest.raises(NotFoundError):
        remove_activations(local_lab.store, "")
    assert len(list_activations(local_lab.store)) == len(digests)
