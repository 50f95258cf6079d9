import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.failing_directory import Failing, ctrl_c, full_disk
from graft.data.copies import distinct_images, find_copies
from graft.data.file_kinds import SUPPORTED
from graft.data.image import decode
from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, list_datasets, open_dataset
from graft.data.splits import SPLITS, MadeSplits
from graft.errors import DataError, NotFoundError, ResourceError, StoreError
from graft.store import Store, sha256

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "ants-bees"


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def objects(store: Store) -> dict[str, int]:
    return dict(store.scan(""))


def splits(dataset: DatasetVersion) -> dict[str, str]:
    return {
        image.path: split for split in ("train", "val", "test") for image in dataset.images(split)
    }


def test_import_and_read_back(store, class_folders):
    root = class_folders({"b": 10, "a": 5})
    imported = import_dataset(store, str(root), "letters", max_side=8)
    assert imported.written

    dataset = open_dataset(store, "letters")
    manifest = dataset.manifest
    assert manifest == imported.manifest
    assert manifest.classes == ("a", "b")
    assert manifest.counts == {
        "train": {"a": 3, "b": 7},
        "val": {"a": 1, "b": 2},
        "test": {"a": 1, "b": 1},
    }
    assert manifest.images == 15
    assert (manifest.width.min, manifest.width.max, manifest.height.median) == (12, 12, 8)
    assert manifest.version == manifest.digest[:16]
    for image in (image for split in SPLITS for image in dataset.images(split)):
        original = (root / image.path).read_bytes()
        assert image.sha256 == sha256(original)
        assert manifest.classes[image.label] == image.path[0]
        found, expected = decode(dataset.read(image)), decode(original, 8)
        assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_small_images_are_stored_untouched(directory, class_folders):
    root = class_folders({"a": 2, "b": 2})
    import_dataset(directory, str(root), "letters", max_side=12)
    dataset = open_dataset(directory, "letters")
    for image in dataset.images("train"):
        assert dataset.read(image) == (root / image.path).read_bytes()


def test_importing_again_writes_nothing(store, class_folders):
    root = class_folders({"a": 3, "b": 3})
    first = import_dataset(store, str(root), "letters")
    before = objects(store)
    again = import_dataset(store, str(root), "letters", threads=1)
    assert not again.written
    assert again.manifest == first.manifest
    assert objects(store) == before


def test_a_version_is_its_content_not_its_place(directory, class_folders, tmp_path):
    root = class_folders({"a": 4, "b": 4})
    first = import_dataset(directory, str(root), "one")
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    (moved / "a" / "0.png").rename(moved / "a" / "renamed.png")
    table = tmp_path / "labels.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted(root.rglob("*.png"), reverse=True)]
    table.write_text("\n".join(["path,label", *rows]))
    for source in (moved, table):
        assert import_dataset(directory, str(source), "two").manifest.version == (
            first.manifest.version
        )
    other = open_dataset(directory, "two")
    assert [i.sha256 for i in other.images("train")] == [
        i.sha256 for i in open_dataset(directory, "one").images("train")
    ]


def test_every_setting_and_every_change_makes_another_version(directory, class_folders):
    root = class_folders({"a": 12, "b": 12})

    def version(**settings: object) -> str:
        return import_dataset(directory, str(root), "x", **settings).manifest.version

    versions = [
        version(),
        version(max_side=256),
        version(seed=1),
        version(val_fraction=0.25),
        version(test_fraction=0.3),
    ]
    (root / "a" / "0.png").rename(root / "b" / "moved.png")
    versions.append(version())
    (root / "a" / "1.png").unlink()
    versions.append(version())
    (root / "a" / "note.txt").write_text("no image")
    versions.append(version(skip_bad=True))
    assert len(set(versions)) == len(versions)
    assert [m.version for m in list_datasets(directory)] == versions
    # The one imported last, although it was there before.
    (root / "a" / "note.txt").unlink()
    assert version() == versions[-2]
    assert open_dataset(directory, "x").manifest.version == versions[-2]


