"""A server and a network that fail in each way they can: nothing is lost, nothing is corrupt."""

import io
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest

import commands
from colours import colour_spec, draw_colours, new_run
from fault_proxy import (
    ALTERED,
    FAULTS,
    LOST,
    REFUSED,
    RESET,
    SLOW_DOWN,
    TRUNCATED,
    FaultProxy,
    Faults,
    failing,
)
from graft.data.importing import import_dataset
from graft.errors import TRY_LATER, ObjectDamaged, StoreError
from graft.prediction.records import ANSWERS
from graft.prediction.run_prediction import create_prediction, run_prediction
from graft.registry import get_model
from graft.spec import Prediction, dump_job
from graft.store import Store, retries, sha256
from graft.training.attempt import run_attempt
from graft.training.events import Event, Validated
from graft.training.run_records import read_result
from graft.training.worker_group import Ranks
from prediction.conftest import Here
from s3_endpoint import s3_endpoint

ALL = dict.fromkeys(FAULTS, 0.03) | {ALTERED: 0.1, LOST: 0.15, SLOW_DOWN: 0.01, REFUSED: 0.02}
"""Part of the requests that each fault meets."""
QUICK = {"stall_s": 0.2, "storm_s": 0.3, "refusal_s": 0.1}
TRIES = 30

Result = TypeVar("Result")


@pytest.fixture
def direct(s3_store_uri: str) -> Store:
    """The store as it is, without the proxy."""
    return Store.open(s3_store_uri)


@pytest.fixture
def proxy(direct: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, at which no request meets a fault yet."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    with failing(os.environ["AWS_ENDPOINT_URL"], Faults(**QUICK)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def until_done(work: Callable[[], Result]) -> Result:
    """Do it again where the store says to do that later, as whoever started it would.

    Or where a payload came altered each time, which is found, and nothing that helps itself.
    """
    said = ""
    for _ in range(TRIES):
        try:
            return work()
        except StoreError as error:
            if error.exit_code != TRY_LATER and not isinstance(error, ObjectDamaged):
                raise
            said = str(error)
    pytest.fail(f"{TRIES} tries did not suffice: {said}")


# Each fault by itself


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_each_fault_is_survived(
    proxy: FaultProxy, direct: Store, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.001)
    store = Store.open(direct.uri)
    proxy.faults.shares = {fault: 0.04 if fault in (SLOW_DOWN, REFUSED) else 0.2}
    markers = {f"m/{number}": uuid.uuid4().bytes for number in range(25)}
    payloads = []
    for key, data in markers.items():
        until_done(lambda key=key, data=data: store.create(key, data))
        payloads.append(until_done(lambda data=data: store.put("p", "x", data * 1000)))
        until_done(lambda data=data: store.point("pointer", data))
        assert until_done(lambda key=key: store.read(key)).data == data
        assert until_done(lambda: store.read("pointer")).data == data
    for ref, data in zip(payloads, markers.values(), strict=True):
        assert until_done(lambda ref=ref: store.get("p", ref)) == data * 1000
        file = until_done(lambda ref=ref: store.open_file("p", ref))
        assert file is not None
        with file:
            assert file.read() == data * 1000
    assert sorted(until_done(lambda: [key for key, _ in store.scan("m/")])) == sorted(markers)
    assert proxy.met[fault] > 0
    assert {key: direct.read(key).data for key in markers} == markers


@pytest.mark.slow
def test_an_altered_document_is_found_and_read_again(proxy: FaultProxy, direct: Store) -> None:
    """Each of its bits is one that may change, and no SHA-256 is written anywhere."""
    data = b'{"format": 1, "attempt": 1, "token": "00"}'
    direct.write("head.json", data)
    proxy.faults.shares = {ALTERED: 0.4}
    store = Store.open(direct.uri)
    for _ in range(60):
        assert store.read("head.json").data == data
    assert len(proxy.altered) > 15


@pytest.mark.slow
def test_what_always_comes_altered_is_an_error(
    proxy: FaultProxy, direct: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.001)
    direct.write("large", bytes(100_000))
    ref = direct.put("a", "x", bytes(100_000))
    proxy.faults.shares = {ALTERED: 1}
    store = Store.open(direct.uri)
    with pytest.raises(StoreError, match="or changed what came; check the network") as error:
        store.read("large")
    assert error.value.exit_code == TRY_LATER
    with pytest.raises(ObjectDamaged, match="its SHA-256 is"):
        store.open_file("a", ref)


@pytest.mark.usefixtures("s3_server")
@pytest.mark.slow
def test_an_endpoint_whose_etags_are_no_digests_is_believed() -> None:
    for etag in (f'"{"0" * 32}"', f'"{"0" * 32}-2"'):
        with s3_endpoint({"a": b"data"}, etag):
            read = Store.open("s3://bucket").read("a")
            assert (read.data, read.etag) == (b"data", etag)


@pytest.mark.slow
def test_an_error_that_breaks_off_is_asked_again(proxy: FaultProxy, direct: Store) -> None:
    """botocore takes no answer that breaks off for an error, but one that is an error."""
    store = Store.open(direct.uri)
    direct.write("a", b"1")
    proxy.faults.shares = {SLOW_DOWN: 0.1, RESET: 0.2, TRUNCATED: 0.1}
    proxy.faults.storm_s = 0.05
    for number in range(15):
        assert until_done(lambda: store.read("a")).data == b"1"
        assert until_done(lambda: store.size("a")) == 1
        until_done(lambda number=number: store.create(f"m/{number}", b"1"))
        until_done(lambda number=number: store.write(f"w/{number}", b"1"))
        until_done(lambda number=number: store.put("p", "x", f"{number}".encode()))
        until_done(lambda number=number: store.delete(f"w/{number}"))
    assert len(list(direct.scan("m/"))) == 15


# All of them, and all that is done with a store


@dataclass
class Ends:
    """What is the same each time that it is done."""

    dataset: str
    shards: list[str]
    history: list[dict[str, float]]
    tail: str
    rows: list[dict[str, Any]]


def everything(store: Store, source: str, alone: Ranks) -> Ends:
    """Import, train with a stop in between, and predict; what says so is tried again."""
    imported = until_done(lambda: import_dataset(store, source, "colours", test_fraction=0))
    backbone = {"arch": "timm/test_resnet", "weights": "none", "freeze": -1}
    spec = colour_spec(backbone=backbone, cache="on", augment={"kind": "standard", "views": 1})
    run = until_done(lambda: new_run(store, spec))
    stopped: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, Validated) and not stopped:
            stopped.append(event.epoch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        until_done(lambda: run_attempt(store, run, alone, stop, time.time()))
    until_done(lambda: run_attempt(store, run, alone, stop, time.time()))
    result = until_done(lambda: read_result(store, run))
    assert result is not None
    assert result.attempt > 1
    version = until_done(lambda: get_model(store, "colours@1"))
    asked = Prediction.model_validate(
        {"kind": "prediction", "model": "colours", "source": source, "part_images": 20}
    )
    prediction = until_done(lambda: create_prediction(store, asked))
    answers = until_done(
        lambda: run_prediction(store, prediction, Here(store), lambda pace: None, take_over=True)
    )
    rows: list[dict[str, Any]] = []
    for ref in answers.parts:
        table = until_done(lambda ref=ref: Store.open(answers.out).get(ANSWERS, ref))
        rows += pq.read_table(io.BytesIO(table)).to_pylist()
    manifest = imported.manifest
    shards = [shard.sha256 for shard in manifest.shards]
    return Ends(manifest.version, shards, list(result.history), version.tail.sha256, rows)


def whole(store: Store) -> int:
    """Require that each object is what its name says, and each document one; count them."""
    count = 0
    for key, _ in store.scan(""):
        data = store.read(key).data
        if named := re.search(r"-([0-9a-f]{64})(\.|$)", key):
            assert sha256(data) == named[1], key
        elif key.endswith(".json"):
            assert isinstance(json.loads(data), dict), key
        count += 1
    return count


@pytest.mark.slow
def test_import_training_and_prediction_end_as_if_nothing_had_happened(
    proxy: FaultProxy, direct: Store, alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_colours(tmp_path / "images", 25, 10)
    quiet = Store.open(f"{direct.uri}/quiet")
    for file in images.rglob("*.png"):
        direct.write(f"source/{file.relative_to(images)}", file.read_bytes())
    source = f"{direct.uri}/source"
    undisturbed = everything(quiet, source, alone)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "another-cache"))
    proxy.faults.shares = ALL
    disturbed = everything(Store.open(f"{direct.uri}/failing"), source, alone)
    proxy.faults.shares = {}
    print(dict(proxy.met))
    assert len([fault for fault, count in proxy.met.items() if count]) > 5  # which: by chance
    assert disturbed == undisturbed
    assert whole(Store.open(f"{direct.uri}/failing")) >= whole(quiet)


