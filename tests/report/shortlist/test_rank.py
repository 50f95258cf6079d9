"""`graft backbones rank`: its figures against scikit-learn's, and the command itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import BayesianRidge

import commands
from colours import draw_colours
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.report.shortlist.candidates import Candidate, EpochCost, by_promise
from graft.report.shortlist.rank import (
    candidate_spec,
    count_folds,
    linear_probe,
    logme,
    measure_candidate,
)
from graft.report.shortlist.ranking_chart import ranking_figure
from graft.spec import Backbone
from graft.store import Store

ABSENT = ("--arch", "resnet18", "--weights", "absent.pth")


@pytest.mark.parametrize("width", [5, 40, 200])
def test_logme_is_the_evidence_that_scikit_learn_finds(width: int) -> None:
    noise = np.random.default_rng(width)
    features = noise.normal(size=(100, width))
    labels = (features[:, 0] + 0.5 * noise.normal(size=100) > 0).astype(np.int64)
    expected = []
    for label in (0, 1):
        none = {"alpha_1": 0, "alpha_2": 0, "lambda_1": 0, "lambda_2": 0}  # no hyperpriors
        model = BayesianRidge(
            compute_score=True, fit_intercept=False, max_iter=5000, tol=1e-10, **none
        )
        model.fit(features, (labels == label).astype(float))
        expected.append(model.scores_[-1] / 100)
    assert logme(features, labels) == pytest.approx(np.mean(expected), abs=2e-3)


def test_features_that_say_more_rank_higher() -> None:
    noise = np.random.default_rng(0)
    labels = np.arange(120) % 3
    clear = np.eye(3)[labels] + 0.3 * noise.normal(size=(120, 3))
    dim = np.eye(3)[labels] + 3 * noise.normal(size=(120, 3))
    assert logme(clear, labels) > logme(dim, labels)
    assert np.mean(linear_probe(clear, labels, 5)) > 0.95 > np.mean(linear_probe(dim, labels, 5))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("rank")
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(draw_colours(folder / "images", 8, 3)), "colours", test_fraction=0)
    return store


@pytest.mark.slow  # four CPU seconds
def test_copies_change_no_figure(store: Store, tmp_path: Path) -> None:
    """Of blue, each training image is there four times; of red, twice under other names."""
    # Images of its own: the other tests' are to be computed by them.
    images = draw_colours(tmp_path / "images", 8, 3, seed=1)
    import_dataset(store, str(images), "plain", test_fraction=0)
    for name, times in (("blue", 4), ("red", 2)):
        for file in list((images / "train" / name).iterdir()):
            for number in range(1, times):
                shutil.copy(file, file.with_name(f"{number}-{file.name}"))
    import_dataset(store, str(images), "copies", test_fraction=0)
    figures = []
    for name in ("plain", "copies"):
        dataset = open_dataset(store, name)
        backbone = Backbone(arch="timm/test_resnet", weights="none", freeze="all")
        spec, folds = candidate_spec(store, dataset, backbone), count_folds(dataset)
        measured = measure_candidate(store, spec, folds, lambda done, total: None, print)
        figures.append((folds, measured.accuracy, measured.deviation, measured.logme))
    assert figures[0] == pytest.approx(figures[1])


def rank(store: Store, folder: Path, *arguments: str) -> commands.Done:
    return commands.main("backbones", "rank", *arguments, "--store", store.uri, cwd=folder)


@pytest.mark.slow  # two commands, two networks each
def test_a_table_a_picture_and_cached_activations(store: Store, tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    words = ["colours", "--arch", "timm/test_resnet", "--weights", "none"]  # maps
    words += ["--arch", "timm/test_vit", "--weights", "other.pth"]  # tokens
    first = rank(store, tmp_path, *words, "--json")
    assert first.returncode == 0, first.stderr
    document: dict[str, Any] = json.loads(first.stdout)
    assert document["folds"] == 5
    ranked = document["backbones"]
    assert {candidate["arch"]: candidate["features"] for candidate in ranked} == {
        "timm/test_resnet": 96,
        "timm/test_vit": 64,
    }
    accuracies = [candidate["accuracy"] for candidate in ranked]
    assert accuracies == sorted(accuracies, reverse=True)
    for candidate in ranked:
        assert candidate["computed"] == 24
        deepest, *_, unfrozen = candidate["costs"]
        assert deepest["cached_s"] < deepest["epoch_s"] < unfrozen["epoch_s"]
        assert unfrozen["cached_s"] is None
    with Image.open(tmp_path / "rank.png") as picture:
        assert picture.width > 500
    again = json.loads(rank(store, tmp_path, *words, "--json").stdout)["backbones"]
    assert [candidate["computed"] for candidate in again] == [0, 0]
    for before, after in zip(ranked, again, strict=True):
        assert all(before[key] == after[key] for key in ("arch", "accuracy", "logme"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["colour", "--arch", "resnet18"], "did you mean 'colours'?"),
        (["colours", "--arch", "resnet81", "--weights", "none"], "resnet81"),
        (
            ["colours", "--arch", "resnet18", "--weights", "none", "--weights", "none"],
            "1 times --arch and 2 times --weights",
        ),
        (
            [
                "colours",
                "--arch",
                "squeezenet1_1",
                "--weights",
                "none",
                "--arch",
                "resnet18",
                "--weights",
                "absent.pth",
            ],
            "no file absent.pth",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(
    store: Store, tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = set(store.children("activations/"))
    done = rank(store, tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert set(store.children("activations/")) == before
    assert not (tmp_path / "rank.png").exists()


def test_a_class_with_one_image(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    for split, name, count in (("train", "a", 3), ("train", "b", 1), ("val", "a", 1)):
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            colour = (number * 50, 10 if name == "a" else 200, len(split))
            Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
    import_dataset(store, str(tmp_path / "images"), "few", test_fraction=0)
    done = rank(store, tmp_path, "few", "--arch", "squeezenet1_1", "--weights", "none")
    assert done.returncode == 2
    assert "1 training image of class 'b', of copies one; cross-validation needs" in done.stderr


def test_the_picture_has_each_candidate_where_its_figures_are() -> None:
    cost = EpochCost(depth=1, through="stem", epoch_s=20, cached_s=None)
    worse, better = (
        Candidate(
            arch=arch,
            weights="a/w.pth",
            accuracy=accuracy,
            deviation=0.01,
            logme=0.1,
            features=8,
            parameters=100,
            images_per_second=10,
            costs=(cost,),
            computed=0,
        )
        for arch, accuracy in (("resnet18", 0.8), ("vgg16", 0.9))
    )
    ranked = by_promise([worse, better])
    assert ranked == [better, worse]
    (axes,) = ranking_figure(ranked).axes
    assert [text.get_text() for text in axes.texts] == ["vgg16\nw.pth", "resnet18\nw.pth"]
    assert [text.xy for text in axes.texts] == [(20, 0.9), (20, 0.8)]
