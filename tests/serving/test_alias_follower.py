"""Served models follow an alias: a promotion takes over between two requests, or not at all."""

import asyncio
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from graft.errors import NotFoundError, ServingError, StoreError
from graft.registry import ModelVersion, get_model, promote
from graft.serving.alias_follower import Current, Follower, Polling
from graft.serving.app import create_app
from graft.serving.engines.choice import Place
from graft.serving.engines.engine import Engine, EngineName
from graft.serving.limits import Limits
from graft.serving.loader import Loader
from graft.serving.predictor import Predictor
from graft.store import Store

PREDICT = "/v1/models/ants-bees/predict"
REF = "ants-bees@champion"


@pytest.fixture(scope="module")
def three_versions(
    tmp_path_factory: pytest.TempPathFactory, register_model: Callable[..., ModelVersion]
) -> Path:
    """A store with two sound versions, unlike each other, and one that forgot its images."""
    folder = tmp_path_factory.mktemp("current") / "store"
    store = Store.open(str(folder))
    register_model(store)
    register_model(store, run="run-2", seed=1, classes=("Ameisen", "Bienen", "Wespen", "Käfer"))
    register_model(store, run="run-3", golden_shift=0.5)
    promote(store, "ants-bees@1", "champion")
    return folder


@pytest.fixture
def store(three_versions: Path, tmp_path: Path) -> Store:
    """A copy of it: `champion` is version 1."""
    return Store.open(str(shutil.copytree(three_versions, tmp_path / "store")))


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://graft")


def health(current: Current) -> dict[str, Any]:
    async def once() -> dict[str, Any]:
        async with client(create_app(current)) as http:
            answer: dict[str, Any] = (await http.get("/healthz")).json()
            return answer

    return asyncio.run(once())


def test_an_alias_that_moves_takes_its_server_along(store: Store) -> None:
    follower = Follower(Loader(store), REF)
    assert health(follower) == {"status": "ok", "model": "ants-bees@1", "refused": None}
    for number in (2, 1, 2):
        promote(store, f"ants-bees@{number}", "champion")
        assert follower.look()
        assert health(follower)["model"] == f"ants-bees@{number}"
    promote(store, "ants-bees@1", "candidate")  # another alias is nobody's business
    loaded = follower.predictor
    assert follower.look()
    assert follower.predictor is loaded


def test_an_alias_that_moves_back_refuses_nothing_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(Loader(store), REF)
    promote(store, "ants-bees@2", "champion")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", _away)
        assert not follower.look()
    assert "away" in str(health(follower)["refused"])
    promote(store, "ants-bees@1", "champion")
    assert follower.look()
    assert health(follower) == {"status": "ok", "model": "ants-bees@1", "refused": None}


def _away(*_: object) -> bytes:
    raise StoreError("the bucket is away")


def test_what_cannot_answer_from_the_start_is_an_error(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no version or alias 'candidate'"):
        Follower(Loader(store), "ants-bees@candidate")
    promote(store, "ants-bees@3", "champion")
    with pytest.raises(ServingError, match="golden image"):
        Follower(Loader(store), REF)


def test_a_version_is_computed_on_the_device_of_the_follower(store: Store) -> None:
    nowhere = torch.device("meta")  # computes nothing, so that golden images cannot match
    with pytest.raises(RuntimeError, match="meta"):
        Follower(Loader(store, Place(device=nowhere)), REF)
    follower = Follower(Loader(store, Place(device=torch.device("cpu"))), REF)
    follower._loader = Loader(store, Place(device=nowhere))
    promote(store, "ants-bees@2", "champion")
    assert follower.look()
    assert "meta" in str(follower.refused)


def test_a_wait_says_why_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFoundError):
        Follower.wait_for(Loader(store), "ants-bees@candidate", Polling(0.01, patience_s=0.1))
    assert len([line for line in caplog.messages if "cannot answer yet" in line]) == 1