@pytest.mark.nightly
def test_a_sweep_ends_as_if_nothing_had_happened(
    proxy: FaultProxy, direct: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_colours(tmp_path / "images")
    backbone = {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"}
    base = dump_job(colour_spec(backbone=backbone, register=None, train__epochs=2))
    (tmp_path / "sweep.yaml").write_text(
        "kind: sweep\nname: faults\nsearch: {kind: grid}\nscheduler: {kind: none}\n"
        "register: {model: swept}\n"
        "space: {train.optimizer.lr: {choice: [1e-3, 1e-2]}}\nbase:\n"
        + "".join(f"  {line}\n" for line in base.splitlines())
    )

    def swept(store: Store) -> tuple[str, list[dict[str, Any]]]:
        monkeypatch.setenv("GRAFT_STORE", store.uri)
        monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / uuid.uuid4().hex))
        until_done(lambda: import_dataset(store, str(images), "colours", test_fraction=0))
        words = ["sweep", str(tmp_path / "sweep.yaml"), "--json"]
        for _ in range(TRIES):
            done = commands.graft(*words)
            if done.returncode != TRY_LATER:
                break
            if resume := re.search(r"--resume (\S+)", done.stderr):
                words = ["sweep", "--resume", resume[1], "--json"]
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["states"] == {"finished": 2}
        proxy.faults.shares = {}
        trials = [trial["epochs"] for trial in document["trials"]]
        return get_model(store, "swept@1").tail.sha256, trials

    undisturbed = swept(Store.open(f"{direct.uri}/quiet"))
    proxy.faults.shares = ALL
    disturbed = swept(Store.open(f"{direct.uri}/failing"))
    print(dict(proxy.met))
    assert disturbed == undisturbed
    assert len(disturbed[1]) == 2
    assert whole(Store.open(f"{direct.uri}/failing")) > 5
    assert sum(proxy.met.values()) > 10
