"""`graft report transfer`: the design, and the real command on a tiny dataset."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import commands
from colours import colour_spec, draw_colours, transfer_document
from graft.backbones.verify import random_model
from graft.data.importing import import_dataset
from graft.errors import SpecError
from graft.report.answers import Answers
from graft.report.design import (
    ARMS,
    Budget,
    changes_of,
    chosen_rates,
    first_cells,
    other_cells,
)
from graft.report.reports import list_reports
from graft.spec import TransferReport, dump_job, parse_job
from graft.store import Store
from graft.sweep.results import TrialEpoch, TrialRecord, read_trials

ARCH, OTHER = "timm/test_resnet", "timm/test_efficientnet"


def document(**changes: Any) -> dict[str, Any]:
    base = colour_spec(
        backbone={"arch": ARCH, "weights": "pretrained.pth", "freeze": "all"},
        augment={"kind": "none"},
        scaling={"cpus_per_worker": 2},  # one training at a time: each process imports torch
    )
    found = transfer_document(base, epochs=2, name="tiny", labels=[0.5, 1.0], seeds=2)
    found["arms"]["scratch"]["rates"] = [0.01, 0.02]
    return found | changes


def spec(**changes: Any) -> TransferReport:
    found = parse_job(document(**changes), "test", None)
    assert isinstance(found, TransferReport)
    return found


def test_every_arm_meets_every_budget_and_seed_once() -> None:
    asked = spec(seeds=3)
    first = first_cells(asked)
    assert [(c.backbone, c.budget, c.seed, c.rate) for c in first[:4]] == [
        (0, Budget("scratch", 0.5), 0, 0.01),
        (0, Budget("scratch", 0.5), 0, 0.02),
        (0, Budget("scratch", 1.0), 0, 0.01),
        (0, Budget("scratch", 1.0), 0, 0.02),
    ]
    rates = {(cell.backbone, cell.budget): cell.rate for cell in first}
    others = other_cells(asked, rates)
    assert len(others) == 4 * 2 * 2
    assert {cell.seed for cell in others} == {1, 2}
    assert {cell.rate for cell in others if cell.budget.arm == "scratch"} == {0.02}


def test_every_backbone_gets_the_whole_design() -> None:
    other = {"arch": "resnet18", "weights": "other.pth", "preprocess": {"crop": 64}}
    asked = spec(other_backbones=[other])
    cells = first_cells(asked)
    assert [c for c in cells if not c.backbone] == first_cells(spec())
    (one,) = [c for c in cells if (c.backbone, c.budget) == (1, Budget("features", 1.0))]
    changes = changes_of(asked, one, holds_out=False)
    assert changes["backbone.arch"] == "resnet18"
    assert changes["backbone.weights"] == "other.pth"
    assert changes["preprocess"]["crop"] == 64  # type: ignore[call-overload,index]
    (one, _) = [c for c in cells if (c.backbone, c.budget) == (1, Budget("scratch", 1.0))]
    changes = changes_of(asked, one, holds_out=False)
    assert (changes["backbone.arch"], changes["backbone.weights"]) == ("resnet18", "none")


def test_smaller_budgets_take_as_many_steps() -> None:
    arms = document()["arms"]
    arms["scratch"] |= {"epochs": 6, "patience": 3}
    asked = spec(arms=arms)
    epochs = {
        c.budget.labels: changes_of(asked, c, holds_out=False)
        for c in first_cells(asked)
        if c.budget.arm == "scratch"
    }
    assert (epochs[1.0]["train.epochs"], epochs[0.5]["train.epochs"]) == (6, 12)
    assert epochs[1.0]["train.early_stopping"] == {"metric": "loss", "patience": 3}
    assert epochs[0.5]["train.early_stopping"] == {"metric": "loss", "patience": 6}


def test_cells_of_one_budget_and_seed_learn_from_the_same_images() -> None:
    asked = spec()
    drawn: dict[tuple[float, int], set[str]] = {}
    for cell in first_cells(asked):
        changes = changes_of(asked, cell, holds_out=True)
        images = {key: value for key, value in changes.items() if key.startswith("dataset.")}
        drawn.setdefault((cell.budget.labels, cell.seed), set()).add(json.dumps(images))
        assert (changes.get("backbone.weights") == "none") == (cell.budget.arm == "scratch")
    assert all(len(found) == 1 for found in drawn.values())


def test_a_rate_is_chosen_by_validation_loss_and_never_one_that_diverged() -> None:
    asked = spec()
    cells = [cell for cell in first_cells(asked) if cell.budget == Budget("scratch", 1.0)]

    def record(number: int, loss: float, state: str = "finished") -> TrialRecord:
        epoch = TrialEpoch(epoch=1, train={}, val={"loss": loss, "accuracy": 0.5})
        return TrialRecord.model_validate(
            {"number": number, "id": "x", "changes": {}, "state": state, "epochs": [epoch]}
            | {"seconds": 1, "ended_s": 1}
        )

    better = chosen_rates(zip(cells, [record(1, 0.5), record(2, 0.4)], strict=True))
    assert better == {(0, Budget("scratch", 1.0)): 0.02}
    lost = [record(1, 0.5), record(2, 0.1, "diverged")]
    assert chosen_rates(zip(cells, lost, strict=True)) == {(0, Budget("scratch", 1.0)): 0.01}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [1.0, 0.5]}, "labels: expected ascending budgets"),
        ({"labels": [5, 0.5]}, "labels: give shares, or numbers, not both"),
        ({"labels": []}, "labels"),
        ({"arms": {"scratch": {"freeze": 0, "epochs": 1, "rates": [0.1]}}}, "would be starved"),
        ({"arms": {"scratch": {"freeze": 1, "epochs": 99, "rates": [0.1]}}}, "worth freezing"),
        (
            {"arms": {"scratch": {"freeze": 0, "epochs": 99, "patience": 2, "rates": [0.1]}}},
            "scratch.patience (2) is less than another arm's (20)",
        ),
        (
            {"arms": {"full": {"freeze": 0, "epochs": 9, "patience": 9, "rates": [0.1]}}},
            "patience (9) has no effect in 9 epochs",
        ),
        (
            {"other_backbones": [{"arch": ARCH, "weights": "pretrained.pth"}]},
            "the same backbone and weights are there twice",
        ),
    ],
)
def test_a_design_that_could_show_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_job(document(**changes), "test", None)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("backbone.weights", "none", "there is nothing to transfer from"),
        ("dataset.labels", 0.5, "the report sets labels and holdout"),
        ("scaling.workers", 2, "one worker each"),
        ("register", {"model": "x"}, "base.register has no effect"),
    ],
)
def test_a_base_that_would_treat_arms_unlike_is_refused(key: str, value: Any, said: str) -> None:
    found = document()
    *parents, last = key.split(".")
    node = found["base"]
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(SpecError) as error:
        parse_job(found, "test", None)
    assert said in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has `colours`, weights to transfer from, and a spec."""
    folder = tmp_path_factory.mktemp("transfer")
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(draw_colours(folder / "images", 12, 8)), "colours")
    torch.manual_seed(5)
    torch.save(random_model(ARCH).network.state_dict(), folder / "pretrained.pth")
    (folder / "spec.yaml").write_text(dump_job(spec()))
    return folder