def test_skip_bad_makes_no_difference_where_nothing_is_bad(directory, class_folders):
    root = class_folders({"a": 3, "b": 3})
    import_dataset(directory, str(root), "x")
    assert not import_dataset(directory, str(root), "x", skip_bad=True).written


def spoil(root: Path, bomb: bytes) -> dict[str, str]:
    """Add every kind of bad file; return the reason for each."""
    whole = (root / "a" / "0.png").read_bytes()
    bad = {
        "a/truncated.png": (whole[: len(whole) // 2], "truncated"),
        "a/empty.jpg": (b"", "0 bytes"),
        "b/text.jpg": (b"this is no image", f"not an image; supported: {SUPPORTED}"),
        "b/bomb.png": (bomb, "400 megapixels, more than 80"),
        "README.md": (b"# hello", "outside any class folder"),
    }
    for path, (data, _) in bad.items():
        (root / path).write_bytes(data)
    return {path: reason for path, (_, reason) in bad.items()}


def test_bad_files_are_named_and_nothing_is_written(directory, class_folders, bomb):
    root = class_folders({"a": 3, "b": 3})
    reasons = spoil(root, bomb)
    with pytest.raises(DataError) as caught:
        import_dataset(directory, str(root), "x")
    message = str(caught.value)
    assert "5 of 11 files cannot be used" in message
    assert "--skip-bad" in message
    assert all(f"{path}: {reason}" in message for path, reason in reasons.items())
    assert objects(directory) == {}


def test_bad_files_are_left_out_and_counted(directory, class_folders, bomb):
    root = class_folders({"a": 3, "b": 3})
    reasons = spoil(root, bomb)
    manifest = import_dataset(directory, str(root), "x", skip_bad=True).manifest
    assert {file.path: file.reason for file in manifest.skipped} == reasons
    assert manifest.images == 6


def test_many_bad_files_are_counted(directory, class_folders):
    root = class_folders({"a": 3, "b": 3})
    for i in range(30):
        (root / "a" / f"{i}.txt").write_text("x")
    with pytest.raises(DataError, match="30 of 36 files cannot be used") as caught:
        import_dataset(directory, str(root), "x")
    assert str(caught.value).count("not an image") == 20
    assert "and 10 more" in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 5}, "found one class, 'a'; expected at least two"),
        ({"train/a": 2, "train/b": 1, "val/c": 1}, "1 of 3 classes have no image in train: c"),
        ({"a": 1, "b": 1}, "val has no usable image; .* a class with two different images"),
    ],
)
def test_what_cannot_be_trained_on(directory, class_folders, counts, message):
    with pytest.raises(DataError, match=message):
        import_dataset(directory, str(class_folders(counts)), "x")
    assert objects(directory) == {}


def test_a_split_emptied_by_skipping(directory, class_folders):
    root = class_folders({"train/a": 2, "train/b": 2, "val/a": 1})
    (root / "val" / "a" / "0.png").write_bytes(b"x")
    with pytest.raises(DataError, match="val has no usable image"):
        import_dataset(directory, str(root), "x", skip_bad=True)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (
            {"train": 0, "val": 0, "test": 0},
            {"seed": 0},
            "--seed 0 has no effect: .* all its splits",
        ),
        ({"train": 0, "val": 0}, {"seed": 0, "test_fraction": 0}, "--seed 0 has no effect"),
        ({"train": 0, "val": 0}, {"val_fraction": 0.3}, r"--val-fraction 0\.3 has no effect"),
        ({"train": 0, "test": 0}, {"test_fraction": 0.3}, "no effect: .* its own test split"),
        ({"": 0}, {"val_fraction": 0.0}, "expected a val above 0"),
        ({"": 0}, {"val_fraction": 0.6, "test_fraction": 0.4}, "less than 1 together"),
        ({"": 0}, {"val_fraction": float("nan")}, "expected a val above 0"),
    ],
)
def test_settings_without_effect_or_sense(directory, class_folders, counts, options, message):
    root = class_folders({os.path.join(split, label): 2 for split in counts for label in "ab"})
    with pytest.raises(DataError, match=message):
        import_dataset(directory, str(root), "x", **options)


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-a", "a" * 65, ".."])
def test_names_that_are_none(directory, class_folders, name):
    with pytest.raises(DataError, match="dataset name"):
        import_dataset(directory, str(class_folders({"a": 1, "b": 1})), name)


