"""`graft store copy`: what is copied is whole there, and a copy that is stopped goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
from graft.errors import ObjectDamaged
from graft.registry import aliases, get_model, promote
from graft.store import Store, is_payload
from graft.upkeep.checking import check
from graft.upkeep.copying import Wanted, copy
from upkeep_lab import commit_version, missing

Everything = Callable[[Store], dict[str, bytes]]


@pytest.fixture
def store(full_directory: Store) -> Store:
    return full_directory


def graft(*words: str | Path) -> commands.Done:
    return commands.main("store", "copy", *words)


@pytest.mark.parametrize("where", ["directory", pytest.param("s3", marks=pytest.mark.slow)])
def test_all_of_a_store(
    where: str,
    request: pytest.FixtureRequest,
    store: Store,
    tmp_path: Path,
    everything: Everything,
) -> None:
    uri = str(tmp_path / "to") if where == "directory" else request.getfixturevalue("s3_store_uri")
    target = Store.open(uri)
    copied = copy(store, target, Wanted())
    assert copied.left_out == ()
    assert copied.sent == copied.objects
    here, there = everything(store), everything(target)
    left = {key.rpartition("/")[2] for key in here.keys() - there.keys()}
    assert left <= {"index.json", "trials-index.json"}  # whoever lists makes them
    assert there.items() <= here.items()
    assert check(target).damages == ()
    assert copy(store, target, Wanted()).sent == 0
    back = Store.open(str(tmp_path / "back"))
    copy(target, back, Wanted(activations=False), quick=True)
    assert missing(back) == []
    assert back.children("activations/") == []


def test_a_model_and_its_dataset(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "to"
    done = graft(store.uri, target, "--model", "colours@2", "--json")
    assert done.returncode == 0, done.stderr
    there = Store.open(str(target))
    assert get_model(there, "colours@2").ref == "colours@2"
    assert aliases(there, "colours") == {}
    assert there.children("datasets/") == []
    assert missing(there) == []
    assert check(there).damages == ()
    again = graft(store.uri, target, "--model", "colours@2", "--with-datasets")
    assert "were there" in " ".join(again.stdout.split())
    assert there.children("datasets/") == ["colours"]
    assert missing(there) == []
    assert json.loads(done.stdout)["sent"] == json.loads(done.stdout)["objects"]


def test_a_dataset_with_the_shards_that_it_adds_to(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "to"
    assert graft(store.uri, target, "--dataset", "colours").returncode == 0
    there = Store.open(str(target))
    assert missing(there) == []
    assert len(there.children("datasets/colours/")) == 2
    assert [key for key, _ in there.scan("") if key.endswith("manifest.json")] != []


def test_what_was_stopped_goes_on(store: Store, tmp_path: Path) -> None:
    """Killed after any number of objects, nothing is there whose files are not."""
    target = Store.open(str(tmp_path / "to"))

    def stop(at: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done == at:
                raise KeyboardInterrupt

        return progress

    total = copy(store, Store.open(str(tmp_path / "whole")), Wanted(), quick=True).objects
    for at in (1, total // 2, total - 20, total - 1):
        with pytest.raises(KeyboardInterrupt):
            copy(store, target, Wanted(), quick=True, progress=stop(at))
        assert missing(target) == []
    assert copy(store, target, Wanted()).sent < 20
    assert check(target).damages == ()


def test_another_thing_under_the_same_name_is_refused(store: Store, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "to"))
    commit_version(target, "colours", 64 * "a", 1)
    done = graft(store.uri, target.uri)
    assert done.returncode == 2
    assert f"{target.uri}/models/colours/versions/1/model.json" in done.stderr
    assert f"what {store.uri}/models/colours/versions/1/model.json is" in done.stderr
    assert "Nothing was copied" in done.stderr
    assert target.children("datasets/") == []
    assert graft(store.uri, store.uri).returncode == 2


def test_pointers_follow_and_are_never_taken_back(store: Store, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "to"))
    copy(store, target, Wanted())
    promote(store, "colours@2", "champion")
    copied = copy(store, target, Wanted())
    assert (copied.sent, aliases(target, "colours")["champion"]) == (1, 2)
    promote(target, "colours@1", "champion")
    assert graft(store.uri, target.uri).returncode == 2
    assert aliases(target, "colours")["champion"] == 1


def test_what_is_not_finished_is_left_out_and_said(store: Store, tmp_path: Path) -> None:
    (result,) = (key for key, _ in store.scan("runs/") if key.endswith("/result.json"))
    run = result.split("/")[1]
    store.delete(result)
    done = graft(store.uri, tmp_path / "to")
    assert f"left out: run {run}, which is not finished" in " ".join(done.stdout.split())
    there = Store.open(str(tmp_path / "to"))
    assert there.children("runs/") == []
    assert missing(there) == []


def test_damage_is_not_copied(store: Store, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "to"))
    shard = next(key for key, _ in store.scan("datasets/") if "/shard-" in key)
    whole = store.read(shard).data
    store.write(shard, whole[:-1] + b"x")
    with pytest.raises(ObjectDamaged, match="its SHA-256 is"):
        copy(store, target, Wanted())
    assert all(is_payload(key) for key, _ in target.scan(""))
    store.write(shard, whole)
    copy(store, target, Wanted())
    target.write(shard, whole[:-1] + b"x")
    assert copy(store, target, Wanted(), quick=True).sent == 0
    assert copy(store, target, Wanted()).sent == 1
    assert target.read(shard).data == whole
