"""`graft gc`: what nothing needs goes, all else stays bit for bit, whatever is at work."""

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
from colours import colour_spec
from conftest import S3Server
from graft.activations.key import Key
from graft.activations.list_and_remove import list_activations
from graft.activations.use import begin_use
from graft.cluster.job_inputs import put_weights, stored_weights
from graft.cluster.job_records import submit_job
from graft.errors import InputError
from graft.report.publishing import publish_report
from graft.spec import Section, dump_job
from graft.store import Store, marks, sha256
from graft.store.marks import Mark, Marks, move_marks, read_marks
from graft.upkeep.collecting import collect, survey
from graft.upkeep.policy import Policy
from upkeep_lab import commit_version, fill, missing

AT_ONCE = Policy(grace="0s")
HOUR = Policy(grace="1h")
RUN = "runs/colours-[^/]+/"
Everything = Callable[[Store], dict[str, bytes]]


def quiet(done: int, total: int) -> None:
    """Show no progress."""


def key_like(store: Store, pattern: str) -> str:
    return next(key for key, _ in store.scan("") if re.fullmatch(pattern, key))


def litter(store: Store) -> set[str]:
    """Leave something of every kind that nothing needs; return its keys."""
    checkpoint = key_like(store, RUN + r"attempt-1/checkpoints/\d+/checkpoint\.json")
    folder = checkpoint.rpartition("/")[0]
    document = json.loads(store.read(checkpoint).data)
    tensors = store.put(f"{folder[:-8]}00000001", "tensors.safetensors", b"earlier epoch")
    document |= {"step": 1, "best": None, "confusion": None, "tensors": tensors.model_dump()}
    manifest = key_like(store, r"datasets/colours/[^/]+/manifest\.json").rpartition("/")[0]
    sweep = key_like(store, r"sweeps/colours-[^/]+/result\.json").rpartition("/")[0]
    activations = key_like(store, r"activations/[^/]+/[^/]+/index/.*").rpartition("/index")[0]
    run, attempt = folder.split("/")[1], folder.rpartition("/checkpoints/")[0]
    step, trial = f"{attempt}/steps/00000003", f"{sweep}/under-way/2/00000003"
    inside = {"run": run, "attempt": 1, "epoch": 0, "step": 3, "done": 3, "steps": 4, "workers": 1}
    inside |= {"freeze": 1, "trunk_digest": 64 * "0", "initial": {}}
    inside["tensors"] = store.put(step, "tensors.safetensors", b"inside").model_dump()
    state = store.put(trial, "state.safetensors", b"trial").model_dump()
    under_way = {"sweep": sweep.partition("/")[2], "number": 2, "step": 3, "state": state}
    stage = "stages/" + 64 * "a"
    written: dict[str, bytes] = {
        f"{folder[:-8]}00000001/checkpoint.json": json.dumps(document).encode(),
        f"{step}/checkpoint.json": json.dumps(inside).encode(),
        f"{trial}/checkpoint.json": json.dumps(under_way).encode(),
        f"{stage}/stage.json": b"",
        "weights/" + 64 * "b" + "/weights.json": b"",
        "runs/removed/cache.json": b"{}",
        "runs/removed/attempt-1/metrics/000001.json": b"{}",
        "probe-" + 32 * "0" + "/first": b"",
        "activations/claims/gone.json": b"",
        "models/colours/versions/9/decisions/1.json": b"",
    }
    put = {
        f"{folder[:-8]}00000001/{tensors.name}",
        f"{step}/{inside['tensors']['name']}",
        f"{trial}/{state['name']}",
        *(
            f"{place}/{store.put(place, name, name.encode()).name}"
            for place, name in (
                (folder, "tensors.safetensors"),
                (manifest, "shard-000007-0123456789abcdef.tar"),
                (f"{sweep}/tails", "2.safetensors"),
                (activations, "part.safetensors"),
                (stage, "weights.safetensors"),
                ("weights/" + 64 * "b", "weights.pth"),
                ("exports/" + 64 * "c" + "/trunk", "graph.onnx"),
                ("models/colours/versions/9", "tail.safetensors"),
                ("reports/never", "report.html"),
                ("predictions/never", "inputs.parquet"),
                ("imports/never/staged", "part.tar"),
            )
        ),
    }
    record = {
        "arch": "a",
        "stage": "s",
        "previous": 64 * "0",
        "weights": store.put(stage, "weights.safetensors", b"weights.safetensors").model_dump(),
    }
    file = store.put("weights/" + 64 * "b", "weights.pth", b"weights.pth").model_dump()
    written[f"{stage}/stage.json"] = json.dumps(record).encode()
    written["weights/" + 64 * "b" + "/weights.json"] = json.dumps(
        {"source": "a", "file": file}
    ).encode()
    for key, data in written.items():
        store.write(key, data)
    return put | written.keys()


