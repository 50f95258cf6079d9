"""`graft evaluate`, `graft models compare` and what `promote` makes of it, with real networks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

import commands
from colours import COLOURS, draw_colours
from graft.backbones.trunk import load_model
from graft.cli.show.evaluation import comparison_page, scores_page
from graft.data.importing import import_dataset
from graft.data.loader import ImageLoader, evaluation_slices, to_tensor
from graft.data.manifest import open_dataset
from graft.registry import (
    Lineage,
    ModelVersion,
    Verdict,
    aliases,
    get_model,
    promote,
    record_verdict,
    verdicts,
)
from graft.report.evaluation.comparison import Comparison
from graft.report.evaluation.evaluate import evaluate, predictions_of
from graft.report.evaluation.scores import Scores
from graft.report.publishing import list_reports, read_report
from graft.report.seen_images import seen_by, told_apart
from graft.report.uses import images_that_judge
from graft.spec import Loader, NoAugment, Scaling
from graft.store import Store
from models import register_model

CLASSES = tuple(sorted(COLOURS))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with `colours`, without test images, and two random models of its classes."""
    folder = tmp_path_factory.mktemp("evaluation")
    store = Store.open(str(folder / "store"))
    made = import_dataset(
        store, str(draw_colours(folder / "images", 4, 12)), "colours", test_fraction=0
    )
    for seed in (0, 1):
        register_model(store, "colours", f"run-{seed}", 0.0, seed, CLASSES, made.manifest.version)
    register_model(store, "others", classes=("blue", "green", "yellow"))
    import_dataset(store, str(draw_colours(folder / "new", 5, 12, seed=1)), "new-colours")
    # One image more of each colour moves those that both have: 9 are to train on in both.
    import_dataset(store, str(draw_colours(folder / "copied", 5, 12)), "copied-colours")
    renamed = draw_colours(folder / "tested", 3, 12, seed=2)
    (renamed / "val").rename(renamed / "test")
    for name in CLASSES:  # copies of images that `colours` trains on
        for file in (folder / "images" / "train" / name).iterdir():
            shutil.copy(file, renamed / "test" / name / f"copy-{file.name}")
    import_dataset(store, str(renamed), "tested-colours")
    return store


def graft(store: Store, *arguments: str) -> commands.Done:
    return commands.main(*arguments, "--store", store.uri)


