"""A list with one damaged object in the store: the others are there, and it is told."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from commands import main
from graft.errors import ObjectDamaged
from graft.store import Store

ARCHIVE = Path(__file__).parent / "4a76f15.tar.xz"
NOT_OURS = (b"{", b"{}", b"\xff\xfe", b'{"format": 99, "release": "9.0"}')


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "store"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def key_of(store: Store, begins: str, ends: str) -> str:
    return next(
        key for key, _ in store.scan(begins) if key.endswith(ends) and "/attempt-" not in key
    )


@pytest.mark.parametrize(
    ("listed", "ends", "lost", "content"),
    [
        *(("models", "versions/1/model.json", 1, content) for content in NOT_OURS),
        ("models", "aliases/champion.json", 0, NOT_OURS[0]),
        ("runs", "result.json", 1, NOT_OURS[1]),
        ("runs", "spec.yaml", 1, NOT_OURS[2]),
        ("sweeps", "result.json", 1, NOT_OURS[3]),
        ("sweeps", "spec.yaml", 1, NOT_OURS[1]),
        ("sweeps", "plan.json", 1, NOT_OURS[0]),
        ("reports", "report.json", 1, NOT_OURS[1]),
        ("datasets", "manifest.json", 1, NOT_OURS[2]),
    ],
)
def test_a_damaged_object_is_told_and_hides_no_other(
    extracted: Path, tmp_path: Path, listed: str, ends: str, lost: int, content: bytes
) -> None:
    shutil.copytree(extracted, tmp_path / "store", copy_function=shutil.copyfile)
    store = Store.open(str(tmp_path / "store"))
    words = ("data" if listed == "datasets" else listed, "ls", "--json", "--store", store.uri)
    whole = main(*words)
    assert whole.returncode == 0
    key = key_of(store, f"{listed}/", ends)
    for folder in (listed, f"{listed}/colours"):
        store.delete(f"{folder}/index.json")
    store.write(key, content)
    done = main(*words)
    assert done.returncode == ObjectDamaged.exit_code
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"left out: {store.uri}/{key} ")
    assert len(json.loads(done.stdout)[listed]) == len(json.loads(whole.stdout)[listed]) - lost
