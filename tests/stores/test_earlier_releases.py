"""Stores that earlier releases wrote are read by this one.

Each archive is a whole store, named by the commit that wrote it: a dataset of three colours, a run
of two epochs whose head alone is trained, a sweep of two trials, both models, their evaluations, a
transfer report, and a job; from manifests of format 3 on also a version that adds to the dataset,
decisions, predictions and what engines keep; later ones also have a run that was broken off inside
an epoch. One is added by `make_store.py` whenever a stored format changes; none is ever removed.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import commands
from graft.activations.cache import ActivationCache
from graft.activations.key import CacheEntry, key_scheme
from graft.activations.list_and_remove import list_activations
from graft.backbones.trunk import trunk_chain
from graft.cluster.job_logs import read_log
from graft.cluster.job_records import read_job, read_job_spec
from graft.data.manifest import open_dataset
from graft.decisions.records import decision_in_force
from graft.decisions.rules import Thresholds
from graft.prediction.compare import decisions
from graft.prediction.records import list_predictions
from graft.registry import aliases, get_model, list_models
from graft.report.decision.tries import Try
from graft.report.evaluation.scores import Scores
from graft.report.publishing import list_reports, read_report, read_transfer
from graft.report.transfer.answers import Answers
from graft.serving.engines.choice import EngineChoice
from graft.serving.engines.kept_graph import KeptGraph
from graft.serving.predictor import Predictor
from graft.store import Store, read_document
from graft.sweep.best_trial import best_trial
from graft.sweep.sweep_list import list_sweep_rows
from graft.sweep.sweep_records import (
    read_plan,
    read_sweep,
    read_sweep_result,
    read_trials,
)
from graft.training.attempt_pointer import read_pointer
from graft.training.checkpoint import latest_checkpoint, load_state
from graft.training.events import Event, Started
from graft.training.prepare_run import assemble
from graft.training.run_position import run_position
from graft.training.run_records import latest_epoch, read_result, read_spec, run_folder

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.xz"))
FIRST = {"48723a8", "4a76f15", "06213ff", "0f7f919"}
"""Of releases without decisions and predictions."""


def short(archive: Path) -> str:
    """Return the commit that an archive is named by."""
    return archive.name.partition(".")[0]


@pytest.fixture(scope="module", params=ARCHIVES, ids=short)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return extracted(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=[p for p in ARCHIVES if short(p) not in FIRST], ids=short)
def deciding(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of a release that has decisions and predictions."""
    return extracted(request.param, tmp_path_factory)


