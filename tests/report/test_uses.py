"""The division of test, and the record of who looked."""

from hashlib import sha256
from pathlib import Path

from colours import draw_colours
from graft.data.importing import import_dataset
from graft.data.index import Images
from graft.data.manifest import open_dataset
from graft.report.uses import images_that_judge, part_of, record_use, used_already
from graft.store import Store


def test_test_is_halved_by_each_images_hash_alone() -> None:
    digests = [sha256(str(number).encode()).hexdigest() for number in range(4_000)]
    judging = {digest for digest in digests if part_of(digest) == "judge"}
    assert 1_900 < len(judging) < 2_100
    assert {d for d in reversed(digests[:100]) if part_of(d) == "judge"} == judging & {
        *digests[:100]
    }
    # What the splits are chosen by says nothing of the part.
    first = [digest for digest in digests if digest < "8"]
    assert 0.45 < len(judging & {*first}) / len(first) < 0.55


def test_uses_are_counted_once_a_report(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    folder = draw_colours(tmp_path / "images", 2, 2)
    import_dataset(store, str(folder), "c")
    dataset = open_dataset(store, "c")
    val = [image.sha256 for image in dataset.images("val")]
    reports = ("first", "second", "first", "third")
    assert [record_use(store, dataset, "val", val, report) for report in reports] == [0, 1, 0, 2]
    assert record_use(store, dataset, "test", ["0" * 64], "fourth") == 0
    # Under another version of the dataset they are the same images; added ones are new.
    draw_colours(tmp_path / "added", 1, 1, seed=1)
    for file in (tmp_path / "added" / "val").glob("*/*"):
        file.rename(folder / "val" / file.parent.name / "added.png")
    import_dataset(store, str(folder), "c")
    later = open_dataset(store, "c")
    new = [image.sha256 for image in later.images("val") if image.sha256 not in val]
    assert record_use(store, later, "val", new, "fifth") == 0
    assert record_use(store, later, "val", [*new, val[0]], "sixth") == 4
    assert (used_already(0), used_already(1)) == ("", "; on images that were used once before")
    images = open_dataset(store, "c").images("val")
    assert images_that_judge(Images.of([*images, *images]), "val") == images