@pytest.mark.parametrize("where", ["directory", pytest.param("s3", marks=pytest.mark.slow)])
def test_what_nothing_needs_goes_and_all_else_stays(
    where: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    objects: dict[str, bytes],
    everything: Everything,
) -> None:
    uri = str(tmp_path) if where == "directory" else request.getfixturevalue("s3_store_uri")
    store = fill(Store.open(uri), objects)
    before = everything(store)
    doomed = litter(store)
    (temporary := Path(tmp_path, "runs/.tmp-0123")).parent.mkdir(exist_ok=True)
    temporary.write_bytes(b"half")
    time.sleep(0 if where == "directory" else 1.1)  # S3 tells whole seconds
    surveyed = survey(store, AT_ONCE)
    extra = {"runs/.tmp-0123"} if where == "directory" else set()
    assert {each.entry.key for each in surveyed.garbage} == doomed | extra
    assert surveyed.unreadable == ()
    collected = collect(store, AT_ONCE, quiet)
    assert {each.entry.key for each in collected.removed} == doomed | extra
    assert everything(store) == before
    assert temporary.exists() != (where == "directory")
    assert collect(store, AT_ONCE, quiet).removed == ()


def age(store: Store, seconds: float, keys: set[str] | None = None) -> None:
    """Have objects of a directory store been written so long ago."""
    then = time.time() - seconds
    for key, _ in store.scan(""):
        if (keys is None or key in keys) and not key.startswith("gc/"):
            os.utime(Path(store.uri, key), (then, then))


def marked_ago(store: Store, seconds: float) -> None:
    """Have all marks been made so long ago."""
    for key, _ in list(store.scan(marks.FOLDER)):
        area = key.removeprefix(marks.FOLDER).removesuffix(".json")
        before, etag = read_marks(store, area)
        earlier = {
            key: mark.model_copy(update={"since": mark.since - seconds})
            for key, mark in before.marked.items()
        }
        assert move_marks(store, area, before.model_copy(update={"marked": earlier}), etag)


def test_what_is_marked_goes_a_grace_period_later(full_directory: Store) -> None:
    store = full_directory
    doomed = litter(store)
    assert collect(store, HOUR, quiet).removed == ()
    assert survey(store, HOUR).garbage == ()  # all of it is young
    assert {entry.key for entry in survey(store, HOUR).young} == doomed
    age(store, 7200)
    first = collect(store, HOUR, quiet)
    assert (first.removed, first.marked) == ((), len(doomed))
    assert collect(store, HOUR, quiet).removed == ()  # marked, but not an hour ago
    marked_ago(store, 3601)
    again = sorted(doomed)[0]
    store.write(again, store.read(again).data)  # somebody has just needed it
    assert all(each.ripe for each in survey(store, HOUR).garbage)
    removed = {each.entry.key for each in collect(store, HOUR, quiet).removed}
    assert again not in removed
    assert removed
    assert removed <= doomed


def test_what_is_young_keeps_what_it_refers_to(full_directory: Store) -> None:
    store = full_directory
    doomed = litter(store)
    age(store, 7200)
    stage = {key for key in doomed if key.startswith("stages/")}
    (marker,) = (key for key in stage if key.endswith(".json"))
    store.write(marker, store.read(marker).data)
    collect(store, HOUR, quiet)
    marked_ago(store, 3601)
    removed = {each.entry.key for each in collect(store, HOUR, quiet).removed}
    assert removed == doomed - stage


