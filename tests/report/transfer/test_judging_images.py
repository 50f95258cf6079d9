"""Which images judge a transfer report: none that a model of it may have seen."""

import shutil
from pathlib import Path

import pytest

from colours import COLOURS, colour_spec, draw_colours, transfer_document
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.report.transfer.judging_images import judging_images
from graft.report.uses import may_judge
from graft.spec import TransferReport, parse_job
from graft.store import Store, sha256
from models import register_model


def spec(weights: str) -> TransferReport:
    base = colour_spec(dataset={"name": "leaky"})
    base = base.model_copy(update={"backbone": base.backbone.model_copy(update={"weights": "w"})})
    others = [{"arch": "squeezenet1_1", "weights": weights}]
    return parse_job(transfer_document(base, 3, other_backbones=others), "test", TransferReport)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `older`, a model tuned on it, and `leaky`, which tests on copies of images."""
    folder = tmp_path_factory.mktemp("judging")
    older, leaky = (
        draw_colours(folder / "older", 2, 6),
        draw_colours(folder / "leaky", 3, 6, seed=1),
    )
    shutil.copytree(leaky / "val", leaky / "test")
    for name in COLOURS:
        for file in (older / "val" / name).iterdir():
            file.rename(leaky / "test" / name / f"older-{file.name}")
    draw_colours(folder / "new", 1, 6, seed=2)
    for name in COLOURS:
        for file in (folder / "new" / "val" / name).iterdir():
            shutil.copy(file, leaky / "test" / name / f"new-{file.name}")
        for file in (leaky / "test" / name).glob("older-*"):
            shutil.copy(file, older / "val" / name)
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(leaky), "leaky")
    made = import_dataset(store, str(older), "older", test_fraction=0)
    register_model(store, "older", dataset_version=made.manifest.version)
    return folder


def digests(folder: Path, pattern: str) -> set[str]:
    """The images of test that judge, of those whose file names match."""
    found = {sha256(file.read_bytes()) for file in folder.glob(f"leaky/test/*/{pattern}")}
    return {digest for digest in found if may_judge(digest, "test")}


def test_copies_of_what_trains_or_tunes_do_not_judge(folder: Path) -> None:
    store = Store.open(str(folder / "store"))
    judging = judging_images(store, spec("elsewhere.pth"), open_dataset(store, "leaky"))
    copies = digests(folder, "[0-9].png")
    assert copies
    new = digests(folder, "new-*") | digests(folder, "older-*")
    assert {image.sha256 for image in judging.images} == new
    (line,) = judging.left_out
    assert line.startswith(
        f"{len(copies)} of {len(copies | new)} images chose the epoch, rate or depth of models of "
        "the report (images of leaky@"
    )


def test_nor_does_what_a_model_has_seen_that_a_backbone_starts_from(folder: Path) -> None:
    store = Store.open(str(folder / "store"))
    judging = judging_images(store, spec("model://older@1"), open_dataset(store, "leaky"))
    assert digests(folder, "older-*")
    assert {image.sha256 for image in judging.images} == digests(folder, "new-*")
    assert "of older@1 (images of older@" in judging.left_out[1]


def test_nothing_judges_where_it_is_not_known_what_that_model_has_seen(folder: Path) -> None:
    store = Store.open(str(folder / "store"))
    register_model(store, "lost", dataset_version="gone")
    judging = judging_images(store, spec("model://lost@1"), open_dataset(store, "leaky"))
    assert judging.images == ()
    assert "what lost@1 was tuned on is not known" in judging.left_out[-1]