def test_given_splits_are_kept(directory, class_folders):
    root = class_folders({"train/a": 3, "train/b": 3, "val/a": 1, "test/b": 2})
    import_dataset(directory, str(root), "x")
    dataset = open_dataset(directory, "x")
    assert all(path.startswith(split) for path, split in splits(dataset).items())
    assert dataset.manifest.settings.made is None
    assert dataset.manifest.counts["test"] == {"a": 0, "b": 2}


def test_test_is_made_out_of_train_where_only_val_is_given(directory, class_folders):
    root = class_folders({"train/a": 20, "train/b": 10, "val/a": 3})
    manifest = import_dataset(directory, str(root), "x").manifest
    assert manifest.counts == {
        "train": {"a": 18, "b": 9},
        "val": {"a": 3, "b": 0},
        "test": {"a": 2, "b": 1},
    }
    assert manifest.settings.made == MadeSplits(val_fraction=0, test_fraction=0.1, seed=0)
    test = {image.path for image in open_dataset(directory, "x").images("test")}
    assert all(path.startswith("train/") for path in test)
    other = import_dataset(directory, str(root), "x", seed=1).manifest
    assert other.counts == manifest.counts
    assert {image.path for image in open_dataset(directory, "x").images("test")} != test
    none = import_dataset(directory, str(root), "x", test_fraction=0).manifest
    assert (none.settings.made, "test" in none.counts) == (None, False)


def test_val_is_made_out_of_train_where_only_test_is_given(directory, class_folders):
    root = class_folders({"train/a": 10, "train/b": 10, "test/a": 3})
    import_dataset(directory, str(root), "x")
    manifest = open_dataset(directory, "x").manifest
    assert manifest.counts["val"] == {"a": 2, "b": 2}
    assert manifest.counts["test"] == {"a": 3, "b": 0}
    assert manifest.settings.made is not None


def test_identical_images_stay_together_and_are_stored_once(directory, class_folders):
    root = class_folders({"a": 6, "b": 6})
    for i in range(5):
        shutil.copy(root / "a" / "3.png", root / "a" / f"copy{i}.png")
    manifest = import_dataset(directory, str(root), "x", val_fraction=0.4).manifest
    found = splits(open_dataset(directory, "x"))
    assert len({found[f"a/copy{i}.png"] for i in range(5)} | {found["a/3.png"]}) == 1
    assert manifest.leakage == ()
    assert manifest.images == 17
    assert manifest.bytes == sum(
        len((root / label / f"{i}.png").read_bytes()) for label in "ab" for i in range(6)
    )


