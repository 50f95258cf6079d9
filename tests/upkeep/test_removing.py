"""`graft runs|sweeps|reports|models rm`: what goes, what is refused, and what gc then takes."""

import json
import re
from collections.abc import Callable

import pytest

import commands
from graft.registry import Verdict, get_model, list_models, record_verdict
from graft.store import Store
from graft.upkeep.collecting import collect
from graft.upkeep.policy import Policy
from upkeep_lab import commit_version, missing

Everything = Callable[[Store], dict[str, bytes]]


@pytest.fixture
def store(full_directory: Store) -> Store:
    return full_directory


def graft(store: Store, *words: str) -> commands.Done:
    return commands.main(*words, "--store", store.uri)


def listed(store: Store, noun: str) -> list[str]:
    rows = json.loads(graft(store, noun, "ls", "--json").stdout)[noun]
    return [row[noun[:-1]] for row in rows]


def refused(store: Store, *words: str) -> str:
    done = graft(store, *words, "--yes")
    assert done.returncode == 2
    return done.stderr


def removed(store: Store, *words: str) -> None:
    done = graft(store, *words, "--yes")
    assert done.returncode == 0, done.stderr
    assert "until graft gc --delete removes them" in " ".join(done.stdout.split())  # of 80 columns


def collected(store: Store) -> set[str]:
    """Collect what nothing needs; return the folders that it was in."""
    gone = collect(store, Policy(grace="0s"), lambda done, total: None).removed
    assert missing(store) == []
    return {"/".join(each.entry.key.split("/")[:2]) for each in gone}


def test_a_run(store: Store, everything: Everything) -> None:
    (run,) = listed(store, "runs")
    before = everything(store)
    assert "no run 'x'" in refused(store, "runs", "rm", "x")
    result = store.read(f"runs/{run}/result.json").data
    store.delete(f"runs/{run}/result.json")
    assert "may be at work: it wrote" in refused(store, "runs", "rm", run)
    store.write(f"runs/{run}/result.json", result)
    removed(store, "runs", "rm", run)
    assert listed(store, "runs") == []
    assert "no run" in graft(store, "runs", "show", run).stderr
    assert collected(store) == {f"runs/{run}"}
    after = everything(store)
    kept = {key for key in before if not key.startswith("runs/")}
    assert kept == {key for key in after if not key.endswith("/index.json")} | {
        key for key in kept if key.endswith("/index.json")
    }


def test_a_sweep_and_what_needs_it(store: Store) -> None:
    sweeps = listed(store, "sweeps")
    (plain,) = (name for name in sweeps if name.startswith("colours-"))
    (rates,) = (name for name in sweeps if name.endswith("-rates"))
    report = rates.removesuffix("-rates")
    figures = store.read(f"reports/{report}/report.json").data
    store.delete(f"reports/{report}/report.json")
    assert f"graft reports transfer --resume {report}" in refused(store, "sweeps", "rm", rates)
    store.write(f"reports/{report}/report.json", figures)
    for name in sweeps:
        removed(store, "sweeps", "rm", name)
    assert listed(store, "sweeps") == []
    assert collected(store) == {f"sweeps/{name}" for name in sweeps}
    assert "colours@2" in graft(store, "models", "show", "colours@2").stdout
    assert plain in sweeps


def test_a_trial_of_a_sweep_that_goes_on(store: Store) -> None:
    (run,) = listed(store, "runs")
    (result,) = (key for key, _ in store.scan("sweeps/colours-") if key.endswith("/result.json"))
    folder = result.rpartition("/")[0]
    store.delete(result)
    store.delete("sweeps/index.json")
    trial = json.loads(store.read(f"{folder}/trials/1.json").data)
    store.write(f"{folder}/trials/1.json", json.dumps(trial | {"run": run}).encode())
    store.delete(f"{folder}/trials-index.json")
    assert "graft sweeps rm colours-" in refused(store, "runs", "rm", run, "--force")


def test_a_report(store: Store) -> None:
    report = next(name for name in listed(store, "reports") if name.startswith("colours-1-on-"))
    verdict = Verdict(
        against="scratch", outcome="better", p_value=0.01, why="0.9 against 0.5", report=report
    )
    record_verdict(store, get_model(store, "colours@1"), verdict)
    assert "is evidence of colours@" in refused(store, "reports", "rm", report)
    assert "no report" in refused(store, "reports", "rm", "x")
    removed(store, "reports", "rm", report, "--force")
    assert report not in listed(store, "reports")
    assert collected(store) == {f"reports/{report}"}


def test_a_version(store: Store) -> None:
    versions = listed(store, "models")
    assert versions == ["colours@1", "colours@2"]
    assert "champion of colours points at colours@1" in refused(store, "models", "rm", "colours@1")
    assert "expected NAME@VERSION" in refused(store, "models", "rm", "colours")
    for alias in ("candidate", "champion"):
        assert graft(store, "models", "promote", "colours@1", "--alias", alias).returncode == 0
    child = commit_version(store, "child", 64 * "e", 1)
    document = json.loads(store.read(f"{child.folder}/model.json").data)
    document["lineage"]["weights"] = "model://colours@2"
    store.write(f"{child.folder}/model.json", json.dumps(document).encode())
    assert "child@1 began with the weights of colours@2" in refused(
        store, "models", "rm", "colours@2"
    )
    (finished,) = (
        key
        for key, _ in store.scan("predictions/")
        if key.endswith("/prediction.json")
        and json.loads(store.read(key).data)["model"] == "colours@2"
    )
    store.delete(finished)
    assert "is not finished" in refused(store, "models", "rm", "colours@2", "--force")
    store.delete(finished.replace("prediction.json", "begun.json"))
    removed(store, "models", "rm", "colours@2", "--force")
    assert listed(store, "models") == ["child@1", "colours@1"]
    assert "no version or alias '2'" in graft(store, "models", "show", "colours@2").stderr
    collected(store)
    left = {key for key, _ in store.scan("models/colours/versions/2/")}
    assert left == {"models/colours/versions/2/removed.json"}
    assert commit_version(store, "colours", 64 * "e", 7).version == 3
    assert [row.version for row in list_models(store)["colours"]] == [1, 3]
    assert not re.search("colours@2", graft(store, "models", "ls").stdout)
