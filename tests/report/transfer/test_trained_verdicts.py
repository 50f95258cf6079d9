"""Sets on which transfer does not help, and hurts: what a report says, and promotion makes of it.

Images of greens and blues that overlap, whatever their red. Random weights tell them apart, too,
frozen or not, no better than what is trained from scratch; weights that see red alone do not, as
long as they are frozen. What promotion makes of any such report is in test_verdicts.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.functional import normalize

import commands
from colours import colour_spec, transfer_document
from graft.backbones.verify_architecture import random_model
from graft.data.importing import import_dataset
from graft.registry import aliases, get_model, verdicts
from graft.report.transfer.answers import Answers
from graft.spec import Preprocess, dump_job, parse_job
from graft.store import Store

ARCH = "timm/test_resnet"
TRAIN, TEST = 60, 50
"""Images of a class."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has the dataset, and two weights files."""
    folder = tmp_path_factory.mktemp("verdicts")
    random = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST), ("val", 20)):
        for name, sign in (("green", 1), ("blue", -1)):
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(draw(random, sign))
                image.save(folder / "images" / split / name / f"{number}.png")
    import_dataset(
        Store.open(str(folder / "store")), str(folder / "images"), "overlap", test_fraction=0
    )
    torch.manual_seed(1)
    network = random_model(ARCH).network
    for name in ("random", "red"):
        if name == "red":
            network.state_dict()["conv1.0.weight"][:, 1:] = 0
        calibrate(network, random)
        torch.save(network.state_dict(), folder / f"{name}.pth")
        base = colour_spec(
            name=name,
            dataset__name="overlap",
            backbone={"arch": ARCH, "weights": f"{name}.pth", "freeze": "all"},
            preprocess={"resize": 32, "crop": 32},
            augment={"kind": "none"},
            train__epochs=10,
            train__optimizer__lr=0.01,
            register={"model": name},
        )
        (folder / f"{name}.yaml").write_text(dump_job(base))
        document = transfer_document(base, epochs=10, labels=[1.0])
        (folder / f"{name}-report.yaml").write_text(dump_job(parse_job(document, "test", None)))
    return folder


def draw(random: np.random.Generator, sign: int) -> NDArray[np.uint8]:
    """Return an image, 32 × 32 × 3, of a green (sign 1) or a blue (-1)."""
    less, red = random.normal(sign * 40, 40), random.uniform(40, 200)
    pixels = random.normal((red, 120 + less, 120 - less), 10, (32, 32, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def calibrate(network: torch.nn.Module, random: np.random.Generator) -> None:
    """Take the statistics of its batch normalisation from such images; without, it sees nothing."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # all batches count the same
    network.train()
    scale = Preprocess()
    for _ in range(4):
        batch = torch.from_numpy(np.stack([draw(random, sign) for sign in (1, -1) * 16]))
        with torch.no_grad():
            network(normalize(batch.permute(0, 3, 1, 2) / 255, [*scale.mean], [*scale.std]))


def graft(folder: Path, *arguments: str) -> commands.Done:
    return commands.graft(*arguments, "--store", "store", cwd=folder, timeout=800)


def answers(folder: Path, spec: str) -> Answers:
    done = graft(folder, "report", "transfer", spec, "--json")
    assert done.returncode == 0, done.stderr
    return Answers.model_validate_json(done.stdout)


@pytest.mark.nightly  # a report of twenty trainings
@pytest.mark.timeout(900)
def test_transfer_that_does_not_help_is_not_shown_to_and_promotion_warns(folder: Path) -> None:
    trained = graft(folder, "train", "random.yaml", "--set", "backbone.freeze=0")
    assert trained.returncode == 0, trained.stderr
    (backbone,) = answers(folder, "random-report.yaml").backbones
    accuracy = {point.arm: point.accuracy.value for point in backbone.points}
    gains = {gain.arm: gain for gain in backbone.gains}
    assert all(0.6 < value < 0.95 for value in accuracy.values()), accuracy  # none is blind
    assert gains["full"].outcome == "not shown"
    interval = gains["full"].difference.interval
    assert interval
    assert interval.low <= 0 <= interval.high
    assert gains["features"].outcome != "better"

    store = Store.open(str(folder / "store"))
    (verdict,) = verdicts(store, get_model(store, "random@1"))  # recorded when the report was done
    assert (verdict.against, verdict.outcome) == ("scratch", "not shown")
    promoted = graft(folder, "models", "promote", "random@1")
    assert promoted.returncode == 0, promoted.stderr
    assert "random@1 is not shown to be better than scratch: full at 100 %" in promoted.stderr
    assert aliases(store, "random") == {"champion": 1}


@pytest.mark.nightly  # a report of twenty trainings
@pytest.mark.timeout(900)
def test_frozen_features_that_hurt_are_warned_of_and_promotion_is_refused(folder: Path) -> None:
    made = answers(folder, "red-report.yaml")
    (backbone,) = made.backbones
    gain = next(gain for gain in backbone.gains if gain.arm == "features")
    assert gain.outcome == "worse"
    assert f"transfer hurts: {gain}" in backbone.warnings
    assert backbone.take != "features"

    trained = graft(folder, "train", "red.yaml")  # after the report, as one does
    assert trained.returncode == 0, trained.stderr
    store = Store.open(str(folder / "store"))
    refused = graft(folder, "models", "promote", "red@1")
    assert refused.returncode == 2
    assert f"red@1 is shown to be worse than scratch: {gain} ({made.report})" in refused.stderr
    assert "--force" in refused.stderr
    assert aliases(store, "red") == {}
    assert graft(folder, "models", "promote", "red@1", "--force").returncode == 0
    assert aliases(store, "red") == {"champion": 1}
