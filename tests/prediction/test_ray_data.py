"""`graft predict-batch` on Ray Data: the same rows as without it, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import commands
from data.source_files import hugging_face, tar
from graft.errors import ObjectNotFound, RunFailed
from graft.prediction.ray_data import Actor, predict_on_ray
from graft.prediction.records import part_key, parts_done, read_finished
from graft.prediction.run_prediction import create_prediction, run_prediction
from graft.registry import get_model
from graft.spec import Prediction
from graft.store import Store
from models import encoded, picture
from prediction.conftest import IMAGES, Here
from prediction.test_run_prediction import rows

GRAFT = Path(sys.executable).with_name("graft")

pytestmark = pytest.mark.slow


@pytest.fixture
def many(archive: Path) -> Path:
    """Enough images that a prediction takes some seconds."""
    data = [encoded(picture(seed)) for seed in range(20)]
    for number in range(600):
        (archive / f"many-{number:03d}.jpg").write_bytes(data[number % len(data)])
    return archive


def alone(store: Store, source: Path) -> list[dict[str, Any]]:
    """Return the rows that one process gives, without Ray."""
    asked = Prediction(kind="prediction", model="ants-bees", source=str(source), engine="torch")
    prediction = create_prediction(store, asked)
    return rows(run_prediction(store, prediction, Here(store), lambda pace: None))


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Batches end elsewhere in parts of another size, which moves the last bits."""
    for key in ("path", "sha256", "decision", "classes"):
        assert [row[key] for row in one] == [row[key] for row in other]
    for row, again in zip(one, other, strict=True):
        assert row["probabilities"] == pytest.approx(again["probabilities"], abs=1e-4)


def test_rows_are_those_of_one_process(
    store: Store, archive: Path, ray_cluster: None, ray_cluster_address: str
) -> None:
    words = ("predict-batch", "ants-bees", str(archive), "--part-images", "4", "--engine", "torch")
    done = commands.main(
        *words, "--store", store.uri, "--json", env={"RAY_ADDRESS": ray_cluster_address}
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert "core_worker" not in done.stderr
    finished = read_finished(store, made["prediction"])
    assert finished is not None
    same(rows(finished), alone(store, archive))
    shown = commands.main("predictions", "show", made["prediction"], "--store", store.uri, "--json")
    assert json.loads(shown.stdout) == made


def test_ray_reads_images_in_larger_files(
    store: Store, archive: Path, ray_cluster: None, tmp_path: Path
) -> None:
    images = [path.read_bytes() for path in sorted(archive.rglob("*.jpg"))]
    hugging_face(tmp_path / "larger" / "x.parquet", images, [0] * len(images))
    tar(tmp_path / "larger" / "y.tar", {f"{i}.jpg": image for i, image in enumerate(images)})
    source = str(tmp_path / "larger")
    asked = Prediction(kind="prediction", model="ants-bees", source=source, part_images=5)
    prediction = create_prediction(store, asked)
    finished = run_prediction(store, prediction, predict_on_ray(store), lambda pace: None)
    assert (finished.images, finished.unusable) == (2 * IMAGES, 2)
    same(rows(finished), alone(store, tmp_path / "larger"))


@pytest.mark.nightly  # two starts of Ray that are killed, and a third: minutes
def test_killed_twice_and_resumed(store: Store, many: Path) -> None:
    words = ["predict-batch", "ants-bees", str(many), "--part-images", "10", "--engine", "torch"]
    prediction = ""
    for number in range(2):
        command = [str(GRAFT), *words, "--store", store.uri]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            deadline = time.monotonic() + 200
            while True:
                assert process.poll() is None
                assert time.monotonic() < deadline
                found = list(store.children("predictions/"))
                if found and len(committed(store, found[0])) > 3 * (number + 1):
                    break
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        prediction = found[0]
        words = ["predict-batch", "--resume", prediction]
    before = markers(store, prediction)
    assert read_finished(store, prediction) is None
    done = commands.main(*words, "--store", store.uri)
    assert done.returncode == 0, done.stderr
    after = markers(store, prediction)
    assert before.items() <= after.items()
    assert len(after) == 62
    finished = read_finished(store, prediction)
    assert finished is not None
    same(rows(finished), alone(store, many))


def markers(store: Store, prediction: str) -> dict[int, bytes]:
    """Return the markers of the parts that are done."""
    folder = f"predictions/{prediction}"
    numbers = committed(store, prediction)
    return {number: store.read(f"{folder}/{part_key(number)}").data for number in numbers}


def committed(store: Store, prediction: str) -> set[int]:
    return parts_done(Store.open(f"{store.uri}/predictions/{prediction}"))


def test_a_process_that_dies_costs_its_part_alone(
    store: Store, many: Path, ray_cluster: None, ray_cluster_address: str
) -> None:
    command = [str(GRAFT), "predict-batch", "ants-bees", str(many), "--part-images", "10"]
    command += ["--engine", "torch", "--workers", "2", "--store", store.uri]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster_address}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    killed = 0
    deadline = time.monotonic() + 250
    while process.poll() is None and time.monotonic() < deadline:
        found = list(store.children("predictions/"))
        if not killed and found and len(committed(store, found[0])) > 5:
            killed = actor_process()
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.1)
    _, said = process.communicate(timeout=10)
    assert killed
    assert process.returncode == 0, said
    finished = read_finished(store, found[0])
    assert finished is not None
    same(rows(finished), alone(store, many))


def test_what_an_actor_meets_is_said(store: Store, archive: Path, ray_cluster: None) -> None:
    asked = Prediction(kind="prediction", model="ants-bees", source=str(archive))
    prediction = create_prediction(store, asked)
    version = get_model(store, "ants-bees")
    store.delete(f"{version.folder}/{version.tail.name}")
    with pytest.raises(ObjectNotFound, match="tail"):
        run_prediction(store, prediction, predict_on_ray(store), lambda pace: None)


@pytest.mark.nightly  # Ray waits longer before each restart: 100 s
def test_a_part_that_kills_its_processes_ends_it(
    store: Store, archive: Path, ray_cluster: None
) -> None:
    asked = Prediction(kind="prediction", model="ants-bees", source=str(archive), part_images=4)
    prediction = create_prediction(store, asked)

    class Dying(Actor):  # not of this module, which Ray's processes do not find
        """Dies of its second part, as of an image that takes too much memory."""

        def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
            (number,) = block["part"].tolist()
            if number == 1:
                self._check_tries(number)
                os._exit(1)
            return super().__call__(block)

    with pytest.raises(RunFailed, match=r"4 processes died of part 1 \(files 5 to 8\)"):
        run_prediction(store, prediction, predict_on_ray(store, Dying), lambda pace: None)


def actor_process() -> int:
    """Return the process id of an actor that answers."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::MapWorker(MapBatches(Actor))" in path.read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    return 0