def test_what_cannot_answer_yet_is_waited_for(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no version or alias 'candidate'"):
        Follower.wait_for(Loader(store), "ants-bees@candidate", Polling(0.01, patience_s=0.03))
    timer = threading.Timer(0.1, promote, (store, "ants-bees@2", "candidate"))
    timer.start()
    follower = Follower.wait_for(Loader(store), "ants-bees@candidate", Polling(0.01, patience_s=60))
    timer.join()
    assert follower.predictor.version.version == 2


def test_a_version_with_wrong_golden_images_is_refused_until_the_alias_moves(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(Loader(store), REF)
    promote(store, "ants-bees@3", "champion")
    assert follower.look()
    said = health(follower)
    assert said["model"] == "ants-bees@1"
    assert said["refused"].startswith("ants-bees@3: does not give its recorded outputs")
    before, line = caplog.messages
    assert before == "ants-bees@3 is warmed beside ants-bees@1: 2.9 MB of weights"
    assert line.startswith("ants-bees@1 goes on, refused is ants-bees@3: ")

    # It is not loaded again: without its payload that would be another reason.
    store.delete(next(key for key, _ in store.scan("models/ants-bees/versions/3/golden")))
    assert follower.look()
    assert health(follower) == said
    promote(store, "ants-bees@1", "champion")
    assert follower.look()
    assert health(follower)["refused"] is None
    promote(store, "ants-bees@3", "champion")
    assert not follower.look()
    assert "does not exist" in health(follower)["refused"]
    promote(store, "ants-bees@2", "champion")
    assert follower.look()
    assert health(follower) == {"status": "ok", "model": "ants-bees@2", "refused": None}


def test_a_payload_that_comes_back_is_taken(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower(Loader(store), REF)
    tail = next(key for key, _ in store.scan("models/ants-bees/versions/2/tail"))
    data = store.read(tail).data
    store.write(tail, data[:-1] + bytes([data[-1] ^ 1]))
    promote(store, "ants-bees@2", "champion")
    assert not follower.look()
    assert not follower.look()
    assert "is damaged" in health(follower)["refused"]
    assert len(caplog.messages) == 2  # and what it would take of memory
    store.write(tail, data)
    assert follower.look()
    assert health(follower) == {"status": "ok", "model": "ants-bees@2", "refused": None}


def test_a_store_that_is_away_changes_nothing(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(Loader(store), REF)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "store").write_text("no directory")
    for _ in range(3):
        assert not follower.look()
        assert health(follower) == {"status": "ok", "model": "ants-bees@1", "refused": None}
    assert len(caplog.messages) == 1
    (tmp_path / "store").unlink()
    assert follower.look()  # an empty store has no such alias: that moves nothing either
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    promote(store, "ants-bees@2", "champion")
    assert follower.look()
    assert follower.predictor.version.version == 2


def test_a_follower_looks_by_itself(store: Store) -> None:
    follower, stop = Follower(Loader(store), REF), threading.Event()
    thread = threading.Thread(target=follower.follow, args=(0.01, stop))
    thread.start()
    try:
        promote(store, "ants-bees@2", "champion")
        deadline = time.monotonic() + 60
        while follower.predictor.version.version != 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow
def test_promotions_back_and_forth_fail_no_request_and_mix_no_versions(
    store: Store, photograph: Callable[..., bytes]
) -> None:
    files = [photograph(seed) for seed in range(8)]
    expected = {}
    for number in (1, 2):
        alone = Predictor.load(store, get_model(store, f"ants-bees@{number}"))
        rows = alone.predict([alone.prepare(data) for data in files]).probabilities
        expected[alone.version.ref] = [
            dict(zip(alone.version.classes, row.tolist(), strict=True)) for row in rows
        ]
    follower = Follower(Loader(store), REF)

    def move() -> None:
        for number in (2, 1, 2, 1, 2):
            promote(store, f"ants-bees@{number}", "champion")
            assert follower.look()

    async def ask_meanwhile() -> list[tuple[int, httpx.Response]]:
        answers = []
        # On a busy machine it would refuse some, without a pause in which anything else could run.
        patient = Limits(wait_s=600, answer_s=600)
        async with client(create_app(follower, limits=patient)) as http:
            moving = asyncio.create_task(asyncio.to_thread(move))

            async def steadily(i: int) -> None:
                while not moving.done():
                    answers.append((i, await http.post(PREDICT, content=files[i])))
                    await asyncio.sleep(0)

            await asyncio.gather(moving, *(steadily(i) for i in range(len(files)) for _ in (1, 2)))
        return answers

    answers = asyncio.run(ask_meanwhile())
    assert {answer.status_code for _, answer in answers} == {200}
    bodies = [(i, answer.json()) for i, answer in answers]
    assert {body["model"] for _, body in bodies} == set(expected)
    for i, body in bodies:
        answered = {each["class"]: each["probability"] for each in body["predictions"]}
        assert answered == pytest.approx(expected[body["model"]][i], rel=1e-4)


class Gated(Predictor, Engine):
    """A predictor that counts its images, and whose forwards wait at a gate."""

    name: EngineName = "torch"

    def __init__(self, inner: Predictor, gate: threading.Event):
        super().__init__(inner.version, self)
        self.prepared = self.entered = self.predicted = 0
        self._inner, self._gate = inner, gate

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        self.prepared += 1
        return self._inner.prepare(data)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered += len(images)
        assert self._gate.wait(60)
        self.predicted += len(images)
        return self._inner.engine.logits(images)


def test_requests_in_flight_end_on_the_version_they_began_with(
    store: Store, photograph: Callable[..., bytes]
) -> None:
    gate = threading.Event()
    old, new = (
        Gated(Predictor.load(store, get_model(store, f"ants-bees@{number}")), gate)
        for number in (1, 2)
    )
    current = Current(old)

    async def swap_in_flight() -> list[str]:
        async with client(create_app(current)) as http:

            def ask(count: int) -> list["asyncio.Task[httpx.Response]"]:
                data = photograph(1)
                return [asyncio.create_task(http.post(PREDICT, content=data)) for _ in range(count)]

            tasks = ask(5)
            while old.prepared < 5:
                await asyncio.sleep(0.01)
            current.predictor = new
            tasks += ask(5)
            while new.prepared < 5 or not old.entered:  # images of both wait behind the gate
                await asyncio.sleep(0.01)
            gate.set()
            return [(await task).json()["model"] for task in tasks]

    assert asyncio.run(swap_in_flight()) == ["ants-bees@1"] * 5 + ["ants-bees@2"] * 5
    assert (old.predicted, new.predicted) == (5, 5)


def test_the_old_version_is_freed(store: Store, photograph: Callable[..., bytes]) -> None:
    follower = Follower(Loader(store), REF)
    # A replica's first version is out of the garbage collector's reach: Ray Serve freezes it.
    gc.disable()
    try:
        network = weakref.ref(follower.predictor.engine.model.network)

        async def swap_between_requests() -> None:
            async with client(create_app(follower)) as http:
                for number in (1, 2):
                    promote(store, f"ants-bees@{number}", "champion")
                    assert follower.look()
                    answer = await http.post(PREDICT, content=photograph(1))
                    assert answer.json()["model"] == f"ants-bees@{number}"
                assert network() is None

        asyncio.run(swap_between_requests())
    finally:
        gc.enable()
