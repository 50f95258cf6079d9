"""`graft fsck`: each damage is found by name, and what can be made again is."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
from graft.activations.list_and_remove import list_activations
from graft.data.manifest import latest, list_versions
from graft.store import Store, is_payload
from graft.training.run_records import list_run_rows
from graft.upkeep.checking import check, skewed
from graft.upkeep.contents import SPEC, Contents
from graft.upkeep.damage import INDEX, Mend
from graft.upkeep.references import KINDS, kind_of

DAMAGES = 50


@pytest.fixture
def store(full_directory: Store) -> Store:
    return full_directory


def fsck(store: Store, *words: str) -> commands.Done:
    return commands.main("fsck", *words, "--store", store.uri)


def altered(data: bytes) -> bytes:
    """Return the same number of bytes, one of them another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def newer(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | {"format": 99, "release": "9.0"}).encode()


def other_row(data: bytes) -> bytes:
    """Return an index in which a row is another marker's."""
    document = json.loads(data)
    name = next(iter(document["rows"]))
    document["rows"] = {"gone-20260101-000000-0000": document["rows"][name]}
    return json.dumps(document).encode()


CHANGES: dict[str, tuple[Callable[[str], bool], Callable[[bytes], bytes | None]]] = {
    "a file that is gone": (is_payload, lambda data: None),
    "a file cut short": (is_payload, lambda data: data[:-1]),
    "a file with one bit changed": (is_payload, altered),
    "a document that is no JSON": (lambda key: kind_of(key) is not None, lambda data: b"{"),
    "a document that is no text": (lambda key: kind_of(key) is not None, lambda data: b"\xff\xfe"),
    "a document cut in half": (
        lambda key: kind_of(key) is not None,
        lambda data: data[: len(data) // 2],
    ),
    "an empty document": (lambda key: kind_of(key) is not None, lambda data: b"{}"),
    "a document of tomorrow": (lambda key: kind_of(key) is not None, newer),
    "a spec that is none": (lambda key: bool(SPEC.fullmatch(key)), lambda data: b"kind: [\n"),
    "a spec cut short": (lambda key: bool(SPEC.fullmatch(key)), lambda data: data[:40]),
    "a lost marker": (
        lambda key: bool(re.fullmatch(r"stages/.*json|models/.*/versions/1/model.json", key)),
        lambda data: None,
    ),
    "a lost spec": (
        lambda key: bool(re.fullmatch(r"(runs|sweeps)/[^/]+/spec\.yaml", key)),
        lambda data: None,
    ),
    "a row of nothing": (lambda key: bool(INDEX.fullmatch(key)), other_row),
    "an index that is none": (lambda key: bool(INDEX.fullmatch(key)), lambda data: data[:-1]),
    "a pointer to nothing": (lambda key: key.endswith("/latest"), lambda data: b"0123456789abcdef"),
}
"""Of which objects, and what becomes of their bytes; None: they are gone."""


def change(store: Store, key: str, become: Callable[[bytes], bytes | None]) -> bytes:
    """Damage an object; return what it was."""
    before = store.read(key).data
    after = become(before)
    if after is None:
        store.delete(key)
    else:
        store.write(key, after)
    return before


def test_a_whole_store_is_whole(store: Store, objects: dict[str, bytes]) -> None:
    checked = check(store)
    assert checked.damages == ()
    assert checked.payloads == sum(map(is_payload, objects))
    assert checked.skew_s is not None
    assert abs(checked.skew_s) < 5
    assert "whole" in fsck(store).stdout


@pytest.mark.slow
def test_each_of_fifty_damages_is_found_by_name(store: Store, objects: dict[str, bytes]) -> None:
    chance, kinds = random.Random(0), list(CHANGES)
    for number in range(DAMAGES):
        eligible, become = CHANGES[kinds[number % len(kinds)]]
        key = chance.choice([key for key in sorted(objects) if eligible(key) and objects[key]])
        before = change(store, key, become)
        checked = check(store)
        assert key in {damage.key for damage in checked.damages}, (kinds[number % len(kinds)], key)
        store.write(key, before)
    assert check(store).damages == ()


def test_what_is_found_says_what_is_lost_and_what_to_do(store: Store) -> None:
    contents = Contents.of(store)
    (shard, *_) = (key for key in contents.entries if "/shard-" in key)
    stage = next(key for key in contents.entries if re.fullmatch("stages/.*safetensors", key))
    run = next(key for key in contents.entries if re.fullmatch("runs/[^/]+/result.json", key))
    change(store, shard, altered)
    change(store, stage, lambda data: None)
    change(store, run, newer)
    (dataset,) = (d for d in check(store).damages if d.key == shard)
    assert len(dataset.lost) == 2  # the version that adds to it reads it, too
    assert "import the same images again" in dataset.remedy
    by_key = {damage.key: damage for damage in check(store, quick=True).damages}
    assert by_key.keys() == {stage, run}
    lost = ("alias candidate of model colours", "alias champion of model colours")
    assert by_key[stage].lost == (*lost, "model colours@1", "model colours@2")
    assert by_key[stage].found == "there is nothing"
    assert "Install Graft 9.0" in by_key[run].found
    done = fsck(store, "--quick")
    assert done.returncode == 1
    assert "of model colours, model colours@1, model colours@2" in " ".join(done.stdout.split())
    document = json.loads(fsck(store, "--json").stdout)
    assert not document["whole"]
    assert {damage["key"] for damage in document["damages"]} == {shard, stage, run}


def test_what_can_be_made_again_is_mended(store: Store, objects: dict[str, bytes]) -> None:
    (entry, *_) = list_activations(store)
    shard = next(key for key, _ in store.scan(f"{entry.key.folder}/part-"))
    graph = next(key for key in objects if re.fullmatch("exports/.*onnx", key))
    indexes = [key for key in objects if INDEX.fullmatch(key)]
    versions = [manifest.version for manifest in list_versions(store, "colours")]
    change(store, shard, altered)
    change(store, graph, lambda data: None)
    change(store, "datasets/colours/latest", lambda data: b"nothing")
    for key in indexes:
        change(store, key, other_row)
    runs = [row.run for row in list_run_rows(store)]
    damages = check(store).damages
    assert {damage.key for damage in damages} >= {shard, graph, "datasets/colours/latest"}
    assert {damage.mend for damage in damages} == set(Mend)
    done = fsck(store, "--repair")
    assert done.returncode == 0, done.stdout
    assert check(store).damages == ()
    assert latest(store, "colours") == versions[-1]
    assert [row.run for row in list_run_rows(store)] == runs
    assert not store.exists(shard)
    assert shard.rpartition("/")[0] not in {
        e.key.folder for e in list_activations(store) if e.datasets
    }


def test_clocks_that_differ() -> None:
    assert "3,600 s ahead of" in skewed(3600.0).found
    assert "90 s behind" in skewed(-90.0).found


def test_formats_are_those_of_the_models_themselves() -> None:
    from graft.backbones.trunk import StageRecord
    from graft.backbones.weights import WeightsRecord
    from graft.cluster.sent_jobs import SentJob
    from graft.decisions.records import Decision
    from graft.report.decision.tries import Try
    from graft.report.transfer.cell_result import CellFigures
    from graft.serving.engines.choice import EngineChoice
    from graft.serving.engines.kept_graph import KeptGraph
    from graft.store.documents import format_of
    from graft.sweep.trial_checkpoint import TrialCheckpoint
    from graft.training.checkpoint import Checkpoint

    theirs = {
        "stage": StageRecord,
        "weights": WeightsRecord,
        "decision": Decision,
        "try": Try,
        "cell": CellFigures,
        "engine": EngineChoice,
        "graph": KeptGraph,
        "checkpoint": Checkpoint,
        "checkpoint of a trial": TrialCheckpoint,
        "job": SentJob,
    }
    mine = {kind.name: kind.model for kind in KINDS}
    assert {name: format_of(mine[name]) for name in theirs} == {
        name: format_of(model) for name, model in theirs.items()
    }
    for name, model in theirs.items():
        assert set(mine[name].model_fields) <= set(model.model_fields), name


def test_a_folder_that_is_no_store_is_whole(tmp_path: Path) -> None:
    assert check(Store.open(str(tmp_path / "none"))).damages == ()