def extracted(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("earlier") / "store"
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return Store.open(str(folder))


def finished_run(store: Store) -> str:
    """Return the run that every archive has."""
    (run,) = [run for run in store.children("runs/") if read_result(store, run)]
    return run


def graft(store: Store, *words: str) -> commands.Done:
    return commands.main(*words, "--store", store.uri, env={"COLUMNS": "100"})


def test_its_documents_carry_their_format(store: Store, request: pytest.FixtureRequest) -> None:
    documents = {
        key: json.loads(store.read(key).data)
        for key, _ in store.scan("")
        if key.endswith(".json") and not key.endswith("index.json") and "/metrics/" not in key
    }
    numbered = {key for key, document in documents.items() if "format" in document}
    if "48723a8" in request.node.name:  # the last one without
        assert all("manifest.json" in key or "/index/" in key for key in numbered)
    else:
        assert numbered == documents.keys()


def test_its_dataset(store: Store) -> None:
    dataset = open_dataset(store, "colours", "latest")
    assert dataset.manifest.classes == ("blue", "green", "red")
    images = dataset.images("train")
    assert len(images) == (15 if dataset.manifest.parent else 12)
    assert all(dataset.read(image).startswith(b"\x89PNG") for image in images)
    assert "colours@" in graft(store, "data", "show", "colours").stdout


def test_its_run_and_the_name_of_its_trunk(store: Store) -> None:
    run = finished_run(store)
    spec, result = read_spec(store, run), read_result(store, run)
    pointer = read_pointer(store, run_folder(run))
    assert result is not None
    assert pointer is not None
    assert (pointer.attempt, result.model) == (1, "colours@1")
    last = latest_epoch(store, run)
    assert last is not None
    assert last.epoch == spec.train.epochs
    checkpoint = latest_checkpoint(store, run)
    assert checkpoint is not None
    assert load_state(store, checkpoint).tail.keys()
    prepared = assemble(store, spec)
    chain = trunk_chain(prepared.model, prepared.contract)
    assert chain.digests[result.freeze] == result.trunk_digest
    assert json.loads(graft(store, "runs", "show", run, "--json").stdout)["result"]["run"] == run
    assert "has finished already" in graft(store, "runs", "resume", run).stderr


def test_its_run_that_was_broken_off_inside_an_epoch(
    store: Store, train_alone: Callable[..., list[Event]]
) -> None:
    broken = [run for run in store.children("runs/") if not read_result(store, run)]
    if not broken:
        pytest.skip("of a release without checkpoints inside epochs")
    (run,) = broken
    assert str(run_position(store, run)) == "in epoch 2 after step 1/2"
    started = train_alone(store, run)[0]
    assert isinstance(started, Started)
    assert (started.epoch, started.step) == (1, 1)
    store.delete(f"runs/{run}/result.json")  # for the next test


def test_its_activations(store: Store) -> None:
    run = finished_run(store)
    spec = read_spec(store, run)
    prepared = assemble(store, spec)
    keys = key_scheme(spec, trunk_chain(prepared.model, prepared.contract), "cpu")
    trunk = keys.key(prepared.model.depth, 0).trunk
    cached = next(one for one in list_activations(store) if one.key.trunk == trunk)
    theirs = replace(keys, backend=cached.key.backend)  # this release would compute them anew
    activations = ActivationCache(store, prepared.dataset, theirs).get(
        CacheEntry("val", 0, prepared.model.depth)
    )
    assert activations is not None
    assert len(activations) == 6
    assert len(activations.take(activations.digests)) == 6


def test_its_sweep(store: Store) -> None:
    sweep = next(row.sweep for row in list_sweep_rows(store) if row.sweep.startswith("colours-"))
    spec, plan, trials = (
        read_sweep(store, sweep),
        read_plan(store, sweep),
        read_trials(store, sweep),
    )
    assert [trial.number for trial in trials] == [trial.number for trial in plan.trials] == [1, 2]
    result = read_sweep_result(store, sweep)
    assert result is not None
    assert result.best == best_trial(trials, spec.search.metric, spec.search.mode)
    assert result.model == "colours@2"
    assert "colours@2" in graft(store, "sweeps", "show", sweep).stdout
    assert "has finished already" in graft(store, "sweep", "--resume", sweep).stderr


def test_its_models_give_their_golden_images_outputs(store: Store) -> None:
    assert aliases(store, "colours") == {"candidate": 2, "champion": 1}
    assert [row.version for row in list_models(store)["colours"]] == [1, 2]
    for name in ("colours@champion", "colours@candidate"):
        Predictor.load(store, get_model(store, name))  # else it raises


def test_its_reports(store: Store) -> None:
    listed = [row for row in list_reports(store) if not row.report.endswith("-test")]
    kinds = {row.report: row.kind for row in listed}
    assert sorted(kinds.values()) == ["evaluation", "evaluation", "transfer"]
    for name, kind in kinds.items():
        report = read_report(store, name)
        if kind == "evaluation":
            assert Scores.model_validate(report.found).images == 6
            document = json.loads(graft(store, "reports", "show", name, "--json").stdout)
            assert sum(map(sum, document["confusion"])) == 6
        else:
            assert Answers.model_validate(report.found).report == name
            assert read_transfer(store, name).kind == "transfer-report"
        shown = graft(store, "reports", "show", name)
        assert shown.returncode == 0, shown.stderr
        assert "accuracy" in shown.stdout
    compared = graft(store, "models", "compare", "colours@1", "colours@2", "--split", "val")
    assert compared.returncode == 0, compared.stderr


def test_its_job(store: Store) -> None:
    record = read_job(store, "colours-job")
    assert record is not None
    assert (record.state, record.model, record.attempt) == ("succeeded", "colours@1", 1)
    assert "kind: finetune" in read_job_spec(store, "colours-job")
    assert b"".join(read_log(store, "colours-job", "driver")) == b"epoch 1/2\n"


def test_its_decisions(deciding: Store) -> None:
    version = get_model(deciding, "colours@1")
    decision = decision_in_force(deciding, version)
    assert decision is not None
    assert decision.promises[0].target.kind == "accuracy"
    assert isinstance(decision.rule, Thresholds)
    for name, ref in decision.files.items():
        assert deciding.get(decision.folder, ref), name
    assert Predictor.load(deciding, version).decision == decision
    tried = read_document(deciding, "models/colours/tried/colours/1.json", Try)
    assert (tried.model, tried.before) == (version.ref, decision.tried_before) == ("colours@1", 0)
    plain = decision_in_force(deciding, get_model(deciding, "colours@2"))
    assert plain is not None
    assert plain.rule.kind == "likeliest"


def test_its_predictions(deciding: Store) -> None:
    (second, other), (first, plain) = list_predictions(deciding)
    assert other is not None
    assert plain is not None
    assert (first.images, first.parts, second.decision) == (60, 2, 1)
    for finished in (other, plain):
        assert sum(finished.decisions.values()) == finished.images == 60
        answers = decisions(Store.open(finished.out), finished.parts)
        assert Counter(answers["decision"].to_pylist()) == finished.decisions
    assert other.compared is not None
    assert (other.compared.against, other.compared.images) == (first.prediction, 60)
    shown = graft(deciding, "predictions", "show", second.prediction)
    assert shown.returncode == 0, shown.stderr
    again = graft(deciding, "predict-batch", "--resume", first.prediction)
    assert again.returncode == 0, again.stderr


def test_what_its_engines_keep(deciding: Store) -> None:
    version = get_model(deciding, "colours@1")
    (choice,) = deciding.scan(f"{version.folder}/engines/")
    record = read_document(deciding, choice[0], EngineChoice)
    assert record.engine in record.images_per_second
    (kept,) = (key for key, _ in deciding.scan("exports/") if key.endswith(".json"))
    graph = read_document(deciding, kept, KeptGraph)
    assert deciding.get(graph.folder, graph.graph)
