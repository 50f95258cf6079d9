"""Kept activations are the trunk's own, bit for bit, however they came to be."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from activations_lab import BATCH, Lab, make_lab, objects
from graft.activations.cache import Activations
from graft.activations.compute import Start, compute_part
from graft.activations.fill import Wanted
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
    wanted = [
        Wanted(split, view, depth)
        for split, view in (("val", 0), ("train", 0), ("train", 1), ("train", 2))
        for depth in (1, last - 1, last)
    ]
    filled = any_lab.fill(*wanted)
    # One decode and one pass for all depths of a view; 39 images train, 15 validate.
    assert filled.decoded == filled.trunk_forwards == 15 + 3 * 39
    assert filled.images == 3 * filled.decoded
    for item in wanted:
        kept = filled.activations[item]
        total = len(any_lab.dataset.images(item.split))
        order = np.random.default_rng(0).permutation(total)  # other company, other places
        for rows in (range(BATCH), order[:BATCH], order[-BATCH:]):
            direct = any_lab.direct(item, list(rows))
            taken = kept.take(any_lab.digests(item.split, list(rows)))
            assert torch.equal(taken, direct)
            assert taken.shape[1:] == kept.shape
            assert taken.dtype == torch.float32
            assert taken.stride() == direct.contiguous(memory_format=_format(direct)).stride()


def _format(x: torch.Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def test_another_batch_size_moves_them_by_rounding_alone(any_lab: Lab) -> None:
    item = Wanted("val", 0, any_lab.model.depth)
    kept = any_lab.get(item)
    direct = any_lab.direct(item, range(3))
    taken = kept.take(any_lab.digests("val", range(3)))
    assert (taken - direct).abs().max() <= 1e-5 * direct.abs().max()


def test_a_deeper_trunk_goes_on_from_a_shallower_one(any_lab: Lab, tmp_path: Path) -> None:
    last = any_lab.model.depth
    for depth in (2, last - 1):
        any_lab.fill(Wanted("train", 1, depth))
    filled = any_lab.fill(Wanted("train", 1, last))
    assert (filled.decoded, filled.trunk_forwards) == (0, 39)
    direct = compute_part(
        any_lab.store,
        any_lab.model,
        any_lab.loader,
        any_lab.contract,
        any_lab.dataset.images("train"),
        1,
        {last: any_lab.naming().key(last, 1)},
        batch_size=BATCH,
    )
    # The same bits are the same object.
    assert tuple(direct.parts[last]) == filled.activations[Wanted("train", 1, last)].parts


def test_only_whole_numbers_are_gone_on_from(local_lab: Lab) -> None:
    local_lab.fill(Wanted("val", 0, 3), dtype="float16")
    assert local_lab.fill(Wanted("val", 0, 5), dtype="float16").decoded == 15
    local_lab.fill(Wanted("val", 0, 4))
    assert local_lab.fill(Wanted("val", 0, 6), dtype="float16").decoded == 0


def test_float16_is_rounded_float32(any_lab: Lab) -> None:
    item = Wanted("val", 0, any_lab.model.depth)
    exact, half = any_lab.get(item), any_lab.get(item, dtype="float16")
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
        local_lab.fill(Wanted("val", 0, 1), dtype="float16")
    assert objects(local_lab.store) == {}


def test_what_a_shard_is(lab: Lab) -> None:
    kept = lab.get(Wanted("train", 0, 3))
    (part,) = kept.parts
    assert part.images == tuple(lab.digests("train", range(39)))
    assert (part.batch_size, part.threads) == (BATCH, 1)
    path = lab.store.fetch(kept.key.folder, part.shard)
    (rows,) = load_file(path).values()  # any reader of safetensors
    channels, height, width = kept.shape
    assert rows.shape == (39, height, width, channels)
    assert torch.equal(kept.take(part.images).permute(0, 2, 3, 1), rows)


def test_consecutive_rows_are_the_mapped_file_itself(local_lab: Lab) -> None:
    kept = local_lab.get(Wanted("train", 0, 3))
    images = kept.images
    every = kept.take(images)
    some = kept.take(images[4:9])
    assert some.data_ptr() == every.data_ptr() + 4 * every.stride(0) * 4
    assert every.data_ptr() % 4096 == 0
    assert every.is_contiguous(memory_format=torch.channels_last)
    # Another reader of the process shares the mapping.
    again = Activations(local_lab.store, kept.key, kept.parts)
    assert again.take(images).data_ptr() == every.data_ptr()


def test_rows_come_from_several_shards_and_may_repeat(local_lab: Lab) -> None:
    key = local_lab.naming().key(3, 0)
    images = local_lab.dataset.images("train")
    whole = local_lab.get(Wanted("train", 0, 3))
    row_bytes = whole.nbytes // len(whole)
    computed = compute_part(
        local_lab.store,
        local_lab.model,
        local_lab.loader,
        local_lab.contract,
        images,
        0,
        {3: key},
        batch_size=BATCH,
        shard_bytes=5 * row_bytes + 1,
    )
    parts = computed.parts[3]
    assert [len(part.images) for part in parts] == [5] * 7 + [4]
    divided = Activations(local_lab.store, key, parts)
    for rows in ([3, 4], [4, 5, 6], [38, 0, 17, 17, 2], list(range(39))):
        digests = local_lab.digests("train", rows)
        assert torch.equal(divided.take(digests), whole.take(digests))
        assert divided.take(digests).stride() == whole.take(digests).stride()
    with pytest.raises(KeyError):
        divided.take(local_lab.digests("val", [0]))
    assert local_lab.digests("val", [0])[0] not in divided
    assert local_lab.digests("train", [0])[0] in divided


def test_depths_that_make_no_sense(local_lab: Lab) -> None:
    kept = local_lab.get(Wanted("val", 0, 4))
    for targets, start in (([0], None), ([4], Start(4, kept)), ([99], None)):
        keys = {depth: local_lab.naming().key(3, 0) for depth in targets}
        with pytest.raises(ValueError, match="depths"):
            compute_part(
                local_lab.store,
                local_lab.model,
                local_lab.loader,
                local_lab.contract,
                local_lab.dataset.images("val"),
                0,
                keys,
                start=start,
            )


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
            local_lab.fill(Wanted("train", 1, 1), Wanted("val", 0, 1))
        assert "\n" not in str(error.value)
        assert not [key for key in objects(local_lab.store) if "/index/" in key]
        assert not [path for path in disk.rglob("*") if ".tmp-" in path.name and path.is_dir()]
    finally:
        subprocess.run(["umount", disk], check=True)
    monkeypatch.undo()
    assert local_lab.fill(Wanted("val", 0, 1)).images == 15


def test_a_later_dataset_version_computes_what_is_new(
    local_lab: Lab, grown: Callable[..., DatasetVersion]
) -> None:
    wanted = [Wanted("train", 1, 3), Wanted("train", 1, 5), Wanted("val", 0, 5)]
    before = local_lab.fill(*wanted)
    old = objects(local_lab.store)
    later = local_lab.another(grown(local_lab.store))
    filled = later.fill(*wanted)
    assert (filled.decoded, filled.images) == (5, 10)
    now = objects(local_lab.store)
    assert {key: now[key] for key in old} == old
    for item in wanted:
        kept = filled.activations[item]
        assert kept.parts[0] == before.activations[item].parts[0]
        assert kept.images == tuple(i.sha256 for i in later.dataset.images(item.split))
        assert torch.equal(
            kept.take(later.digests(item.split, range(BATCH))), later.direct(item, range(BATCH))
        )
    assert later.fill(*wanted).trunk_forwards == 0
    assert local_lab.fill(*wanted).trunk_forwards == 0


def test_an_image_is_known_in_whichever_split_and_dataset_it_comes_back(
    local_lab: Lab, colour_images: Path, tmp_path: Path
) -> None:
    local_lab.fill(Wanted("train", 0, 2), Wanted("val", 0, 2))
    for path in colour_images.rglob("*.png"):
        split, label, name = path.relative_to(colour_images).parts
        copy = tmp_path / "moved" / ("train" if name == "0.png" else split) / label / split / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    import_dataset(local_lab.store, str(tmp_path / "moved"), "moved")
    moved = local_lab.another(open_dataset(local_lab.store, "moved"))
    assert len(moved.dataset.images("train")) == 42
    assert moved.fill(Wanted("train", 0, 2), Wanted("val", 0, 2)).trunk_forwards == 0