def document(store: Store, *arguments: str) -> Any:
    done = graft(store, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def model(store: Store, ref: str = "colours@1") -> ModelVersion:
    return get_model(store, ref)


def evaluated(store: Store, ref: str = "colours@1", split: str = "val") -> Scores:
    images = open_dataset(store, "colours")
    report = evaluate(store, model(store, ref), images, split, Scaling(), lambda done, total: None)
    return Scores.model_validate(report.found)


@pytest.mark.slow  # two CPU seconds
def test_scores_are_those_of_the_plain_network_on_the_same_images(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU that torch sees, and that was not asked for, may be another job's.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    scores = evaluated(store)
    version, dataset = model(store), open_dataset(store, "colours")
    network, images = load_model(store, version), dataset.images("val")
    loader = ImageLoader(dataset, version.contract, NoAugment(kind="none"), Loader())
    logits, labels = [], []
    for batch in loader.batches(images, evaluation_slices(len(images), 8, 0, 1), view=0):
        with torch.inference_mode():
            logits.append(network(to_tensor(batch.images, version.contract)))
        labels.append(batch.labels)
    truth, shares = np.concatenate(labels), torch.cat(logits).double().softmax(1).numpy()
    assert scores.images == 36
    assert scores.accuracy == accuracy_score(truth, shares.argmax(1))
    assert scores.loss == pytest.approx(log_loss(truth, shares), rel=1e-5)
    shown = document(store, "evaluate", "colours@1", "--split", "val")["confusion"]
    assert shown == confusion_matrix(truth, shares.argmax(1)).tolist()


def test_a_gpu_that_is_not_there(store: Store) -> None:
    refused = graft(store, "evaluate", "colours@1", "--split", "train", "--gpus", "1")
    assert refused.returncode == 2
    assert "a GPU was asked for, and there is none here" in refused.stderr


def test_a_report_is_made_once_and_written_out(store: Store, tmp_path: Path) -> None:
    words = ("evaluate", "colours@1", "--out", tmp_path / "page", "--store", store.uri, "--json")
    done = commands.graft(*words)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    before = read_report(store, first["report"])
    again = document(store, "evaluate", "colours@1", "--dataset", "colours", "--split", "val")
    assert again == first
    assert read_report(store, first["report"]) == before
    assert not before.found["confusion"]  # with 1,000 classes it would be megabytes of JSON
    assert (tmp_path / "page" / "confusion.npz").exists()
    page = (tmp_path / "page" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count('<li><img src="data:image/jpeg') == len(first["wrong"])
    assert f"{100 * first['accuracy']:.1f} %" in page
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / "page" / name) as picture:
            assert picture.width > 300
    predictions = predictions_of(store, before)
    assert predictions.images == tuple(
        i.sha256 for i in open_dataset(store, "colours").images("val")
    )
    assert json.loads((tmp_path / "page" / "report.json").read_text())["report"] == first["report"]
    listed = document(store, "report", "ls")["reports"]
    assert listed == [row.model_dump(mode="json") for row in list_reports(store)]
    shown = document(store, "report", "show", first["report"], "--out", str(tmp_path / "again"))
    assert shown == first
    assert (tmp_path / "again" / "report.html").read_text() == page


@pytest.mark.slow
def test_a_model_that_knows_more_classes_than_the_images_have(store: Store, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            colour = (number * 9, 40, 255 if name == "blue" else 10)
            Image.new("RGB", (40, 40), colour).save(tmp_path / "images" / name / f"{number}.png")
    import_dataset(store, str(tmp_path / "images"), "two-colours", test_fraction=0)
    images = open_dataset(store, "two-colours")
    report = evaluate(store, model(store), images, "train", Scaling(), lambda done, total: None)
    scores = Scores.model_validate(report.found)
    assert [(scored.name, scored.images) for scored in scores.classes] == [
        ("blue", 3),
        ("green", 0),
        ("red", 3),
    ]


@pytest.mark.slow
def test_images_that_tuned_a_model_give_no_verdict(store: Store) -> None:
    comparison = document(store, "models", "compare", "colours@1", "colours@2")
    assert (comparison["verdict"], comparison["outcome"]) == (False, "not shown")
    version = open_dataset(store, "colours").manifest.version
    assert comparison["left_out"] == [
        f"36 of 36 images chose the epoch, rate or depth of {ref} (images of colours@{version})"
        for ref in ("colours@1", "colours@2")
    ]
    assert verdicts(store, model(store, "colours@1")) == []
    assert evaluated(store).seen == tuple(comparison["left_out"][:1])
    shown = Console(record=True, width=120)
    shown.print(comparison_page(Comparison.model_validate(comparison)))
    assert "none: no image is left that neither has seen" in shown.export_text()


@pytest.mark.slow  # two CPU seconds
def test_they_give_none_under_another_datasets_name(store: Store) -> None:
    dataset = open_dataset(store, "colours")
    trained, tuned = (
        {image.sha256 for image in dataset.images(split)} for split in ("train", "val")
    )
    images = {i.sha256 for i in open_dataset(store, "copied-colours").images("train")}
    unseen = images - trained - tuned
    assert 0 < len(unseen) < len(images)
    words = ("--dataset", "copied-colours", "--split", "train")
    comparison = document(store, "models", "compare", "colours@1", "colours@2", *words)
    assert (comparison["images"], comparison["verdict"]) == (len(unseen), True)
    assert comparison["left_out"][0].startswith(
        f"{len(images & trained)} of {len(images)} images trained colours@1 "
    )


def test_what_a_model_started_from_has_seen_images_too(store: Store) -> None:
    before = model(store)
    draft = before.model_copy(
        update={
            "lineage": Lineage.model_validate(
                dict(before.lineage)
                | {
                    "run": "later",
                    "dataset": "new-colours",
                    "dataset_version": open_dataset(store, "new-colours").manifest.version,
                    "weights": "model://colours@1",
                }
            )
        }
    )
    seen = seen_by(store, draft)
    assert [by_version.version for by_version in seen] == ["colours@1", "colours@1"]
    assert {by_version.dataset.partition("@")[0] for by_version in seen} == {
        "colours",
        "new-colours",
    }
    (unknown,) = seen_by(store, model(store, "others"))
    assert told_apart(["x"], [unknown]) == (
        [False],
        [
            "all images: what others@1 was tuned on is not known, since others@v1 is not in the "
            "store"
        ],
    )


@pytest.mark.slow  # three CPU seconds
def test_half_of_test_judges(store: Store) -> None:
    images = open_dataset(store, "tested-colours")
    judging = {image.sha256 for image in images_that_judge(images.images("test"), "test")}
    trained = {image.sha256 for image in open_dataset(store, "colours").images("train")}
    copies = judging & trained
    assert copies
    judging -= trained
    report = evaluate(store, model(store), images, "test", Scaling(), lambda done, total: None)
    scores = Scores.model_validate(report.found)
    assert (scores.part, scores.images, scores.used_before) == ("judge", len(judging), 0)
    assert scores.left_out == len(copies)
    (said,) = scores.seen
    assert said.startswith(f"{len(copies)} of {len(judging | copies)} images trained colours@1 ")
    page = Console(record=True, width=120)
    page.print(scores_page(scores))
    assert f"left out: {said}" in page.export_text()
    assert len(predictions_of(store, report).images) == 48  # calibration has the others
    words = ("--dataset", "tested-colours")
    comparison = document(store, "models", "compare", "colours@1", "colours@2", *words)
    assert (comparison["part"], comparison["images"]) == ("judge", len(judging))
    assert comparison["used_before"] == 2  # both evaluations
    again = document(store, "models", "compare", "colours@1", "colours@2", *words)
    assert again["used_before"] == 2
    (verdict,) = (v for v in verdicts(store, model(store)) if "tested" in v.report)
    assert verdict.why.endswith("on images that were used 2 times before")


@pytest.mark.slow
def test_comparison_is_recorded_where_promotion_looks(store: Store) -> None:
    words = ("--dataset", "new-colours", "--split", "val")
    comparison = document(store, "models", "compare", "colours@1", "colours@2", *words)
    version = open_dataset(store, "new-colours").manifest.version
    first, second = (
        predictions_of(store, read_report(store, f"colours-{n}-on-new-colours-{version}-val"))
        for n in (1, 2)
    )
    assert comparison["only_first"] == int((first.right & ~second.right).sum())
    assert comparison["accuracies"] == [first.right.mean(), second.right.mean()]
    shown = Console(record=True, width=120)
    shown.print(comparison_page(Comparison.model_validate(comparison)))
    assert f"alone right on {comparison['only_first']}" in shown.export_text()
    outcomes = {"better": "worse", "worse": "better", "not shown": "not shown"}
    (verdict,) = (
        v
        for v in verdicts(store, model(store, "colours@1"))
        if f"new-colours-{version}" in v.report
    )
    assert (verdict.against, verdict.outcome) == ("colours@2", outcomes[comparison["outcome"]])


def test_promotion_looks_at_what_is_shown(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    for seed in range(4):
        register_model(store, "m", f"run-{seed}", seed=seed, classes=CLASSES)
    assert promote(store, "m@1", "champion") == []

    to_candidate = graft(store, "models", "promote", "m@2", "--alias", "candidate")
    assert (to_candidate.returncode, to_candidate.stderr) == (0, "")
    for ref, outcome in (("m@2", "worse"), ("m@3", "not shown"), ("m@4", "better")):
        verdict = Verdict(
            against="m@1", outcome=outcome, p_value=0.01, why="70 % of 90", report="r"
        )
        record_verdict(store, model(store, ref), verdict)
    refused = graft(store, "models", "promote", "m@2")
    assert refused.returncode == 2
    assert "m@2 is shown to be worse than m@1: 70 % of 90 (r)" in refused.stderr
    assert "--force" in refused.stderr
    assert aliases(store, "m") == {"champion": 1, "candidate": 2}

    better = graft(store, "models", "promote", "m@4")
    assert (better.returncode, better.stderr) == (0, "")
    promote(store, "m@1", "champion")
    warned = graft(store, "models", "promote", "m@3")
    assert warned.returncode == 0
    assert "m@3 is not shown to be better than m@1: 70 % of 90" in warned.stderr
    unknown = graft(store, "models", "promote", "m@4")
    assert unknown.returncode == 0
    assert (
        "m@4 was not compared with the champion m@3: graft models compare m@3 m@4" in unknown.stderr
    )
    assert graft(store, "models", "promote", "m@2", "--force").returncode == 0
    assert aliases(store, "m")["champion"] == 2


def test_worse_than_scratch_is_no_champion(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    register_model(store, "m", classes=CLASSES)
    verdict = Verdict(
        against="scratch", outcome="worse", p_value=0.01, why="60 % of 70 %", report="r"
    )
    record_verdict(store, model(store, "m@1"), verdict)
    refused = graft(store, "models", "promote", "m@1")
    assert refused.returncode == 2
    assert "worse than scratch: 60 % of 70 %" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "colour"], "did you mean 'colours'?"),
        (["evaluate", "colours", "--split", "tests"], "expected one of train, val, test"),
        (["evaluate", "colours", "--split", "test"], "no images in split 'test' (it has: train 12"),
        (["evaluate", "colours", "--dataset", "colour"], "did you mean 'colours'"),
        (["evaluate", "others", "--dataset", "colours"], "does not know red"),
        (["models", "compare", "colours@1", "others", "--dataset", "colours"], "different classes"),
        (["models", "compare", "colours@1", "colours@1"], "is both models"),
        (["report", "show", "nothing"], "no report 'nothing'"),
    ],
)
def test_mistakes_are_one_line(store: Store, arguments: list[str], message: str) -> None:
    done = graft(store, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_folder_that_is_a_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = graft(store, "evaluate", "colours@1", "--out", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "expected a folder, found a file" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"
