"""`kind: import` on Ray Data: the version of the local import, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands
from graft.cluster.job_progress import job_progress
from graft.cluster.job_records import read_job
from graft.data.importing import import_dataset
from graft.errors import DataError, ObjectNotFound, RunFailed
from graft.import_job.ray_data import RayWorkers, ScanActor
from graft.import_job.records import Part, find_begun, read_finished
from graft.import_job.records import done as committed
from graft.import_job.run_import import run_import
from graft.parts.ray_data import Block, do_parts
from graft.spec import Import, dump_job
from graft.store import Store
from import_job.test_run_import import ID, begin, same
from models import encoded, picture

GRAFT = Path(sys.executable).with_name("graft")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images that an import of them takes some seconds."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(900):
        path = root / f"{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    return root


@pytest.fixture
def local(tmp_path: Path, photos: Path) -> Store:
    """Where the images are imported locally."""
    store = Store.open(str(tmp_path / "local"))
    import_dataset(store, str(photos), "x", max_side=100)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def run_job(
    store: Store, source: Path | str, env: dict[str, str], **settings: object
) -> commands.Done:
    """Run the job's driver, as its pod does."""
    return commands.graft("run-job", env=environment(store, source, **settings) | env)


def environment(store: Store, source: Path | str, **settings: object) -> dict[str, str]:
    document = {"kind": "import", "name": "x", "source": str(source), "max_side": 100, **settings}
    spec = dump_job(Import.model_validate(document))
    return {"GRAFT_STORE": store.uri, "GRAFT_JOB": ID, "GRAFT_SPEC": spec}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_version_is_the_local_imports_from_s3(
    s3_store_uri: str, photos: Path, ray_cluster_address: str, tmp_path: Path, workers: int
) -> None:
    source, store = f"{s3_store_uri}/photos", Store.open(f"{s3_store_uri}/store")
    bucket, paths = Store.open(source), sorted(photos.rglob("*.jpg"))
    for path in [*paths[:60], *paths[-60:]]:
        bucket.write(path.relative_to(photos).as_posix(), path.read_bytes())
    local = Store.open(str(tmp_path / "local"))
    import_dataset(local, source, "x", max_side=100)
    settings = {"part_files": 9, "workers": workers}
    done = run_job(store, source, {"RAY_ADDRESS": ray_cluster_address}, **settings)
    assert done.returncode == 0, done.stderr
    same(store, local)
    assert "120 in 2 classes" in done.stdout
    record = read_job(store, ID)
    assert record is not None
    assert (record.state, record.attempt) == ("succeeded", 1)
    again = run_job(store, source, {"RAY_ADDRESS": ray_cluster_address}, **settings)
    assert again.stdout == f"job {ID} has succeeded already\n"


def test_what_cannot_be_used_ends_the_job(
    store: Store, photos: Path, ray_cluster_address: str, tmp_path: Path
) -> None:
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            file = tmp_path / "photos" / label / f"{number}.jpg"
            file.write_bytes(b"none" if number == 1 else (photos / "0" / "0.jpg").read_bytes())
    with pytest.raises(DataError) as locally:
        import_dataset(store, str(tmp_path / "photos"), "x")
    done = run_job(store, tmp_path / "photos", {"RAY_ADDRESS": ray_cluster_address})
    assert str(locally.value) in done.stderr
    record = read_job(store, ID)
    assert record is not None
    assert (record.state, record.final) == ("failed", True)
    assert find_begun(store, ID) is None


@pytest.mark.nightly  # a start of Ray that is killed, and another one
def test_killed_half_way_and_resumed(store: Store, photos: Path, local: Store) -> None:
    settings = environment(store, photos, part_files=10, workers=2)
    process = subprocess.Popen(
        [str(GRAFT), "run-job"],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        before = wait_for_parts(store, process, 20)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert before
    assert read_finished(store, ID) is None
    assert "of 900 files" in str(job_progress(store, ID, "import"))
    process = subprocess.Popen(
        [str(GRAFT), "run-job"], env=os.environ | settings, stderr=subprocess.DEVNULL
    )
    kept: dict[str, bytes] = {}
    while process.poll() is None:
        kept |= markers(store)
        time.sleep(0.05)
    assert process.returncode == 0
    assert before.items() <= kept.items()
    same(store, local)


def test_a_process_that_dies_costs_its_part_alone(
    store: Store, photos: Path, local: Store, ray_cluster_address: str
) -> None:
    settings = environment(store, photos, part_files=10, workers=2)
    process = subprocess.Popen(
        [str(GRAFT), "run-job"],
        env=os.environ | settings | {"RAY_ADDRESS": ray_cluster_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = wait_for_parts(store, process, 10)
    pid = actor_process()
    os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    assert before
    same(store, local)


@pytest.mark.nightly  # Ray waits longer before each restart: 100 s
def test_a_part_that_kills_its_processes_ends_it(
    store: Store, photos: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(ScanActor):  # not of this module, which Ray's processes do not find
        def __call__(self, block: Block) -> Block:
            (number,) = block["part"].tolist()
            if number == 1:
                self._tries.begin(number, "files 5 to 8")
                os._exit(1)
            return super().__call__(block)

    def dying(_: type, task: object, *rest: object) -> object:
        return do_parts(Dying, task, *rest)

    monkeypatch.setattr("graft.import_job.ray_data.do_parts", dying)
    begin(store, photos)
    with pytest.raises(RunFailed, match=rf"4 processes died of part 1 .* jobs resume {ID}"):
        run_import(store, ID, RayWorkers(store), lambda pace: None)


def wait_for_parts(
    store: Store, process: "subprocess.Popen[str] | subprocess.Popen[bytes]", count: int
) -> dict[str, bytes]:
    """Wait until so many parts are scanned; return the markers that there are then."""
    deadline = time.monotonic() + 200
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        begun = find_begun(store, ID)
        if begun and len(committed(store, begun, Part)) >= count:
            return markers(store)
        time.sleep(0.02)


def markers(store: Store) -> dict[str, bytes]:
    """Return the markers of the parts that are scanned, and of the shards that are packed."""
    found = {}
    for key, _ in store.scan(f"imports/{ID}/"):
        name = key.rpartition("/")[2]
        if name.startswith(("part-", "shard-")):
            try:
                found[key] = store.read(key).data
            except ObjectNotFound:  # it is over, and they are removed
                continue
    return found


def actor_process() -> int:
    """Return the process id of an actor that scans."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::MapWorker(MapBatches(ScanActor))" in path.read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    raise AssertionError("no actor scans")