def test_a_writer_relies_on_nothing_that_may_go(store: Store) -> None:
    first = store.put("runs/a", "tail.safetensors", b"weights")
    key = f"runs/a/{first.name}"
    assert store.put("runs/a", "tail.safetensors", b"weights") == first
    mark = Marks(marked={key: Mark(since=1.0, modified=1.0)})
    assert move_marks(store, "runs", mark, None)
    second = store.put("runs/a", "tail.safetensors", b"weights")
    assert second.name != first.name
    assert second.sha256 in second.name
    assert store.get("runs/a", second) == b"weights"
    store.rely_on(["runs/a/", "stages/none/"])
    assert store.put("runs/a", "tail.safetensors", b"weights") == first
    store.rely_on(["stages/none/"])  # nobody has marked anything there


def test_who_uses_activations_keeps_them(tmp_path: Path) -> None:
    store, key = Store.open(str(tmp_path)), Key(64 * "a", "v0", "float32", "torch2.15-cpu")
    shard = f"{key.folder}/part-{64 * 'b'}.safetensors"
    store.write(shard, b"")
    mark = Marks(marked={shard: Mark(since=1.0, modified=1.0)})
    assert move_marks(store, "activations", mark, None)
    assert begin_use(store, key)
    assert read_marks(store, "activations")[0] == Marks()
    assert not begin_use(store, key)  # once a day
    assert len(list(store.scan(f"{key.folder}/used/"))) == 1


