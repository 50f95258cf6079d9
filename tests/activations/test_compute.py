"""Cached activations are the trunk's own, bit for bit, however they came to be."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from activations_lab import BATCH, Lab, make_lab, objects
from graft.activations.cache import Activations
from graft.activations.compute import FillTask, Start, compute_task
from graft.activations.index import Indexed
from graft.activations.key import CacheEntry
from graft.data.digests import hexadecimal
from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, open_dataset
from graft.errors import SpecError, StoreError

ARCHITECTURES = ["squeezenet1_1", "timm/test_resnet", "shufflenet_v2_x0_5"]
"""The second with BatchNorm, the third with maps that are not channels_last."""


@pytest.fixture(params=ARCHITECTURES)
def any_lab(request: pytest.FixtureRequest, local_lab: Lab) -> Lab:
    """Each architecture over `colours`, in a directory."""
    return make_lab(local_lab.store, local_lab.dataset, request.param)


def test_they_are_the_trunks_bit_for_bit_at_every_depth_and_view(any_lab: Lab) -> None:
    last = any_lab.model.depth
    entries = [
        CacheEntry(split, view, depth)
        for split, view in (("val", 0), ("train", 0), ("train", 1), ("train", 2))
        for depth in (1, last - 1, last)
    ]
    filled = any_lab.fill(*entries)
    # One decode and one pass for all depths of a view; 39 images train, 15 validate.
    assert filled.decoded == filled.trunk_forwards == 15 + 3 * 39
    assert filled.images == 3 * filled.decoded
    for entry in entries:
        activations = filled.activations[entry]
        total = len(any_lab.dataset.images(entry.split))
        order = np.random.default_rng(0).permutation(total)  # other company, other places
        for rows in (range(BATCH), order[:BATCH], order[-BATCH:]):
            direct = any_lab.direct(entry, list(rows))
            taken = activations.take(any_lab.digests(entry.split, list(rows)))
            assert torch.equal(taken, direct)
            assert taken.shape[1:] == activations.shape
            assert taken.dtype == torch.float32
            assert taken.stride() == direct.contiguous(memory_format=_format(direct)).stride()


def _format(x: torch.Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def test_another_batch_size_moves_them_by_rounding_alone(any_lab: Lab) -> None:
    entry = CacheEntry("val", 0, any_lab.model.depth)
    activations = any_lab.get(entry)
    direct = any_lab.direct(entry, range(3))
    taken = activations.take(any_lab.digests("val", range(3)))
    assert (taken - direct).abs().max() <= 1e-5 * direct.abs().max()


def test_a_deeper_trunk_goes_on_from_a_shallower_one(any_lab: Lab, tmp_path: Path) -> None:
    last = any_lab.model.depth
    for depth in (2, last - 1):
        any_lab.fill(CacheEntry("train", 1, depth))
    filled = any_lab.fill(CacheEntry("train", 1, last))
    assert (filled.decoded, filled.trunk_forwards) == (0, 39)
    images = any_lab.dataset.images("train")
    task = FillTask("train", 1, images, {last: any_lab.cache().keys.key(last, 1)}, start=None)
    direct = compute_task(any_lab.store, any_lab.setup, task)
    # The same bits are the same object.
    parts = tuple(each.part for each in direct[last])
    assert parts == filled.activations[CacheEntry("train", 1, last)].parts


def test_only_whole_numbers_are_gone_on_from(local_lab: Lab) -> None:
    local_lab.fill(CacheEntry("val", 0, 3), dtype="float16")
    assert local_lab.fill(CacheEntry("val", 0, 5), dtype="float16").decoded == 15
    local_lab.fill(CacheEntry("val", 0, 4))
    assert local_lab.fill(CacheEntry("val", 0, 6), dtype="float16").decoded == 0


def test_float16_is_rounded_float32(any_lab: Lab) -> None:
    entry = CacheEntry("val", 0, any_lab.model.depth)
    exact, half = any_lab.get(entry), any_lab.get(entry, dtype="float16")
    assert half.nbytes * 2 == exact.nbytes
    rows = any_lab.digests("val", [3, 1, 14])
    expected = exact.take(rows)
    taken = half.take(rows)
    assert taken.dtype == torch.float32
    assert taken.stride() == expected.stride()
    assert torch.equal(taken, expected.half().float())
    assert (taken - expected).abs().max() <= 2**-11 * expected.abs().max()


def test_numbers_too_large_for_float16_are_refused(local_lab: Lab) -> None:
    with torch.no_grad():
        next(local_lab.model.network.parameters()).mul_(1e6)
    with pytest.raises(SpecError, match=r"do not fit into float16.*float32"):
        local_lab.fill(CacheEntry("val", 0, 1), dtype="float16")
    assert objects(local_lab.store) == {}


def test_what_a_shard_is(lab: Lab) -> None:
    activations = lab.get(CacheEntry("train", 0, 3))
    (part,) = activations.parts
    (own,) = activations.indexed.each()
    images = lab.digests("train", range(39))
    assert own.rows.digests[np.argsort(own.rows.row)].tolist() == images.tolist()
    assert (part.batch_size, part.threads) == (BATCH, 1)
    # Any reader of safetensors reads it.
    (rows,) = load(lab.store.get(activations.key.folder, part.shard)).values()
    channels, height, width = activations.shape
    assert rows.shape == (39, height, width, channels)
    assert torch.equal(activations.take(images).permute(0, 2, 3, 1), rows)


def test_consecutive_rows_are_the_mapped_file_itself(local_lab: Lab) -> None:
    activations = local_lab.get(CacheEntry("train", 0, 3))
    images = activations.digests
    every = activations.take(images)
    some = activations.take(images[4:9])
    assert some.data_ptr() == every.data_ptr() + 4 * every.stride(0) * 4
    assert every.data_ptr() % 4096 == 0
    assert every.is_contiguous(memory_format=torch.channels_last)
    # Another reader of the process shares the mapping.
    again = Activations(local_lab.store, activations.key, activations.indexed)
    assert again.take(images).data_ptr() == every.data_ptr()


def test_rows_come_from_several_shards_and_may_repeat(local_lab: Lab) -> None:
    key = local_lab.cache().keys.key(3, 0)
    images = local_lab.dataset.images("train")
    whole = local_lab.get(CacheEntry("train", 0, 3))
    row_bytes = whole.nbytes // len(whole)
    task = FillTask("train", 0, images, {3: key}, start=None)
    progress: list[int] = []
    parts = compute_task(
        local_lab.store,
        local_lab.setup,
        task,
        progress=progress.append,
        shard_bytes=5 * row_bytes + 1,
    )[3]
    assert progress == [8, 16, 24, 32, 39]
    assert [each.part.row_count for each in parts] == [5] * 7 + [4]
    divided = Activations(local_lab.store, key, Indexed.of(parts))
    for rows in ([3, 4], [4, 5, 6], [38, 0, 17, 17, 2], list(range(39))):
        digests = local_lab.digests("train", rows)
        assert torch.equal(divided.take(digests), whole.take(digests))
        assert divided.take(digests).stride() == whole.take(digests).stride()
    other = local_lab.digests("val", [0])
    with pytest.raises(StoreError, match=f"lacks 1 of 1 images, such as {hexadecimal(other)[0]}"):
        divided.take(other)
    asked = np.concatenate([other, local_lab.digests("train", [0])])
    assert divided.has(asked).tolist() == [False, True]


def test_depths_that_make_no_sense(local_lab: Lab) -> None:
    activations = local_lab.get(CacheEntry("val", 0, 4))
    four = Start(4, activations.key, tuple(activations.indexed.each()))
    images = local_lab.dataset.images("val")
    for depth, start in ((0, None), (4, four), (99, None)):
        task = FillTask("val", 0, images, {depth: activations.key}, start)
        with pytest.raises(ValueError, match="depths"):
            compute_task(local_lab.store, local_lab.setup, task)


@pytest.mark.parametrize("full", ["the node's disk", "the store"])
def test_a_full_disk_leaves_nothing(
    full: str, local_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    if full == "the store":
        disk = Path(local_lab.store.uri) / "activations"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk to fill")
    try:
        if full == "the node's disk":
            monkeypatch.setenv("GRAFT_CACHE", str(disk))
        with pytest.raises(StoreError, match="no space left; nothing was committed") as error:
            local_lab.fill(CacheEntry("train", 1, 1), CacheEntry("val", 0, 1))
        assert "\n" not in str(error.value)
        assert not [key for key in objects(local_lab.store) if "/index/" in key]
        assert not [path for path in disk.rglob("*") if ".tmp-" in path.name and path.is_dir()]
    finally:
        subprocess.run(["umount", disk], check=True)
    monkeypatch.undo()
    assert local_lab.fill(CacheEntry("val", 0, 1)).images == 15


def test_a_later_dataset_version_computes_what_is_new(
    local_lab: Lab, grown: Callable[..., DatasetVersion]
) -> None:
    entries = [CacheEntry("train", 1, 3), CacheEntry("train", 1, 5), CacheEntry("val", 0, 5)]
    before = local_lab.fill(*entries)
    old = objects(local_lab.store)
    later = local_lab.another(grown(local_lab.store))
    filled = later.fill(*entries)
    assert (filled.decoded, filled.images) == (5, 10)
    now = objects(local_lab.store)
    assert {key: now[key] for key in old} == old
    for entry in entries:
        activations = filled.activations[entry]
        assert activations.parts[0] == before.activations[entry].parts[0]
        images = later.dataset.images(entry.split)
        assert activations.digests.tolist() == images.digests.tolist()
        taken = activations.take(later.digests(entry.split, range(BATCH)))
        assert torch.equal(taken, later.direct(entry, range(BATCH)))
    assert later.fill(*entries).trunk_forwards == 0
    assert local_lab.fill(*entries).trunk_forwards == 0


def test_an_image_is_known_in_whichever_split_and_dataset_it_comes_back(
    local_lab: Lab, colour_images: Path, tmp_path: Path
) -> None:
    local_lab.fill(CacheEntry("train", 0, 2), CacheEntry("val", 0, 2))
    for path in colour_images.rglob("*.png"):
        split, label, name = path.relative_to(colour_images).parts
        copy = tmp_path / "moved" / ("train" if name == "0.png" else split) / label / split / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    import_dataset(local_lab.store, str(tmp_path / "moved"), "moved", test_fraction=0)
    moved = local_lab.another(open_dataset(local_lab.store, "moved"))
    assert len(moved.dataset.images("train")) == 42
    assert moved.fill(CacheEntry("train", 0, 2), CacheEntry("val", 0, 2)).trunk_forwards == 0
