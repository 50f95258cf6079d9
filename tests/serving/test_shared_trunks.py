"""Models of one trunk: in memory once, in one forward, and each answers as it does alone."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from graft.backbones.parts import part_bytes
from graft.errors import ServingError
from graft.registry import ModelVersion
from graft.serving.engines import choice
from graft.serving.engines.choice import Place
from graft.serving.predictor import Predictor
from graft.serving.routes import Asked, logits
from graft.serving.shared_trunks import GIGABYTE, SharedTrunks, engines_folder
from graft.store import Store

TOLERANCE = 1e-4
"""Relative: what another shape of the batch does to float32."""


@dataclass(frozen=True)
class Family:
    """Models whose trunks begin alike, and one whose does not."""

    store: Store
    versions: dict[str, ModelVersion]
    alone: dict[str, Predictor]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, register_model: Callable) -> Family:
    store = Store.open(str(tmp_path_factory.mktemp("trunks") / "store"))

    def register(name: str, seed: int, freeze: int | str, trunk: int = 7) -> ModelVersion:
        classes = tuple(f"{name}-{number}" for number in range(2 + seed))
        kind = {"seed": seed, "freeze": freeze, "trunk_seed": trunk, "classes": classes}
        return register_model(store, name=name, run=f"run-{name}", **kind)

    versions = {
        "ants": register("ants", 0, "all"),
        "bees": register("bees", 1, "all"),
        "cats": register("cats", 2, 5),
        "dogs": register("dogs", 3, "all", trunk=8),
        "eels": register("eels", 4, 0),
    }
    alone = {name: Predictor.load(store, version) for name, version in versions.items()}
    return Family(store, versions, alone)


def test_stages_of_one_digest_are_there_once(family: Family) -> None:
    trunks = SharedTrunks(family.store)
    loaded = {name: trunks.load(version) for name, version in family.versions.items()}
    ways = {name: predictor.engine.in_memory for name, predictor in loaded.items()}
    assert ways["ants"] == ways["bees"]
    assert ways["ants"][:6] == ways["cats"]
    assert len({id(part) for way in ways.values() for part in way}) == 10 + 10 + 1
    alone = 2 * sum(part_bytes(part) for part in ways["ants"][1:])
    assert trunks.bytes < alone + trunks.tails.bytes + 1


def test_images_of_many_models_in_one_forward_get_each_models_own_answer(
    family: Family, photograph: Callable[..., bytes]
) -> None:
    trunks = SharedTrunks(family.store)
    loaded = {name: trunks.load(family.versions[name]) for name in ("ants", "bees", "cats")}
    images = [loaded["ants"].prepare(photograph(seed)) for seed in range(6)]
    names = ["cats", "ants", "bees", "ants", "cats", "bees"]
    asked = [
        Asked(loaded[name].engine.route(), image) for name, image in zip(names, images, strict=True)
    ]
    assert len({one.root for one in asked}) == 1
    for name, image, row in zip(names, images, logits(asked), strict=True):
        expected = family.alone[name].predict([image]).probabilities[0]
        np.testing.assert_allclose(softmax(row), expected, rtol=TOLERANCE)


def test_a_batch_of_one_model_gives_the_very_bits_that_it_gives_alone(
    family: Family, photograph: Callable[..., bytes]
) -> None:
    trunks = SharedTrunks(family.store)
    for name, version in family.versions.items():
        predictor = trunks.load(version)
        images = [predictor.prepare(photograph(seed)) for seed in range(3)]
        np.testing.assert_array_equal(
            predictor.logits(images), family.alone[name].logits(images), err_msg=name
        )


def test_tails_come_and_go_within_their_budget_and_answers_stay(
    family: Family, photograph: Callable[..., bytes]
) -> None:
    one_tail = 7_000  # of 513 numbers for each of up to 3 classes
    trunks = SharedTrunks(family.store, tails_gb=one_tail / GIGABYTE)
    loaded = {name: trunks.load(family.versions[name]) for name in ("ants", "bees")}
    assert loaded["ants"].engine.ready_route() is None  # the other one's has taken its place
    image = loaded["ants"].prepare(photograph(1))
    for name in ("ants", "bees", "ants"):
        expected = family.alone[name].predict([image]).probabilities
        np.testing.assert_array_equal(loaded[name].predict([image]).probabilities, expected)
        assert 0 < trunks.tails.bytes <= one_tail
        assert loaded[name].engine.ready_route() is not None


def test_what_no_version_needs_any_more_is_freed(family: Family) -> None:
    trunks = SharedTrunks(family.store)
    ants, cats = (trunks.load(family.versions[name]) for name in ("ants", "cats"))
    both = trunks.bytes
    gc.disable()  # a replica's first versions are out of the garbage collector's reach
    try:
        del ants
        alone = trunks.bytes
        assert alone == sum(map(part_bytes, cats.engine.route()[1:])) < both
        del cats
        assert trunks.bytes == 0
    finally:
        gc.enable()


def test_what_a_version_would_take_is_known_before_it_is_loaded(family: Family) -> None:
    trunks = SharedTrunks(family.store)
    said = trunks.cost(family.versions["ants"])
    assert said.startswith("2.9 MB for 9 frozen stages (0 more are shared), 4.3 kB for its tail")
    kept = trunks.load(family.versions["ants"])
    said = trunks.cost(family.versions["cats"])
    assert said.startswith("0 B for 0 frozen stages (5 more are shared), 2.4 MB for its tail")
    del kept


def test_a_version_that_forgot_its_golden_images_is_refused(
    tmp_path: Path, register_model: Callable
) -> None:
    store = Store.open(str(tmp_path))
    version = register_model(store, golden_shift=0.5)
    with pytest.raises(ServingError, match=r"ants-bees@1 .* golden image \d of 3 differs"):
        SharedTrunks(store).load(version)


@pytest.mark.slow  # a graph is written, in a process of its own
def test_a_trunk_that_onnx_computes_is_there_once_and_raced_once_for_all(
    family: Family, photograph: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    trunks = SharedTrunks(family.store, Place("onnx"))
    loaded = {name: trunks.load(family.versions[name]) for name in ("ants", "bees")}
    images = [loaded["ants"].prepare(photograph(seed)) for seed in range(4)]
    names = ["ants", "bees"] * 2
    asked = [
        Asked(loaded[name].engine.route(), image) for name, image in zip(names, images, strict=True)
    ]
    assert len({one.root for one in asked}) == 1
    assert trunks.bytes == trunks.tails.bytes  # torch has no stage
    for name, image, row in zip(names, images, logits(asked), strict=True):
        expected = family.alone[name].predict([image]).probabilities[0]
        np.testing.assert_allclose(softmax(row), expected, rtol=1e-3)

    monkeypatch.setattr(choice, "TURN_S", 0.01)
    trunks = SharedTrunks(family.store, Place("auto", "here"))
    first = trunks.load(family.versions["ants"])
    key = f"{engines_folder(family.versions['ants'])}/here.json"
    record = family.store.read(key)
    second = trunks.load(family.versions["bees"])
    assert family.store.read(key) == record
    assert (first.engine.name, first.reason) == (second.engine.name, second.reason)
    assert not trunks.is_outdated(first)