def test_weights_that_a_job_names_stay(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    put_weights(store, [file])
    spec = colour_spec(backbone={"arch": "resnet18", "weights": str(file), "freeze": "all"})
    if not store.is_directory:
        time.sleep(1.1)  # S3 tells whole seconds
    (garbage,) = survey(store, AT_ONCE).garbage
    assert garbage.what == "weights that no job names"
    submit_job(store, "job", dump_job(stored_weights(store, spec)))
    assert survey(store, AT_ONCE).garbage == ()


def test_a_writer_waits_for_what_is_being_removed(store: Store) -> None:
    assert move_marks(store, "stages", Marks(sweeping=("stages/a/stage.json",)), None)
    waiting = threading.Thread(target=store.rely_on, args=(["stages/a/"],))
    waiting.start()
    store.rely_on(["stages/b/"])
    time.sleep(0.1)
    assert waiting.is_alive()
    _, etag = read_marks(store, "stages")
    assert move_marks(store, "stages", Marks(), etag)
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_collector_that_died_is_finished_by_the_next(full_directory: Store) -> None:
    store = full_directory
    doomed = litter(store)
    age(store, 7200)
    stage = tuple(key for key in doomed if key.startswith("stages/"))
    assert move_marks(store, "stages", Marks(sweeping=stage), None)
    removed = {each.entry.key for each in collect(store, HOUR, quiet).removed}
    assert removed == set(stage)
    assert read_marks(store, "stages")[0] == Marks()


def test_nothing_goes_while_nobody_knows_what_is_needed(full_directory: Store) -> None:
    store = full_directory
    litter(store)
    manifest = key_like(store, r"datasets/.*/manifest\.json")
    store.write(manifest, b'{"format": 99, "release": "9.0"}')
    before = {key for key, _ in store.scan("")}
    with pytest.raises(InputError, match="Nothing is removed; graft fsck"):
        collect(store, AT_ONCE, quiet)
    assert {key for key, _ in store.scan("") if not key.startswith("gc/")} == before


def test_unused_activations_and_those_of_no_dataset_go(full_directory: Store) -> None:
    store = full_directory
    age(store, 40 * 86400)
    (entry, *_) = list_activations(store)
    store.write(f"{entry.key.folder}/used/2026-01-01", b"")
    gone = {each.entry.key for each in survey(store, HOUR).garbage}
    folders = {"/".join(key.split("/")[:3]) for key in gone}
    assert all(key.startswith("activations/") for key in gone)
    assert folders == {
        "/".join(key.split("/")[:3])
        for key, _ in store.scan("activations/")
        if not key.startswith((entry.key.folder, "activations/claims"))
    }
    for key, _ in list(store.scan("datasets/")):
        if key.endswith("manifest.json"):
            store.delete(key)
    gone = {each.entry.key for each in survey(store, HOUR).garbage}
    index = next(key for key, _ in store.scan(f"{entry.key.folder}/index/"))
    assert index in gone


def test_a_draft_that_was_given_up_goes_but_for_what_was_asked(full_directory: Store) -> None:
    store = full_directory
    finished = key_like(store, r"predictions/[^/]+/prediction\.json")
    store.delete(finished)
    folder = finished.rpartition("/")[0]
    policy = Policy(grace="1h", drafts_unused="2h")
    age(store, 5400)
    assert survey(store, policy).garbage == ()  # it may go on
    age(store, 9000)
    collect(store, policy, quiet)
    marked_ago(store, 3601)
    removed = {each.entry.key for each in collect(store, policy, quiet).removed}
    assert f"{folder}/begun.json" in removed
    left = {key.removeprefix(f"{folder}/") for key, _ in store.scan(f"{folder}/")}
    assert {name.partition("/")[0] for name in left} == {
        *("spec.yaml", "head.json", "attempt-1", "attempt-2")
    }


def test_the_command_shows_first_and_heeds_the_file(full_directory: Store, tmp_path: Path) -> None:
    store = full_directory
    litter(store)
    (tmp_path / "graft.toml").write_text('[gc]\ngrace = "0s"\n')

    def gc(*words: str) -> commands.Done:
        words = ("gc", *words, "--store", store.uri)
        return commands.main(*words, cwd=tmp_path, env={"COLUMNS": "80"})

    shown = gc()
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "checkpoints" in shown.stdout
    document = json.loads(gc("--json").stdout)
    assert document["garbage"]["tails of trials"]["objects"] == 1
    assert gc("--grace", "1h", "--json").stdout != gc("--json").stdout
    removed = json.loads(gc("--delete", "--json").stdout)
    assert removed["objects"] == sum(kind["objects"] for kind in document["garbage"].values())
    assert "nothing was removed" in gc("--delete").stdout
    assert "such as 30d" in gc("--grace", "soon").stderr
    (tmp_path / "graft.toml").write_text("[gc]\ngrase = '0s'\n")
    assert "did you mean 'grace'" in gc().stderr


@pytest.mark.slow
def test_writers_and_a_collector_with_no_patience(fencing_store: Store) -> None:
    """Ten rounds: what is committed is whole, though it relies on what was about to go."""
    store, policy = fencing_store, Policy(grace="1s")
    ended, wrong = threading.Event(), list[str]()

    def write(writer: int) -> None:
        chance, number = random.Random(writer), 0
        while not ended.is_set():
            number += 1
            stage, report = sha256(b"%d" % chance.randrange(60)), f"r{chance.randrange(60)}"
            version = commit_version(store, f"m{writer}", stage, number)
            publish_report(store, f"{report}-{writer}", "evaluation", Section(), {"page": b"<p>"})
            wrong.extend(missing(store))
            store.delete(f"{version.folder}/model.json")
            store.delete(f"reports/{report}-{writer}/report.json")
            time.sleep(chance.random() / 20)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in writers:
        thread.start()
    removed = 0
    for _ in range(10):
        removed += len(collect(store, policy, quiet).removed)
        time.sleep(0.7)
    ended.set()
    for thread in writers:
        thread.join()
    assert wrong == []
    assert removed > 100


@pytest.mark.slow
def test_a_claim_has_to_exclude_somebody(s3_store_uri: str, s3_server: S3Server) -> None:
    done = commands.main("gc", "--delete", "--store", s3_store_uri)
    assert (done.returncode == 0) == s3_server.fences
    assert s3_server.fences or "then add --alone" in done.stderr
    assert commands.main("gc", "--delete", "--alone", "--store", s3_store_uri).returncode == 0
