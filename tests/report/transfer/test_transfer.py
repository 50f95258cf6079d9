"""`graft reports transfer`: the design, and the real command on a tiny dataset."""

import json
import shutil
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import commands
from colours import colour_spec, draw_colours, transfer_document
from graft.backbones.trunk import tensors_to_bytes
from graft.backbones.verify_architecture import random_model
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.errors import InputError, RunFailed, SpecError, StoreError
from graft.report.publishing import list_reports, read_transfer
from graft.report.transfer.answers import Answers
from graft.report.transfer.cell_result import TrainedCell, read_result
from graft.report.transfer.corruptions import CORRUPTIONS
from graft.report.transfer.design import (
    ARMS,
    Condition,
    changes_of,
    chosen_rates,
    first_cells,
    other_cells,
)
from graft.report.transfer.judging_images import judging_images
from graft.report.transfer.measure_cell import LoadedCell, measure_cell, predict
from graft.report.transfer.run_transfer import Runners, create_transfer, run_transfer
from graft.report.uses import part_of
from graft.spec import TransferReport, dump_job, parse_job
from graft.store import Store, sha256
from graft.sweep.finishing import load_trial_model
from graft.sweep.sweep_records import SweepResult, TrialEpoch, TrialRecord, read_plan, read_trials
from graft.training.prepare_run import assemble

ARCH, OTHER = "timm/test_resnet", "timm/test_efficientnet"


def document(**changes: Any) -> dict[str, Any]:
    base = colour_spec(
        backbone={"arch": ARCH, "weights": "pretrained.pth", "freeze": "all"},
        augment={"kind": "none"},
        scaling={"cpus_per_worker": 2},  # one training at a time: each process imports torch
    )
    made = transfer_document(base, epochs=2, name="tiny", labels=[0.5, 1.0], seeds=2)
    made["arms"]["scratch"]["rates"] = [0.01, 0.02]
    return made | changes


def spec(**changes: Any) -> TransferReport:
    parsed = parse_job(document(**changes), "test", None)
    assert isinstance(parsed, TransferReport)
    return parsed


def test_every_arm_meets_every_budget_and_seed_once() -> None:
    asked = spec(seeds=3)
    first = first_cells(asked)
    assert [(c.backbone, c.condition, c.seed, c.rate) for c in first[:4]] == [
        (0, Condition("scratch", 0.5), 0, 0.01),
        (0, Condition("scratch", 0.5), 0, 0.02),
        (0, Condition("scratch", 1.0), 0, 0.01),
        (0, Condition("scratch", 1.0), 0, 0.02),
    ]
    rates = {(cell.backbone, cell.condition): cell.rate for cell in first}
    others = other_cells(asked, rates)
    assert len(others) == 4 * 2 * 2
    assert {cell.seed for cell in others} == {1, 2}
    assert {cell.rate for cell in others if cell.condition.arm == "scratch"} == {0.02}


def test_every_backbone_gets_the_whole_design() -> None:
    other = {"arch": "resnet18", "weights": "other.pth", "preprocess": {"crop": 64}}
    asked = spec(other_backbones=[other])
    cells = first_cells(asked)
    assert [c for c in cells if not c.backbone] == first_cells(spec())
    (features,) = [c for c in cells if (c.backbone, c.condition) == (1, Condition("features", 1.0))]
    changes = changes_of(asked, features, holds_out=False)
    assert changes["backbone.arch"] == "resnet18"
    assert changes["backbone.weights"] == "other.pth"
    assert changes["preprocess"]["crop"] == 64  # type: ignore[call-overload,index]
    (scratch, _) = [c for c in cells if (c.backbone, c.condition) == (1, Condition("scratch", 1.0))]
    changes = changes_of(asked, scratch, holds_out=False)
    assert (changes["backbone.arch"], changes["backbone.weights"]) == ("resnet18", "none")