def report(folder: Path, ray: str, *arguments: str) -> commands.Running:
    words = ("report", "transfer", *arguments, "--store", "store")
    return commands.Running(*words, cwd=folder, env={"RAY_ADDRESS": ray})


def without_times(answers: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs between two runs of the same design: its id, and seconds."""
    text = json.dumps(answers).replace(answers["report"], "the report")
    found: dict[str, Any] = json.loads(text)
    for backbone in found["backbones"]:
        for one in backbone["plateaus"]:
            one["seconds"] = one["cold_seconds"] = None
    return found


DESIGN = (
    *("spec.yaml", "--set", "labels=[1.0]"),
    *("--set", f"other_backbones=[{{arch: {OTHER}, weights: other.pth}}]"),
)


@pytest.fixture(scope="module")
def made(folder: Path, ray_cluster_address: str) -> dict[str, Any]:
    """What a report on two backbones says, with two seeds; its page lies in `page`."""
    torch.save(random_model(OTHER).network.state_dict(), folder / "other.pth")
    with report(folder, ray_cluster_address, *DESIGN, "--json", "--out", "page") as running:
        done = running.wait()
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow  # 18 trainings
@pytest.mark.timeout(900)
def test_a_report_answers_for_each_backbone_and_says_which_to_take(
    folder: Path, made: dict[str, Any]
) -> None:
    answers = Answers.model_validate(made)
    assert [backbone.arch for backbone in answers.backbones] == [ARCH, OTHER]
    for backbone in answers.backbones:
        assert [(p.arm, p.labels) for p in backbone.points] == [(arm, 1.0) for arm in ARMS]
        assert len(backbone.sources) == 4 * 2
        assert all(point.accuracy.interval is None for point in backbone.points)
        assert any("2 seeds: no interval can be claimed" in text for text in backbone.warnings)
    assert (answers.split, answers.images) == ("val", 24)
    best = [
        max(p.accuracy.value for p in backbone.points if p.arm == backbone.take)
        for backbone in answers.backbones
    ]
    assert best[answers.take] == max(best)
    less = answers.backbones[1 - answers.take]
    assert answers.why
    assert f"{less.take} of {less.arch}" in answers.why
    page = (folder / "page" / "report.html").read_text()
    assert "What did transfer buy?" in page
    assert all(backbone.title in page for backbone in answers.backbones)
    for name in ("labels.png", "labels-2.png", "gain.png", "corruptions.png", "report.json"):
        assert (folder / "page" / name).stat().st_size > 1000
    show = ("report", "show", answers.report, "--store", "store")
    shown = commands.main(*show, cwd=folder, env={"COLUMNS": "80"}).stdout
    for heading in ("accuracy %", "scratch needs", "points above scratch", "against scratch"):
        assert heading in shown  # none is broken over lines


@pytest.mark.slow  # as many, stopped and gone on with
@pytest.mark.timeout(900)
def test_a_report_that_was_stopped_comes_to_the_same_answers(
    folder: Path, ray_cluster_address: str, made: dict[str, Any]
) -> None:
    with report(folder, ray_cluster_address, *DESIGN) as running:
        running.until(r"\ntrial ")
        running.interrupt()
        done = running.wait()
    assert done.returncode == 130, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "--resume" in line]
    killed = told.split()[-1]
    store = Store.open(str(folder / "store"))
    before = {record.number: record for record in read_trials(store, f"{killed}-rates")}
    assert before
    with report(folder, ray_cluster_address, "--resume", killed, "--json") as running:
        resumed = running.wait()
    assert resumed.returncode == 0, resumed.stderr
    after = {record.number: record for record in read_trials(store, f"{killed}-rates")}
    assert {number: after[number] for number in before} == before  # none was trained again
    assert without_times(json.loads(resumed.stdout)) == without_times(made)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--set", "labels=[0.01, 1.0]"], "leaves none of the 12 training images of class 'blue'"),
        (["--set", "base.dataset.name=colors"], "no dataset 'colors'"),
        (["--set", "base.backbone.weights=absent.pth"], "no file absent.pth"),
        (["--out", "spec.yaml"], "--out spec.yaml: expected a folder, found a file"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    folder: Path, changes: list[str], said: str
) -> None:
    store = Store.open(str(folder / "store"))
    before = list_reports(store), store.children("sweeps/")
    words = ("report", "transfer", "spec.yaml", *changes, "--store", "store")
    done = commands.main(*words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (list_reports(store), store.children("sweeps/")) == before
