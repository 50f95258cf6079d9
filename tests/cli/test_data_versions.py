"""`graft data import --add-to`, `diff` and `rm`, as a user runs them."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import commands
from graft.data.manifest import latest, list_versions
from graft.store import Store

ARCHIVE = Path(__file__).parents[1] / "stores" / "4a76f15.tar.xz"


def write_images(root: Path, numbers: range) -> str:
    for label in ("red", "[green]"):
        (root / label).mkdir(parents=True)
        for i in numbers:
            color = (i, 255, 0) if label == "[green]" else (255, i, 0)
            Image.new("RGB", (8, 6), color).save(root / label / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with `colours` and a version that adds to it: to be copied."""
    folder = tmp_path_factory.mktemp("grown")
    store = ("--store", folder / "store")
    done = commands.main(
        *("data", "import", write_images(folder / "first", range(5)), "--name", "colours"), *store
    )
    assert done.returncode == 0, done.stderr
    more = write_images(folder / "more", range(4, 8))
    done = commands.main("data", "import", more, "--add-to", "colours", *store)
    assert done.returncode == 0, done.stderr
    page = " ".join(done.stdout.split())
    assert "source added to colours@" in page
    assert "by this version splits val 0.2, test 0.1 of train, seed 0" in page
    assert "has already, which add nothing: 2 files" in page
    return folder / "store"


@pytest.fixture
def store(grown: Path, tmp_path: Path) -> Store:
    """A store of its own with both versions."""
    return Store.open(str(shutil.copytree(grown, tmp_path / "store")))


def graft(store: Store, *words: str) -> commands.Done:
    return commands.main("data", *words, "--store", store.uri)


def test_show_tells_what_a_version_adds_to(store: Store) -> None:
    parent, child = list_versions(store, "colours")
    document = json.loads(graft(store, "show", "colours", "--json").stdout)
    assert document["parent"] == parent.version
    assert document["own_bytes"] == child.own_bytes
    assert document["earlier"][0]["version"] == parent.version


@pytest.mark.parametrize("words", [[], ["--name", "x", "--add-to", "colours"]])
def test_a_dataset_is_named_once(store: Store, tmp_path: Path, words: list[str]) -> None:
    done = graft(store, "import", str(tmp_path), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected either --name NAME" in done.stderr


def test_diff(store: Store) -> None:
    parent, child = list_versions(store, "colours")
    words = ("diff", parent.ref, "colours", "--limit", "1")
    document = json.loads(graft(store, *words, "--json").stdout)
    assert (document["before"], document["after"]) == (parent.ref, child.ref)
    assert document["added"]["images"] == sum(document["added"]["splits"].values()) == 6
    assert [document[kind]["images"] for kind in ("removed", "relabelled", "moved")] == [0, 0, 0]
    (image,) = document["added"]["first"]
    assert (image["before"], len(image["after"])) == ([], 1)
    page = " ".join(graft(store, *words).stdout.split())
    assert f"{image['path']}: {image['after'][0]} and 5 more; --limit names more" in page
    assert "missing" in graft(store, "diff", "missing", "colours").stderr


def test_rm_says_what_stays(store: Store) -> None:
    parent, child = list_versions(store, "colours")
    unasked = graft(store, "rm", parent.ref)
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert f"Remove {parent.ref} from {store.uri}?" in unasked.stderr
    assert "--yes says yes" in unasked.stderr
    done = graft(store, "rm", parent.ref[:-9], "--yes")
    page = " ".join(done.stdout.split())
    assert f"{parent.ref} is removed; latest is {child.version}. Its 3 files" in page
    assert f"read by {child.ref}" in page
    assert list_versions(store, "colours") == [child]
    document = json.loads(graft(store, "rm", "colours", "--yes", "--json").stdout)
    assert (document["removed"], document["latest"], document["readers"]) == (child.ref, None, [])
    assert latest(store, "colours") is None


def test_rm_refuses_what_is_in_use(tmp_path: Path) -> None:
    """In a store with two models, of which a run and a sweep are not finished."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "store", filter="data")
    store = Store.open(str(tmp_path / "store"))
    (run,) = store.children("runs/")
    sweep = next(name for name in store.children("sweeps/") if name.startswith("colours-"))
    for key in (f"runs/{run}/result.json", f"sweeps/{sweep}/result.json"):
        store.delete(key)
    for key in ("runs/index.json", "sweeps/index.json"):
        store.delete(key)
    (version,) = list_versions(store, "colours")
    refused = graft(store, "rm", "colours", "--yes")
    assert (refused.returncode, refused.stdout) == (2, "")
    for words in ("colours@1, colours@2", f"runs that could not go on: {run}", sweep):
        assert words in refused.stderr
    assert list_versions(store, "colours") == [version]
    done = graft(store, "rm", "colours", "--yes", "--force", "--json")
    assert json.loads(done.stdout)["users"] == {
        "models": ["colours@1", "colours@2"],
        "runs": [run],
        "sweeps": [sweep],
    }
    assert f"{version.ref} is in use: models" in done.stderr
    assert list_versions(store, "colours") == []
