"""The division of test, and the record of who looked."""

from hashlib import sha256
from pathlib import Path

from colours import draw_colours
from graft.data.importing import import_dataset
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
    manifest = import_dataset(store, str(draw_colours(tmp_path / "images", 2, 2)), "c").manifest
    reports = ("first", "second", "first", "third")
    assert [record_use(store, manifest, "val", 6, report) for report in reports] == [0, 1, 0, 2]
    assert record_use(store, manifest, "test", 6, "fourth") == 0
    assert (used_already(0), used_already(1)) == ("", "; on images that were used once before")
    images = open_dataset(store, "c").images("val")
    assert images_that_judge([*images, *images], "val") == images