def test_smaller_budgets_take_as_many_steps() -> None:
    arms = document()["arms"]
    arms["scratch"] |= {"epochs": 6, "patience": 3}
    asked = spec(arms=arms)
    epochs = {
        c.condition.labels: changes_of(asked, c, holds_out=False)
        for c in first_cells(asked)
        if c.condition.arm == "scratch"
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
        drawn.setdefault((cell.condition.labels, cell.seed), set()).add(json.dumps(images))
        assert (changes.get("backbone.weights") == "none") == (cell.condition.arm == "scratch")
    assert all(len(choices) == 1 for choices in drawn.values())


def test_a_rate_is_chosen_by_validation_loss_and_never_one_that_diverged() -> None:
    asked = spec()
    cells = [cell for cell in first_cells(asked) if cell.condition == Condition("scratch", 1.0)]

    def record(number: int, loss: float, state: str = "finished") -> TrialRecord:
        epoch = TrialEpoch(epoch=1, train={}, val={"loss": loss, "accuracy": 0.5})
        return TrialRecord.model_validate(
            {"number": number, "id": "x", "changes": {}, "state": state, "epochs": [epoch]}
            | {"seconds": 1, "ended_s": 1}
        )

    better = chosen_rates(zip(cells, [record(1, 0.5), record(2, 0.4)], strict=True))
    assert better == {(0, Condition("scratch", 1.0)): 0.02}
    lost = [record(1, 0.5), record(2, 0.1, "diverged")]
    assert chosen_rates(zip(cells, lost, strict=True)) == {(0, Condition("scratch", 1.0)): 0.01}


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
    changed = document()
    *parents, last = key.split(".")
    node = changed["base"]
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(SpecError) as error:
        parse_job(changed, "test", None)
    assert said in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has `colours`, weights to transfer from, and a spec."""
    folder = tmp_path_factory.mktemp("transfer")
    store = Store.open(str(folder / "store"))
    images = draw_colours(folder / "images", 12, 8)
    shutil.copy(images / "train" / "red" / "1.png", images / "train" / "red" / "copy.png")
    import_dataset(store, str(images), "colours", test_fraction=0)
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
    timeless: dict[str, Any] = json.loads(text)
    for backbone in timeless["backbones"]:
        for plateau in backbone["plateaus"]:
            plateau["seconds"] = plateau["cold_seconds"] = None
    return timeless


def recorded(folder: Path, **changes: Any) -> tuple[Store, str]:
    """Record a report of one seed and one rate; return it, and the store."""
    store, asked = Store.open(str(folder / "store")), document(seeds=1, **changes)
    asked["base"]["backbone"]["weights"] = str(folder / "pretrained.pth")
    asked["arms"]["scratch"]["rates"] = [0.01]
    return store, create_transfer(store, parse_job(asked, "test", TransferReport))


def made_up_records(store: Store, sweep_id: str, **changes: Any) -> list[TrialRecord]:
    """Return records of trainings that nobody made."""
    made = {"state": "finished", "seconds": 1.0, "ended_s": 1.0} | changes
    if made["state"] == "finished":
        made["epochs"] = [{"epoch": 1, "train": {}, "val": {"loss": 1.0, "accuracy": 0.5}}]
    return [
        TrialRecord(number=trial.number, id=trial.id, changes=trial.changes, **made)
        for trial in read_plan(store, sweep_id).trials
    ]


def run_sweep(store: Store, sweep_id: str) -> SweepResult:
    """Make up trainings that leave the tails as they were."""
    folder, plan, records = f"sweeps/{sweep_id}/tails", read_plan(store, sweep_id), []
    for record in made_up_records(store, sweep_id):
        key = next((key for key, _ in store.scan(f"{folder}/{record.number}-")), None)
        if key is None:
            model = assemble(store, plan.trial(record.number).spec).model
            tail = tensors_to_bytes(model.tail_state())
            key = f"{folder}/{store.put(folder, f'{record.number}.safetensors', tail).name}"
        records.append(record.model_copy(update={"checkpoint": key}))
    return result_of(sweep_id, records)


def begun(folder: Path, **changes: Any) -> tuple[Store, str, list[TrainedCell]]:
    """Return a report whose cells are trained, as `run_sweep` has it, and none of them tested."""
    store, report = recorded(folder, **changes)
    cells: list[TrainedCell] = []

    def stop(report: str, spec: TransferReport, trained: Sequence[TrainedCell]) -> Iterator[None]:
        cells.extend(trained)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_transfer(store, report, Runners(partial(run_sweep, store), stop), print, take_over=True)
    return store, report, cells


@pytest.mark.slow  # three CPU seconds
def test_a_report_that_is_stopped_tests_no_cell_again(folder: Path) -> None:
    """What is tested is what was trained: the sweep's specs, which nobody resolves again."""
    base = document()["base"]
    base["backbone"]["freeze"] = 0
    base["train"]["rates"] = {"kind": "decay", "factor": 0.5}  # and an arm freezes all
    store, report, cells = begun(folder, labels=[1.0], base=base)
    tested: list[str] = []

    def test(report: str, spec: TransferReport, cells: Sequence[TrainedCell]) -> Iterator[None]:
        for trained in cells:
            measure_cell(store, report, spec, trained, torch.device("cpu"))
            tested.append(trained.name)
            yield

    def stop_after(count: int, done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    runners = Runners(partial(run_sweep, store), test)
    for count in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            run_transfer(store, report, runners, partial(stop_after, count), take_over=True)
        assert tested == [trained.name for trained in cells[:count]]
    kinds = {"features": "uniform", "partial": "decay", "full": "decay"}
    labels = np.zeros(24, np.int64)
    for trained in cells:
        result = read_result(store, report, trained, labels)
        assert result.right.shape == (24,)
        shapes = {name: hits.shape for name, hits in result.corrupted.items()}
        assert shapes == dict.fromkeys(CORRUPTIONS, (3, 24))
        figures, arm = result.figures, trained.cell.condition.arm
        # Twelve images of a class, of copies one, of which two tune.
        assert (figures.images, figures.tuned) == (30, 6)
        assert (figures.way.rates["kind"] if figures.way else None) == kinds.get(arm)
        assert figures.epoch_s
        assert bool(figures.cold_s) == (arm in ("features", "partial"))
    with pytest.raises(StoreError, match="expected hits on 23 test images"):
        read_result(store, report, cells[0], labels[1:])


def test_trainings_that_give_no_model_are_told_before_anything_is_tested(folder: Path) -> None:
    store, report = recorded(folder, labels=[1.0])

    def diverge(sweep_id: str) -> SweepResult:
        return result_of(sweep_id, made_up_records(store, sweep_id, state="diverged"))

    runners = Runners(diverge, lambda *words: pytest.fail("something was tested"))
    with pytest.raises(RunFailed, match=r"scratch at 100 % .* seed 0, gave no model: diverged"):
        run_transfer(store, report, runners, print, take_over=True)


def test_other_backbones_are_resolved_as_the_bases_is(folder: Path) -> None:
    shutil.copy(folder / "pretrained.pth", folder / "again.pth")
    other = {"arch": ARCH, "weights": str(folder / "again.pth"), "preprocess": {"crop": 32}}
    store, report = recorded(folder, labels=[1.0], other_backbones=[other])
    spec = read_transfer(store, report)
    assert spec.other_backbones[0].weights_sha256 == spec.base.backbone.weights_sha256


def test_images_that_are_set_apart_for_calibration_judge_nothing(folder: Path) -> None:
    store = Store.open(str(folder / "store"))
    images = draw_colours(folder / "apart", 3, 8, seed=1)
    (images / "val").rename(images / "test")
    for file in images.glob("test/*/*.png"):
        if part_of(sha256(file.read_bytes())) == "judge":
            file.unlink()
    shutil.copytree(folder / "images" / "val", images / "val")
    import_dataset(store, str(images), "apart")
    base = document()["base"] | {"dataset": {"name": "apart"}}
    with pytest.raises(InputError, match="has no image in split 'test' that judges; import more"):
        recorded(folder, base=base)


@pytest.mark.slow  # eight cells
def test_where_a_test_split_judges_all_validation_labels_tune(folder: Path) -> None:
    images = str(folder / "images")
    import_dataset(Store.open(str(folder / "store")), images, "tested", test_fraction=0.4)
    base = document()["base"] | {"dataset": {"name": "tested"}}
    store, report, cells = begun(folder, base=base)
    few = next(t for t in cells if t.cell.condition == Condition("features", 0.5))
    measure_cell(store, report, read_transfer(store, report), few, torch.device("cpu"))
    dataset = open_dataset(store, "tested")
    judging = judging_images(store, read_transfer(store, report), dataset)
    labels = np.array([image.label for image in judging.images])
    result = read_result(store, report, few, labels)
    assert result.figures.tuned == len(dataset.images("val")) == 24
    assert result.labelled == result.figures.images + 24
    assert (result.corrupted, result.figures.train_accuracy, result.figures.way) == ({}, None, None)


def test_logits_are_there_of_one_batch_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many images, corruptions and cells are tested."""
    store, report, cells = begun(folder, labels=[1.0])
    prepared, chain = load_trial_model(store, cells[0].spec, cells[0].record, 1)
    monkeypatch.setattr("graft.report.transfer.measure_cell.BATCH_SIZE", 8)
    made: list[weakref.ref[torch.Tensor]] = []

    def count(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> None:
        assert all(earlier() is None for earlier in made)
        made.append(weakref.ref(logits))

    prepared.model.tail.register_forward_hook(count)
    prepared.model.eval()
    loaded = LoadedCell(cells[0].spec, prepared, chain, torch.device("cpu"))
    images = judging_images(store, read_transfer(store, report), prepared.dataset).images
    hits, confidence = predict(loaded, images, [("contrast", 1), ("contrast", 3)])
    assert (hits.shape, confidence.shape, len(made)) == ((3, 24), (24,), 12)


def result_of(sweep_id: str, records: list[TrialRecord]) -> SweepResult:
    return SweepResult(
        sweep=sweep_id,
        metric="val.loss",
        mode="min",
        best=None,
        run=None,
        model=None,
        metrics={},
        seconds=1.0,
        states={},
        trunk_images=0,
        cached_images=0,
        trials=tuple(records),
        created="2026-01-01T00:00:00+00:00",
    )


DESIGN = (
    *("spec.yaml", "--set", "labels=[1.0]"),
    *("--set", f"other_backbones=[{{arch: {OTHER}, weights: other.pth}}]"),
)


@pytest.fixture(scope="module")
def stopped(folder: Path, ray_cluster_address: str) -> str:
    """The id of a report on two backbones, with two seeds, that Ctrl-C stopped."""
    torch.save(random_model(OTHER).network.state_dict(), folder / "other.pth")
    with report(folder, ray_cluster_address, *DESIGN) as running:
        running.until(r"\ntrial ")
        running.interrupt()
        done = running.wait()
    assert done.returncode == 130, done.stderr
    (advice,) = [line for line in done.stderr.splitlines() if "--resume" in line]
    return advice.split()[-1]


@pytest.fixture(scope="module")
def resumed(folder: Path, ray_cluster_address: str, stopped: str) -> dict[str, Any]:
    """What that report says once it has gone on; its page lies in `page`."""
    store = Store.open(str(folder / "store"))
    before = {record.number: record for record in read_trials(store, f"{stopped}-rates")}
    assert before
    words = ("--resume", stopped, "--json", "--out", "page")
    with report(folder, ray_cluster_address, *words) as running:
        done = running.wait()
    assert done.returncode == 0, done.stderr
    after = {record.number: record for record in read_trials(store, f"{stopped}-rates")}
    assert {number: after[number] for number in before} == before  # none was trained again
    assert not [key for key, _ in store.scan("sweeps/") if stopped in key and "/tails/" in key]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow  # 18 trainings, stopped and gone on with
@pytest.mark.timeout(900)
def test_a_report_answers_for_each_backbone_and_says_which_to_take(
    folder: Path, resumed: dict[str, Any]
) -> None:
    answers = Answers.model_validate(resumed)
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


@pytest.mark.nightly  # as many trainings once more
@pytest.mark.timeout(900)
def test_a_report_that_was_stopped_comes_to_the_same_answers(
    folder: Path, ray_cluster_address: str, resumed: dict[str, Any]
) -> None:
    with report(folder, ray_cluster_address, *DESIGN, "--json") as running:
        unbroken = running.wait()
    assert unbroken.returncode == 0, unbroken.stderr
    assert without_times(resumed) == without_times(json.loads(unbroken.stdout))


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
