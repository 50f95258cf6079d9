"""What a server answers is what the version's decision says, from the next look on."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from graft.decisions.calibration import Calibration
from graft.decisions.records import (
    Decision,
    DecisionDraft,
    decision_in_force,
    list_decisions,
    read_decision,
    record_decision,
)
from graft.decisions.rules import ClassThreshold, Likeliest, Rule, Sets, Thresholds, answer
from graft.errors import ObjectDamaged
from graft.registry import ModelVersion, get_model, promote
from graft.serving.alias_follower import Current, Follower
from graft.serving.app import create_app
from graft.serving.loader import Loader
from graft.serving.shared_trunks import SharedTrunks
from graft.store import Store

SOFT = Calibration(method="temperature", scales=(0.25,))


@pytest.fixture
def store(model_store: Store, tmp_path: Path) -> Store:
    """A store of its own, with `ants-bees@1`."""
    folder = model_store.uri.removeprefix("file://")
    store = Store.open(str(shutil.copytree(folder, tmp_path / "store")))
    promote(store, "ants-bees@1", "champion")
    return store


def model(store: Store) -> ModelVersion:
    return get_model(store, "ants-bees@1")


def decided(store: Store, rule: Rule, calibration: Calibration = SOFT) -> Decision:
    draft = DecisionDraft(model="ants-bees@1", calibration=calibration, rule=rule)
    return record_decision(store, model(store), draft, {})


def asked(current: Current, data: bytes, path: str = "/predict") -> Any:
    async def once() -> Any:
        transport = httpx.ASGITransport(create_app(current))
        async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
            answered = await http.post(f"/v1/models/ants-bees{path}", content=data)
            stats = await http.get("/v1/models/ants-bees/stats")
            return answered.json() | {"stats": stats.json()}

    return asyncio.run(once())


def strict(store: Store) -> Thresholds:
    """No class is ever as likely as that."""
    own = tuple(ClassThreshold(name=name, threshold=0.999) for name in model(store).classes)
    return Thresholds(by_class=own)


def test_without_a_decision_the_likeliest_class(
    store: Store, photograph: Callable[..., bytes]
) -> None:
    body = asked(Current(Loader(store).load(model(store))), photograph(5))
    assert body["decision"] == body["predictions"][0]["class"]
    assert (body["decided_by"], body["set"], body["why"]) == (None, None, "the likeliest class")


@pytest.mark.parametrize("loads", [Loader, SharedTrunks])
def test_a_server_answers_by_the_decision_in_force(
    store: Store, photograph: Callable[..., bytes], loads: Callable[[Store], Any]
) -> None:
    decided(store, Likeliest())
    decided(store, strict(store))
    predictor = loads(store).load(model(store))
    body = asked(Current(predictor), photograph(5))
    assert (body["decision"], body["decided_by"]) == ("unknown", 2)
    assert "below 0.999" in body["why"]
    assert body["stats"]["decisions"] == {"unknown": 1}
    logits = predictor.logits([predictor.prepare(photograph(5))])
    expected = answer(logits, predictor.version.classes, SOFT, strict(store))
    shown = [each["probability"] for each in body["predictions"]]
    np.testing.assert_allclose(shown, np.sort(expected.probabilities[0])[::-1], rtol=1e-6)


def test_sets_are_answered(store: Store, photograph: Callable[..., bytes]) -> None:
    decided(store, Sets(threshold=0.0))
    body = asked(Current(Loader(store).load(model(store))), photograph(5))
    assert body["set"] == [each["class"] for each in body["predictions"]]
    assert body["decision"] == "unknown"


def test_a_new_decision_needs_no_load(store: Store, photograph: Callable[..., bytes]) -> None:
    follower = Follower(Loader(store), "ants-bees@champion")
    engine = follower.predictor.engine
    decided(store, strict(store))
    assert asked(follower, photograph(5))["decided_by"] is None
    assert follower.look()
    assert asked(follower, photograph(5))["decision"] == "unknown"
    assert follower.predictor.engine is engine


def test_a_damaged_decision_leaves_the_one_before(
    store: Store, photograph: Callable[..., bytes]
) -> None:
    decided(store, strict(store))
    follower = Follower(Loader(store), "ants-bees@champion")
    store.create(f"{model(store).folder}/decisions/2.json", b"{}")
    follower.look()
    assert asked(follower, photograph(5))["decided_by"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"model": "others@1"},
        {"rule": {"kind": "thresholds", "by_class": [{"name": "dogs", "threshold": 0.5}]}},
        {"rule": {"kind": "dice"}},
        {"calibration": {"method": "vector", "scales": [1.0, 1.0], "shifts": [0.0]}},
        {"calibration": {"method": "temperature", "scales": ["NaN"]}},
    ],
)
def test_a_decision_that_is_none_of_the_version(store: Store, change: dict[str, Any]) -> None:
    made = decided(store, Likeliest())
    document = made.model_dump(mode="json") | {"number": 2} | change
    import json

    store.create(f"{model(store).folder}/decisions/2.json", json.dumps(document).encode())
    with pytest.raises(ObjectDamaged, match=r"decisions/2\.json"):
        decision_in_force(store, model(store))


def test_decisions_are_numbered_and_never_changed(store: Store) -> None:
    version = model(store)
    assert decision_in_force(store, version) is None
    first, second = decided(store, Likeliest()), decided(store, strict(store))
    assert list_decisions(store, version) == [1, 2]
    assert read_decision(store, version, 1) == first
    assert decision_in_force(store, version) == second


def test_decisions_that_are_made_at_once_all_count(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        numbers = pool.map(lambda _: decided(store, Likeliest()).number, range(8))
    assert sorted(numbers) == list(range(1, 9))
