"""All replicas of a deployment take one engine, and only one that has proved right."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

from graft.errors import StoreDenied
from graft.registry import ModelVersion
from graft.serving.engines import choice
from graft.serving.engines.choice import EngineChoice, Place, choice_key, choose_engine
from graft.serving.engines.engine import Engine
from graft.serving.engines.golden import GoldenImages, prepare
from graft.store import ObjectRef, Store, document_bytes, read_document

PLACE = Place("app", threads=1)


def measured(torch: float, onnxruntime: float) -> Callable[[Engine, int], float]:
    """Return a race whose clocks show these images a second."""
    return lambda engine, crop: torch if engine.name == "torch" else onnxruntime


def recorded(store: Store, version: ModelVersion, place: Place = PLACE) -> EngineChoice:
    return read_document(store, choice_key(version, place.deployment), EngineChoice)


def no_race(engine: Engine, crop: int) -> float:
    raise AssertionError("raced again")


@pytest.mark.slow
def test_the_faster_engine_is_recorded_and_taken_without_another_race(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "images_per_second", measured(60, 110))
    first = choose_engine(tiny_store, version, PLACE)
    assert first.choice.reason == "1.83 times as fast as torch"
    assert first.choice == recorded(tiny_store, version)
    monkeypatch.setattr(choice, "images_per_second", no_race)
    second = choose_engine(tiny_store, version, PLACE)
    assert (second.engine.name, second.choice) == ("onnxruntime", first.choice)
    images = np.stack([prepare(data, version.contract) for data in golden(tiny_store, version)])
    np.testing.assert_array_equal(second.engine.logits(images), first.engine.logits(images))


def golden(store: Store, version: ModelVersion) -> tuple[bytes, ...]:
    return GoldenImages.read(store, version).files


@pytest.mark.slow
def test_where_the_recorded_engine_answers_otherwise_torch_answers_for_all_from_then_on(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("mixed", threads=1)
    monkeypatch.setattr(choice, "images_per_second", measured(60, 110))
    choose_engine(tiny_store, version, place)
    # As on a processor whose kernels are wrong: the other machines' proof stays as it is.
    monkeypatch.setattr(
        choice.OnnxEngine, "logits", lambda self, images: np.ones((len(images), 3), np.float32)
    )
    here = choose_engine(tiny_store, version, place)
    assert here.engine.name == "torch"
    assert "does not give its recorded outputs" in recorded(tiny_store, version, place).reason
    monkeypatch.undo()
    assert choose_engine(tiny_store, version, place).engine.name == "torch"


@pytest.mark.slow
def test_an_engine_that_is_hardly_faster_is_not_taken(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "images_per_second", measured(100, 105))
    chosen = choose_engine(tiny_store, version, Place("even", threads=1))
    assert chosen.engine.name == "torch"
    assert chosen.choice.images_per_second == {"torch": 100, "onnxruntime": 105}


def test_without_onnx_runtime_torch_answers_and_it_is_said_why(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    chosen = choose_engine(tiny_store, version, Place("bare", threads=1))
    assert chosen.engine.name == "torch"
    assert "pip install 'graft-vision[onnx]'" in chosen.choice.reason


def test_a_replica_that_cannot_run_what_is_recorded_has_torch_answer(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("uneven", threads=1)
    graph = tiny_store.put(f"{version.folder}/engines", "graph.onnx", b"no graph")
    record(tiny_store, version, place, graph)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert choose_engine(tiny_store, version, place).engine.name == "torch"
    assert recorded(tiny_store, version, place).reason == "onnxruntime here: it is not installed"


def record(store: Store, version: ModelVersion, place: Place, graph: ObjectRef) -> None:
    """Record that ONNX Runtime answers with a graph."""
    choice = EngineChoice(
        engine="onnxruntime",
        reason="1.8 times as fast as torch",
        images_per_second={},
        graph=graph,
        threads=1,
        processor="another",
        releases={},
        chosen="2026-01-01T00:00:00+00:00",
    )
    store.create(choice_key(version, place.deployment), document_bytes(choice))


@pytest.mark.slow
def test_a_server_that_may_not_write_answers_with_torch(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise StoreDenied("no")

    monkeypatch.setattr(tiny_store, "put", denied)
    chosen = choose_engine(tiny_store, version, Place("reader", threads=1))
    assert chosen.engine.name == "torch"
    assert not tiny_store.exists(choice_key(version, "reader"))
