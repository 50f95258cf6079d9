"""Imports that are jobs, done part by part in this process: the version is the local import's."""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from graft.data.importing import import_dataset
from graft.data.manifest import Manifest, latest, list_datasets, open_dataset
from graft.errors import DataError, InputError, NotFoundError, ObjectDamaged
from graft.import_job.part import PartScanner, Plan, ShardPacker
from graft.import_job.records import (
    STAGED,
    Begun,
    Finished,
    ImportPace,
    PackedShard,
    Part,
    done,
    find_begun,
    read_finished,
    read_pace,
    record,
)
from graft.import_job.run_import import create_import, discard_import, run_import
from graft.spec import Import
from graft.store import Store

ID = "x-20260101-120000-1a2b"


@dataclass
class Here:
    """Scans and packs in this process, in any order, and may stop before something is committed."""

    store: Store
    dies_at: int | None = None
    """How many parts and shards are committed before."""
    begun: list[str] = field(default_factory=list)
    """Each part and each shard that was begun."""
    seed: int = 0

    def scan(self, begun: Begun, spec: Import, numbers: Sequence[int]) -> Iterator[int]:
        scanner = PartScanner(self.store, begun, cpus=1)
        for number in self._shuffled(numbers, "part"):
            part = scanner.scan(number)
            self._commit(begun, part)
            yield part.files

    def pack(self, begun: Begun, spec: Import, plan: Plan, numbers: Sequence[int]) -> Iterator[int]:
        packer = ShardPacker(self.store, begun, plan)
        for number in self._shuffled(numbers, "shard"):
            shard = packer.pack(number)
            self._commit(begun, shard)
            yield shard.images

    def _shuffled(self, numbers: Sequence[int], what: str) -> Iterator[int]:
        for number in random.Random(self.seed).sample(list(numbers), len(numbers)):
            self.begun.append(f"{what} {number}")
            yield number

    def _commit(self, begun: Begun, done: Part | PackedShard) -> None:
        if len(self.begun) == self.dies_at:
            raise KeyboardInterrupt
        record(self.store, begun, done)


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """Where the same images are imported locally."""
    return Store.open(str(tmp_path / "local"))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shard begin after a few images."""
    monkeypatch.setattr("graft.data.packing.ShardPlan.__init__.__defaults__", (0, 4096))


def begin(store: Store, source: Path | str, import_id: str = ID, **settings: object) -> None:
    document = {"kind": "import", "name": "x", "source": str(source), "part_files": 4, **settings}
    create_import(store, Import.model_validate(document), import_id)


def run(store: Store, workers: Here | None = None, import_id: str = ID) -> Finished:
    return run_import(store, import_id, workers or Here(store), lambda pace: None)


def stored(store: Store) -> tuple[Manifest, list[str], str]:
    """Return the latest version, and the digests of its shards and of its index."""
    manifest = open_dataset(store, "x").manifest
    shards = [shard.ref.sha256 for shard in manifest.all_shards]
    return manifest, shards, manifest.index.sha256


def same(one: Store, other: Store) -> None:
    """Check that the latest versions of two stores are the same, byte for byte."""
    (first, *payloads), (second, *others) = stored(one), stored(other)
    assert payloads == others
    assert first.originals.sha256 == second.originals.sha256
    own = {"index", "originals", "shards", "earlier", "created"}
    assert first.model_dump(exclude=own) == second.model_dump(exclude=own)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_version_is_the_local_imports(
    directory: Store, local: Store, class_folders, small_shards: None, seed: int
) -> None:
    root = class_folders({"a": 12, "b": 11})
    shutil.copy(root / "a" / "3.png", root / "a" / "copy.png")
    shutil.copy(root / "a" / "5.png", root / "b" / "conflict.png")
    import_dataset(local, str(root), "x", max_side=10)
    begin(directory, root, max_side=10)
    finished = run(directory, Here(directory, seed=seed))
    assert finished.written
    same(directory, local)
    assert finished.dataset == stored(local)[0].ref
    assert len(stored(local)[1]) > 3
    assert sorted(key.rpartition("/")[2] for key, _ in directory.scan(f"imports/{ID}/")) == [
        "attempt.json",
        "head.json",
        "import.json",
        "spec.yaml",
    ]
    begin(directory, root, "again", max_side=10)
    assert not run(directory, import_id="again").written
    assert len(list_datasets(directory)) == 1


@pytest.mark.slow  # imports from S3, twice
def test_from_s3_to_s3(s3_store_uri: str, class_folders, small_shards: None) -> None:
    root = class_folders({"a": 12, "b": 11})
    bucket = Store.open(f"{s3_store_uri}/photos")
    for path in root.rglob("*.png"):
        bucket.write(path.relative_to(root).as_posix(), path.read_bytes())
    store, local = Store.open(f"{s3_store_uri}/store"), Store.open(f"{s3_store_uri}/local")
    import_dataset(local, f"{s3_store_uri}/photos", "x")
    begin(store, f"{s3_store_uri}/photos")
    run(store)
    same(store, local)


@pytest.mark.parametrize(
    "dies_at", [3, *(pytest.param(at, marks=pytest.mark.slow) for at in (6, 7)), 9]
)
def test_what_is_interrupted_goes_on_and_does_nothing_twice(
    directory: Store, local: Store, class_folders, small_shards: None, dies_at: int
) -> None:
    root = class_folders({"a": 12, "b": 11})
    import_dataset(local, str(root), "x")
    begin(directory, root)
    first, second = Here(directory, dies_at), Here(directory, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run(directory, first)
    pace = read_pace(directory, ID)
    assert pace is not None
    assert str(pace).startswith(pace.step)
    assert run(directory, second).written
    same(directory, local)
    assert set(first.begun) & set(second.begun) == {first.begun[-1]}
    assert run(directory, second) == read_finished(directory, ID)


def test_what_is_found_wrong_is_said_as_locally_and_leaves_nothing(
    directory: Store, local: Store, class_folders, small_shards: None
) -> None:
    root = class_folders({"a": 9, "b": 9})
    (root / "a" / "1.png").write_bytes(b"no image")
    (root / "b" / "2.png").write_bytes((root / "b" / "3.png").read_bytes()[:90])
    (root / "stray.txt").write_text("x")
    with pytest.raises(DataError, match="3 of 19 files cannot be used") as locally:
        import_dataset(local, str(root), "x")
    begin(directory, root)
    with pytest.raises(DataError) as error:
        run(directory)
    assert str(error.value) == str(locally.value)
    assert not [key for key, _ in directory.scan("datasets/")]
    assert find_begun(directory, ID) is None
    import_dataset(local, str(root), "x", skip_bad=True)
    begin(directory, root, "again", skip_bad=True)
    run(directory, import_id="again")
    same(directory, local)
    assert len(stored(directory)[0].skipped) == 3


def test_it_adds_to_a_version(directory: Store, local: Store, class_folders) -> None:
    root = class_folders({"a": 9, "b": 9})
    more = class_folders({"a": 5, "c": 4}, "more", first=50)
    shutil.copy(root / "a" / "3.png", more / "a" / "there.png")
    for store in (directory, local):
        import_dataset(store, str(root), "x")
    import_dataset(local, str(more), "x", add_to="latest")
    begin(directory, more, add_to="latest")
    run(directory)
    same(directory, local)
    assert any("which add nothing: 1 files" in note for note in stored(directory)[0].notes)


@pytest.mark.parametrize("key", ["path", "sha256"])
def test_labels_of_a_table(
    directory: Store, local: Store, class_folders, tmp_path: Path, key: str
) -> None:
    from graft.store import sha256_file

    root = class_folders({"a": 6, "b": 6})
    rows = [
        f"{path.relative_to(root) if key == 'path' else sha256_file(path)},class-{number % 2}"
        for number, path in enumerate(sorted(root.rglob("*.png"))[1:])
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join([f"{key},label", *rows]))
    import_dataset(local, str(root), "x", labels=str(table), skip_bad=True)
    begin(directory, root, labels=str(table), skip_bad=True)
    run(directory)
    same(directory, local)
    assert len(stored(directory)[0].skipped) == 1


def test_an_abandoned_import_is_discarded(directory: Store, class_folders, small_shards) -> None:
    begin(directory, class_folders({"a": 12, "b": 11}))
    with pytest.raises(KeyboardInterrupt):
        run(directory, Here(directory, dies_at=9))
    assert [key for key, _ in directory.scan("datasets/")]
    discard_import(directory, ID)
    assert not [key for key, _ in directory.scan("datasets/")]
    assert not [key for key, _ in directory.scan(f"imports/{ID}/{STAGED}")]
    with pytest.raises(NotFoundError, match="no import 'none'"):
        discard_import(directory, "none")


def test_what_was_committed_before_it_could_be_said_is_its_own(
    directory: Store, class_folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    begin(directory, class_folders({"a": 6, "b": 6}))
    with monkeypatch.context() as patched:
        patched.setattr("graft.import_job.run_import.point_latest", killed)
        with pytest.raises(KeyboardInterrupt):
            run(directory)
    assert latest(directory, "x") is None
    with pytest.raises(InputError, match="has made x@"):
        discard_import(directory, ID)
    assert run(directory).written
    assert len(open_dataset(directory, "x").images("val")) == 2


def test_what_is_damaged_in_between_is_not_packed(directory: Store, class_folders) -> None:
    begin(directory, class_folders({"a": 6, "b": 6}))
    begun = find_begun(directory, ID)
    assert begun is not None
    with pytest.raises(KeyboardInterrupt):
        run(directory, Here(directory, dies_at=4))
    assert len(done(directory, begun, Part)) == 3
    key = next(key for key, _ in directory.scan(f"imports/{ID}/{STAGED}/000001") if ".tar" in key)
    data = bytearray(directory.read(key).data)
    data[600] ^= 1
    directory.write(key, bytes(data))
    with pytest.raises(ObjectDamaged, match="staged of part 1 is damaged"):
        run(directory)


def test_how_far_it_is(directory: Store, class_folders) -> None:
    begin(directory, class_folders({"a": 6, "b": 6}))
    told: list[ImportPace] = []
    run_import(directory, ID, Here(directory), told.append)
    assert [(p.step, p.done, p.of) for p in told] == [
        *(("reading", done, 12) for done in (0, 4, 8, 12)),
        ("packing", 0, 12),
        ("packing", 12, 12),
    ]
