"""`graft models calibrate|decide` on a real model, and what is in the store afterwards."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import commands
from graft.cli.commands.decisions import _read_costs
from graft.cli.commands.run_job import _evaluation
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.decisions.calibration import NONE
from graft.decisions.promises import Target, certify
from graft.decisions.records import decision_in_force, list_decisions
from graft.decisions.rules import Costs, Thresholds
from graft.errors import InputError, NotShown
from graft.registry import ModelVersion, get_model
from graft.report.decision.held_out import held_out, role_of
from graft.report.publishing import read_report
from graft.report.uses import part_of
from graft.serving.predictor import Predictor
from graft.spec import Evaluation, Scaling
from graft.store import Store
from models import register_model


def graft(store: Store, *arguments: str) -> commands.Done:
    return commands.main("models", *arguments, "--store", store.uri)


def document(store: Store, *arguments: str) -> Any:
    done = graft(store, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(store: Store, *arguments: str) -> str:
    done = graft(store, *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def model(store: Store) -> ModelVersion:
    return get_model(store, "colours@1")


def test_each_image_has_one_role() -> None:
    digests = [f"{number:064x}" for number in range(6000)]
    roles = [role_of(digest) for digest in digests]
    assert [part_of(one) == "judge" for one in digests] == [role == "judge" for role in roles]
    shares = {role: roles.count(role) / len(roles) for role in ("fit", "certify", "judge")}
    assert shares == pytest.approx({"fit": 1 / 6, "certify": 1 / 3, "judge": 1 / 2}, abs=0.03)


@pytest.mark.slow
def test_a_promise_is_certified_by_images_that_neither_chose_nor_judge(
    store: Store, tmp_path: Path
) -> None:
    words = ("decide", "colours", "--recall", "blue=0.6", "--accuracy", "0.6")
    made = document(store, *words, "--out", str(tmp_path / "page"))
    version = model(store)
    decision = decision_in_force(store, version)
    assert decision is not None
    assert (decision.number, decision.confidence) == (1, 0.95)
    assert made["promises"] == json.loads(decision.model_dump_json())["promises"]
    data = open_dataset(store, "colours")
    parts = held_out(store, version, data, Scaling(), lambda done, total: None)
    sets = [set(some.images) for some in (parts.fitting, parts.certifying, parts.judging)]
    assert [len(some) for some in sets] == [
        decision.fitted_on,
        decision.certified_on,
        decision.held.images if decision.held else 0,
    ]
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert isinstance(decision.rule, Thresholds)
    predictor = Predictor.load(store, version)
    answers = predictor.answer(parts.certifying.logits)
    for promise in decision.promises:
        labels = parts.certifying.labels
        again = certify(promise.target, answers.decided, labels, version.classes)
        assert again == promise
        assert promise.p_value <= 0.05 / 2  # the part of the risk that a first try has
    assert (decision.level, decision.tried_before) == (pytest.approx(0.05 / 2), 0)
    assert decision.used_before == 1  # by the evaluation
    assert decision.left_out == ()
    page = (tmp_path / "page" / "report.html").read_text()
    assert "recall of blue at least 60 %" in page
    assert (tmp_path / "page" / "trade-off-1.png").stat().st_size > 5000
    assert json.loads((tmp_path / "page" / "decision.json").read_text())["number"] == 1


@pytest.mark.slow
def test_what_cannot_be_promised_is_refused_and_says_what_it_takes(store: Store) -> None:
    said = refused(store, "decide", "colours", "--recall", "blue=0.999")
    assert "cannot be promised with" in said
    assert "more test images of blue" in said
    assert "this is try 1 with these images, tested at a level of 0.025" in said
    said = refused(store, "decide", "colours", "--recall", "red=0.97", "--precision", "red=0.97")
    assert "red" in said
    assert "this is try 2 with these images, tested at a level of 0.0083" in said
    said = refused(store, "decide", "colours", "--sets", "0.999")
    assert "label" in said
    assert list_decisions(store, model(store)) == []
    for _ in range(2):  # to ask the same again is no other thing
        made = document(store, "decide", "colours", "--accuracy", "0.5")
        assert made["tried_before"] == 3
        assert made["level"] == pytest.approx(0.05 / 20)
        assert made["used_before"] == 1  # what was refused looked at none that judge


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--recall", "blu=0.5"], "no class 'blu'; did you mean 'blue'?"),
        (["--recall", "0.5"], "expected CLASS=SHARE"),
        (["--recall", "blue=half"], "expected a share between 0 and 1"),
        (["--recall", "blue=95"], "expected a share between 0 and 1"),
        (["--recall", "blue=0.5", "--recall", "blue=0.6"], "one for 'blue' already"),
        (["--accuracy", "1"], "--accuracy 1: expected a share"),
        (["--accuracy", "0.5", "--confidence", "95"], "--confidence 95: expected a share"),
        ([], "one of these"),
        (["--sets", "0.9", "--accuracy", "0.9"], "one of these"),
        (["--plain", "--sets", "0.9"], "nothing else with it"),
        (["--plain", "--confidence", "0.95"], "nothing else with it"),
        (["--plain", "--dataset", "colours"], "nothing else with it"),
        (["--plain", "--out", "page"], "nothing else with it"),
        (["--plain", "--gpus", "1"], "nothing else with it"),
        (["--sets", "0.9", "--confidence", "0.95"], "--confidence is that of targets"),
        (["--costs", "any.yaml", "--confidence", "0.9"], "--confidence is that of targets"),
        (["--accuracy", "0.5", "--mean-cost", "1"], "--mean-cost needs --costs"),
        (["--accuracy", "0.5", "--dataset", "nothing"], "nothing"),
        (["--costs", "nowhere.yaml"], "nowhere.yaml: No such file"),
    ],
)
def test_what_is_asked_wrongly(untrained: Store, words: list[str], expected: str) -> None:
    assert expected in refused(untrained, "decide", "colours", *words)
    assert list_decisions(untrained, model(untrained)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1", "expected costs by true class and answer"),
        ("{blue: {green: 1", "line"),
        ("{blue: {green: 1, red: 1}}", "lacks the class 'green'"),
        ("{blue: {green: 1}, green: {blue: 1}, red: {blue: 1}}", "blue lacks the cost"),
        ("{blu: {green: 1}}", "no class 'blu'; did you mean 'blue'?"),
        ("{blue: {green: x, red: 1}, green: {blue: 1, red: 1}, red: {blue: 1, green: 1}}", "'x'"),
        ("{blue: {gren: 1}, green: {}, red: {}}", "'gren'; did you mean 'green'?"),
    ],
)
def test_a_file_of_costs_that_is_none(
    untrained: Store, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "costs.yaml").write_text(text)
    costs = str(tmp_path / "costs.yaml")
    assert expected in refused(untrained, "decide", "colours", "--costs", costs)


def test_classes_of_costs_that_yaml_takes_for_numbers(tmp_path: Path) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text("{0: {true: 2}, true: {0: 3}}")
    assert _read_costs(path, ("0", "true")) == Costs(costs=((0, 2), (3, 0)))
    path.write_text("{0: {2: 2}, 2: {0: 3}}")
    with pytest.raises(InputError, match="no class '2'"):
        _read_costs(path, ("0", "1"))
    path.write_text("{0: {1: 2, unknown: 0.5}, '1': {0: 3, unknown: 0.5}}")
    assert _read_costs(path, ("0", "1")) == Costs(costs=((0, 2), (3, 0)), unknown=(0.5, 0.5))
    path.write_text("{0: {1: 2, '1': 3}, 1: {0: 3}}")
    with pytest.raises(InputError, match="'1' stands there twice"):
        _read_costs(path, ("0", "1"))


@pytest.mark.parametrize("words", [["--recall", "ants=0.5"], ["--sets", "0.9"], ["--costs", "c"]])
def test_a_version_with_a_class_called_unknown(tmp_path: Path, words: list[str]) -> None:
    store = Store.open(str(tmp_path / "store"))
    register_model(store, "colours", classes=("ants", "unknown"))
    (tmp_path / "c").write_text("{ants: {unknown: 1}, unknown: {ants: 1}}")
    words = [str(tmp_path / "c") if word == "c" else word for word in words]
    assert "has a class 'unknown'" in refused(store, "decide", "colours", *words)
    assert graft(store, "decide", "colours", "--plain").returncode == 0


@pytest.mark.slow
def test_costs_and_their_mean(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text(
        "{blue: {green: 1, red: 5, unknown: 0.2}, green: {blue: 1, red: 1, unknown: 0.2},"
        " red: {blue: 1, green: 1, unknown: 0.2}}"
    )
    words = ("decide", "colours", "--costs", str(path))
    assert "cannot be promised" in refused(store, *words, "--mean-cost", "0.01")
    made = document(store, *words, "--mean-cost", "1.5")
    assert made["promises"][0]["mean_cost"] < 1.5
    decision = decision_in_force(store, model(store))
    assert decision is not None
    assert decision.rule == Costs(costs=((0, 1, 5), (1, 0, 1), (1, 1, 0)), unknown=(0.2, 0.2, 0.2))
    assert "tested at a level of 0.025" in refused(store, *words, "--mean-cost", "0.01")
    without = document(store, *words)  # a promise: no try
    assert (without["tried_before"], without["level"]) == (0, None)
    assert without["used_before"] == 2
    assert document(store, *words, "--mean-cost", "1.6")["tried_before"] == 2


@pytest.mark.slow
def test_sets_are_judged(store: Store) -> None:
    made = document(store, "decide", "colours", "--sets", "0.8")
    held = made["held"]
    assert abs(held["covered"] / held["images"] - 0.8) < 0.15
    assert 0.8 <= held["mean_set"] < 3
    assert made["promises"] == []


@pytest.mark.slow
def test_calibration_by_test_images(store: Store) -> None:
    """Logits that are three times too large: a temperature of about three undoes that."""
    spoilt(store, 3.0)
    made = document(store, "calibrate", "colours@1")
    assert made["calibration"]["method"] in ("temperature", "vector")
    assert made["error_after"] < made["error_before"]
    assert made["split"] == "test"
    assert not made["crossed"]
    assert made["held"]["answered"] == made["held"]["images"]


@pytest.mark.slow
def test_calibration_by_validation_images(store: Store) -> None:
    spoilt(store, 4.0, "untested")
    made = document(store, "calibrate", "colours", "--dataset", "untested")
    assert (made["split"], made["crossed"], made["held"]) == ("val", True, None)
    assert made["error_after"] < made["error_before"]


@pytest.mark.slow
def test_no_calibration_where_none_helps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.decisions.calibration.AHEAD", 1e9)
    assert "is shown to help" in refused(store, "calibrate", "colours")
    assert list_decisions(store, model(store)) == []


@pytest.mark.slow
def test_validation_images_promise_nothing(store: Store) -> None:
    words = ("decide", "colours", "--accuracy", "0.5", "--dataset", "untested")
    assert "no test images" in refused(store, *words)
    assert list_decisions(store, model(store)) == []


@pytest.mark.slow
def test_few_images_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import graft.report.decision.held_out as module

    monkeypatch.setattr(module, "role_of", lambda digest: "judge")
    data = open_dataset(store, "colours")
    with pytest.raises(NotShown, match="too few test images"):
        held_out(store, model(store), data, Scaling(), lambda done, total: None)


@pytest.mark.slow
def test_images_that_the_version_has_seen_are_named_where_too_few_are_left(
    store: Store, trained_shades: Path, tmp_path: Path
) -> None:
    """Images that trained the version are imported again, as test images."""
    shutil.copytree(trained_shades.parent / "images" / "val", tmp_path / "again" / "val")
    shutil.copytree(trained_shades.parent / "images" / "train", tmp_path / "again" / "test")
    shutil.copytree(trained_shades.parent / "images" / "test", tmp_path / "again" / "train")
    import_dataset(store, str(tmp_path / "again"), "again")
    words = ("decide", "colours", "--accuracy", "0.5", "--dataset", "again")
    assert "72 of 72 images trained colours@1" in refused(store, *words)


@pytest.mark.slow
def test_an_evaluation_tells_what_the_decision_answers(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document(store, "decide", "colours", "--sets", "0.8")
    done = commands.main("evaluate", "colours", "--store", store.uri)
    assert "by decision 1, which is in force" in done.stdout
    assert "hold the true class" in done.stdout
    done = commands.main("evaluate", "colours", "--store", store.uri, "--json")
    shown = json.loads(done.stdout)
    assert shown["decision"]["number"] == 1
    report = read_report(store, shown["report"])
    monkeypatch.setattr("graft.report.evaluation.ray_task.evaluate_on_ray", lambda *_: report)
    _evaluation(store, Evaluation(kind="evaluation", model="colours@1"))  # as a job does
    assert "by decision 1, which is in force" in capsys.readouterr().out


def spoilt(store: Store, factor: float, dataset: str = "colours") -> ModelVersion:
    """Have the evaluation of a dataset say that the version's logits are larger than they are."""
    from graft.report.evaluation import evaluate as module

    version, data = model(store), open_dataset(store, dataset)
    split = "test" if dataset == "colours" else "val"
    report = module.evaluate(store, version, data, split, Scaling(), lambda done, total: None)
    told = module.predictions_of(store, report)
    files = {
        name: store.get(report.folder, ref)
        for name, ref in report.files.items()
        if name != module.PREDICTIONS
    }
    files[module.PREDICTIONS] = module.to_parquet(replace(told, logits=told.logits * factor))
    for key, _ in list(store.scan(f"{report.folder}/")):
        store.delete(key)
    module.publish_report(
        store, report.report, "evaluation", module.Scores.model_validate(report.found), files
    )
    return version


@pytest.mark.slow
def test_targets_are_kept_in_their_order_and_taken_back(store: Store) -> None:
    before = {key for key, _ in store.scan("models/")}
    words = ("--precision", "red=0.4", "--recall", "blue=0.5", "--recall", "green=0.4")
    document(store, "decide", "colours", *words)
    new = {key for key, _ in store.scan("models/")} - before
    assert new
    assert all("/decisions/" in key or "/tried/" in key for key in new)
    decision = decision_in_force(store, model(store))
    assert decision is not None
    assert isinstance(decision.rule, Thresholds)
    assert [one.name for one in decision.rule.by_class] == ["blue", "green", "red"]
    assert [promise.target for promise in decision.promises] == [
        Target(kind="recall", name="blue", value=0.5),
        Target(kind="recall", name="green", value=0.4),
        Target(kind="precision", name="red", value=0.4),
    ]
    done = graft(store, "calibrate", "colours")
    assert "the thresholds of decision 1 go" in done.stderr
    document(store, "decide", "colours", "--plain")
    plain = decision_in_force(store, model(store))
    assert plain is not None
    assert plain.number > 1
    assert (plain.rule.kind, plain.calibration) == ("likeliest", NONE)
