"""All replicas of a deployment take one engine, and only one that has proved right."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from graft.errors import InputError, ServingError, StoreDenied
from graft.registry import ModelVersion
from graft.serving.alias_follower import Follower
from graft.serving.engines import choice, kept_graph
from graft.serving.engines.choice import EngineChoice, Place, choice_key, choose_engine
from graft.serving.engines.engine import Engine
from graft.serving.engines.golden import GoldenImages, prepare
from graft.serving.engines.kept_graph import KeptGraph, onnx_graph
from graft.serving.loader import Loader
from graft.store import Store, document_bytes, read_document
from models import register_model


def auto(deployment: str) -> Place:
    return Place("auto", deployment)


def measured(torch: float, onnx: float) -> Callable[[Engine, int], float]:
    """Return a race whose clocks show these images a second."""
    return lambda engine, crop: torch if engine.name == "torch" else onnx


def recorded(store: Store, version: ModelVersion, place: Place) -> EngineChoice:
    return read_document(store, choice_key(version, place.deployment), EngineChoice)


def no_race(engine: Engine, crop: int) -> float:
    raise AssertionError("raced again")


@pytest.fixture(scope="module")
def kept(tiny_store: Store, version: ModelVersion) -> bytes:
    """The version's graph, which is written in another process, and then in the store."""
    return onnx_graph(tiny_store, version)


@pytest.mark.slow
def test_a_graph_is_written_once_for_all_deployments(
    tiny_store: Store, version: ModelVersion, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_graph, "_write_elsewhere", None)
    assert onnx_graph(tiny_store, version) == kept
    folder = f"exports/{version.trunk_digest}/{version.tail.sha256}/"
    assert len(list(tiny_store.scan(folder))) == 2  # the graph, and its marker


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_the_faster_engine_is_recorded_and_taken_without_another_race(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "images_per_second", measured(60, 110))
    first = choose_engine(tiny_store, version, auto("app"))
    assert first.reason == "it is 1.83 times as fast as torch"
    record = recorded(tiny_store, version, auto("app"))
    assert (record.engine, record.passed) == ("onnx", (choice.processor(),))
    assert record.images_per_second == {"torch": 60, "onnx": 110}
    monkeypatch.setattr(choice, "images_per_second", no_race)
    second = choose_engine(tiny_store, version, auto("app"))
    assert (second.engine.name, second.reason) == ("onnx", first.reason)
    files = GoldenImages.read(tiny_store, version).files
    images = np.stack([prepare(data, version.contract) for data in files])
    np.testing.assert_array_equal(second.engine.logits(images), first.engine.logits(images))


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_replicas_that_begin_together_race_once(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced = []

    def measure(engine: Engine, crop: int) -> float:
        raced.append(engine.name)
        return 60 if engine.name == "torch" else 110

    monkeypatch.setattr(choice, "images_per_second", measure)
    with ThreadPoolExecutor(3) as pool:
        replicas = [
            pool.submit(choose_engine, tiny_store, version, auto("crowd")) for _ in range(3)
        ]
    assert {replica.result().engine.name for replica in replicas} == {"onnx"}
    assert raced == ["torch", "onnx"] * choice.ROUNDS


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_what_does_not_pass_on_one_kind_of_processor_answers_in_no_replica(
    tiny_store: Store,
    version: ModelVersion,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(choice, "images_per_second", measured(60, 110))
    loader = Loader(tiny_store, auto("mixed"))
    monkeypatch.setattr(choice, "processor", lambda: "Xeon")
    first = Follower(loader, version.ref)
    monkeypatch.setattr(choice, "processor", lambda: "EPYC")
    assert loader.load(version).engine.name == "onnx"
    assert recorded(tiny_store, version, loader.place).passed == ("Xeon", "EPYC")
    assert first.look()
    assert first.predictor.engine.name == "onnx"

    # As on a processor whose kernels are wrong.
    monkeypatch.setattr(choice, "processor", lambda: "Graviton")
    with monkeypatch.context() as patch:
        patch.setattr(
            choice.OnnxEngine, "logits", lambda self, images: np.ones((len(images), 3), np.float32)
        )
        here = loader.load(version)
    assert here.engine.name == "torch"
    assert here.reason.startswith("onnx does not pass on Graviton: ants-bees@1 does not give its r")
    assert any("torch answers in all replicas from now on" in line for line in caplog.messages)
    assert first.look()
    assert (first.predictor.engine.name, first.predictor.reason) == ("torch", here.reason)
    assert loader.load(version).engine.name == "torch"  # a restart, where onnx would pass


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_an_engine_that_is_hardly_faster_is_not_taken(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "images_per_second", measured(100, 105))
    chosen = choose_engine(tiny_store, version, auto("even"))
    assert (chosen.engine.name, chosen.reason) == (
        "torch",
        "onnx is 1.05 times as fast as torch, which is not enough",
    )


def test_without_onnx_runtime_torch_answers_and_nothing_is_recorded(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release_of(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(kept_graph, "release_of", release_of)
    chosen = choose_engine(tiny_store, version, auto("bare"))
    assert chosen.engine.name == "torch"
    assert "pip install 'graft-vision[onnx]'" in chosen.reason
    assert list(tiny_store.scan(f"{version.folder}/engines/bare")) == []


@pytest.fixture(scope="module")
def no_graph(tiny_store: Store) -> ModelVersion:
    """A version of which the store keeps what is no graph."""
    version = register_model(tiny_store, "broken", seed=1, arch="timm/test_resnet")
    folder = f"exports/{version.trunk_digest}/{version.tail.sha256}"
    graph = tiny_store.put(folder, "graph.onnx", b"no graph")
    marker = KeptGraph(trunk_digest=version.trunk_digest, tail=version.tail.sha256, graph=graph)
    tiny_store.create(f"{folder}/{kept_graph._engine()}.json", document_bytes(marker))
    return version


def test_a_recorded_engine_that_does_not_run_is_replaced_for_all(
    tiny_store: Store, no_graph: ModelVersion
) -> None:
    place = auto("uneven")
    record = EngineChoice(
        engine="onnx",
        reason="it is 1.8 times as fast as torch",
        images_per_second={},
        passed=(choice.processor(),),
        releases={},
        chosen="2026-01-01T00:00:00+00:00",
    )
    tiny_store.create(choice_key(no_graph, "uneven"), document_bytes(record))
    assert choose_engine(tiny_store, no_graph, place).engine.name == "torch"
    assert "ONNX Runtime does not take the graph" in recorded(tiny_store, no_graph, place).reason


def test_an_engine_that_is_asked_for_answers_or_is_an_error(
    tiny_store: Store, no_graph: ModelVersion
) -> None:
    with pytest.raises(ServingError, match="ONNX Runtime does not take the graph: "):
        choose_engine(tiny_store, no_graph, Place("onnx"))
    with pytest.raises(InputError, match="this replica has a GPU"):
        choose_engine(tiny_store, no_graph, Place("onnx", device=torch.device("cuda")))
    assert choose_engine(tiny_store, no_graph, Place("torch")).engine.name == "torch"


def test_a_server_that_may_not_write_answers_with_torch_and_says_so(
    tiny_store: Store,
    version: ModelVersion,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def denied(*_: object) -> None:
        raise StoreDenied("access denied")

    monkeypatch.setattr(tiny_store, "create", denied)
    monkeypatch.setattr(choice, "images_per_second", no_race)
    assert Loader(tiny_store, auto("reader")).load(version).engine.name == "torch"
    (line,) = caplog.messages
    assert line == (
        "ants-bees@1 is computed by torch: this server may not record which engine is faster: "
        "access denied"
    )