def test_copies_are_counted_and_an_index_has_them(directory, class_folders):
    root = class_folders({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    for i in range(4):
        shutil.copy(root / "val" / "a" / "0.png", root / "val" / "a" / f"IMG ({i}).png")
    manifest = import_dataset(directory, str(root), "x", test_fraction=0).manifest
    assert manifest.distinct == {"train": 6, "val": 4}
    val = open_dataset(directory, "x").images("val")
    assert len(val) == 8
    assert len(distinct_images(val)) == 4
    (copies,) = find_copies(val)
    assert (copies.label, copies.split, len(copies.paths)) == (0, "val", 5)


def test_too_little_memory_is_no_bad_file(directory, class_folders, monkeypatch):
    def no_memory(*_: object) -> None:
        raise MemoryError

    root = class_folders({"a": 3, "b": 3})
    monkeypatch.setattr(Image.Image, "load", no_memory)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_memory)
    with pytest.raises(ResourceError, match=r"a/0\.png: not enough memory .* fewer --threads"):
        import_dataset(directory, str(root), "x", skip_bad=True)


def test_leakage_and_conflicts_are_reported(directory, class_folders):
    root = class_folders({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "a" / "leak.png")
    shutil.copy(root / "train" / "a" / "1.png", root / "train" / "b" / "conflict.png")
    manifest = import_dataset(directory, str(root), "x", test_fraction=0).manifest
    (leak,) = manifest.leakage
    assert leak.paths == ("train/a/0.png", "val/a/leak.png")
    assert leak.splits == ("train", "val")
    assert leak.sha256 == sha256((root / "train" / "a" / "0.png").read_bytes())
    (conflict,) = manifest.conflicts
    assert conflict.paths == ("train/a/1.png", "train/b/conflict.png")
    assert conflict.labels == ("a", "b")


def test_originals_are_of_every_class_and_of_changed_images(directory, class_folders, picture):
    root = class_folders({f"{split}/{label}": 9 for split in ("train", "val") for label in "abc"})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for label in "abc":
        picture(1000 + ord(label), 40, 30).save(root / "val" / label / "large.png")
        picture(2000 + ord(label)).save(root / "val" / label / "turned.png", exif=exif)
    import_dataset(directory, str(root), "x", max_side=20)
    originals = open_dataset(directory, "x").originals()
    assert len({image.sha256 for image, _ in originals}) == len(originals) == 16
    assert {image.split for image, _ in originals} == {"val"}
    assert [sum(image.label == label for image, _ in originals) for label in range(3)] == [6, 5, 5]
    for image, data in originals:
        assert data == (root / image.path).read_bytes()
    names = [Path(image.path).name for image, _ in originals]
    assert names.count("large.png") == names.count("turned.png") == 3


def test_originals_of_a_small_set_are_all_of_it(directory, class_folders):
    import_dataset(directory, str(class_folders({"a": 2, "b": 2})), "x")
    assert len(open_dataset(directory, "x").originals()) == 2


def test_large_files_are_no_originals(directory, class_folders, picture):
    root = class_folders({"train/a": 1, "train/b": 1, "val/a": 2})
    with (root / "val" / "a" / "1.png").open("ab") as file:
        file.write(bytes(9 << 20))  # after the image's end; decoders ignore it
    import_dataset(directory, str(root), "x")
    originals = open_dataset(directory, "x").originals()
    assert [image.path for image, _ in originals] == ["val/a/0.png"]


def test_progress_is_told(directory, class_folders):
    told = []
    root = class_folders({"a": 3, "b": 3})
    import_dataset(
        directory,
        str(root),
        "x",
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert [t for t in told if t[0] == "reading"] == [("reading", i, 6) for i in range(1, 7)]
    assert told[-1] == ("uploading", 3, 3)


@pytest.mark.slow  # two CPU seconds
def test_from_s3(s3_store_uri, directory, class_folders):
    root = class_folders({"a": 3, "b": 3})
    bucket = Store.open(f"{s3_store_uri}/photos")
    for path in root.rglob("*.png"):
        bucket.write(path.relative_to(root).as_posix(), path.read_bytes())
    there = import_dataset(directory, f"{s3_store_uri}/photos", "x")
    assert there.manifest.counts["train"] == {"a": 1, "b": 1}
    assert not import_dataset(directory, str(root), "x").written


def test_the_same_version_of_other_bytes_is_told(directory, class_folders, tmp_path):
    root = class_folders({"a": 3, "b": 3})
    assert import_dataset(directory, str(root), "x", max_side=10).other_shards == 0
    dataset = open_dataset(directory, "x")
    (shard,) = dataset.manifest.shards
    larger = shard.model_copy(update={"size": shard.size + 10240})  # as of another WebP encoder
    document = json.loads(directory.read(f"{dataset.folder}/manifest.json").data)
    document["shards"] = [larger.model_dump()]
    directory.write(f"{dataset.folder}/manifest.json", json.dumps(document).encode())
    again = import_dataset(directory, str(root), "x", max_side=10)
    assert (again.written, again.other_shards) == (False, 1)


@pytest.mark.slow  # two processes start
def test_on_many_cores_the_version_is_the_same(directory, tmp_path, class_folders, monkeypatch):
    root = class_folders({"a": 12, "b": 9})
    (root / "a" / "bad.png").write_bytes(b"none")
    more = class_folders({"a": 5, "b": 4}, "more", first=15)
    alone, told = Store.open(str(tmp_path / "alone")), []
    for store, threads in ((alone, 1), (directory, 6)):
        monkeypatch.setattr("graft.data.importing.PART_FILES", 1 if threads == 6 else 512)

        def tell(*step: object) -> None:
            told.append(step)

        options = {"max_side": 10, "skip_bad": True, "threads": threads, "progress": tell}
        import_dataset(store, str(root), "x", **options)
        import_dataset(store, str(more), "x", add_to="latest", **options | {"max_side": None})
    assert {("reading", 22, 22), ("reading", 8, 22), ("reading", 9, 9)} < set(told)
    one, other = (open_dataset(store, "x").manifest for store in (alone, directory))
    assert one.version == other.version
    assert one.index.sha256 == other.index.sha256
    assert [s.ref.sha256 for s in one.all_shards] == [s.ref.sha256 for s in other.all_shards]
    assert len(one.all_shards) == 2


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("failure", [full_disk, ctrl_c])
def test_a_failed_import_leaves_nothing(tmp_path, class_folders, at, failure):
    root = class_folders({"a": 3, "b": 3})
    store = Store(Failing(tmp_path / "store", at, failure))
    with pytest.raises((StoreError, KeyboardInterrupt)):
        import_dataset(store, str(root), "x")
    assert objects(store) == {}
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
    with pytest.raises(NotFoundError):
        open_dataset(store, "x")


def test_a_failure_after_the_manifest_keeps_the_version(tmp_path, class_folders):
    root = class_folders({"a": 3, "b": 3})
    store = Store(Failing(tmp_path / "store", 4, full_disk))
    with pytest.raises(StoreError):
        import_dataset(store, str(root), "x")
    version = list_datasets(store)[0].version
    assert len(open_dataset(store, "x", version).images("train")) == 2
    with pytest.raises(NotFoundError, match=f"no version 'latest'; known: {version}"):
        open_dataset(store, "x")
    fine = Store.open(str(tmp_path / "store"))
    assert not import_dataset(fine, str(root), "x").written
    assert open_dataset(fine, "x").manifest.version == version


def test_of_two_imports_at_once_one_wins_and_the_other_cleans_up(tmp_path, class_folders):
    root = class_folders({"a": 3, "b": 3})
    fine = Store.open(str(tmp_path / "store"))

    def other() -> None:
        slow.left = 100
        import_dataset(fine, str(root), "x")

    slow = Failing(tmp_path / "store", 3, other)
    assert not import_dataset(Store(slow), str(root), "x").written
    assert len(objects(fine)) == 5  # index, originals, shard, manifest, latest
    dataset = open_dataset(fine, "x")
    assert all(dataset.read(image) for image in dataset.images("train"))


@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_killed_import_leaves_nothing_to_be_seen(tmp_path, class_folders, at):
    root = class_folders({"a": 3, "b": 3})
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path

        tests, store, at, source = sys.argv[1:]
        sys.path.insert(0, tests)
        from failing_directory import Failing
        from graft.data.importing import import_dataset
        from graft.store import Store

        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        import_dataset(Store(Failing(Path(store), int(at), die)), source, "x")
    """)
    arguments = [Path(__file__).parent, tmp_path / "store", at, root]
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == -signal.SIGKILL
    store = Store.open(str(tmp_path / "store"))
    if at == 3:
        assert len(objects(store)) == 3  # all but the manifest
    assert list_datasets(store) == []
    with pytest.raises(NotFoundError):
        open_dataset(store, "x")
    assert import_dataset(store, str(root), "x").written
    assert len(open_dataset(store, "x").images("val")) == 2


@pytest.mark.slow  # 397 photographs
def test_ants_and_bees(directory):
    if not SHARED.exists():
        pytest.skip("../shared/data is not here")
    manifest = import_dataset(directory, str(SHARED), "ants-bees").manifest
    assert manifest.classes == ("ants", "bees")
    assert manifest.counts["val"] == {"ants": 70, "bees": 83}
    dataset = open_dataset(directory, "ants-bees")
    for image, data in dataset.originals():
        stored = decode(dataset.read(image))
        assert np.array_equal(np.asarray(stored), np.asarray(decode(data, 512)))
