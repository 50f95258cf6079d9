"""Which engine answers for a version in a deployment: raced once, and recorded in the store.

All replicas of a deployment take the recorded one, and so does a restart: so they answer alike.
"""

import contextlib
import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from graft.activations.lease import hold_lease
from graft.backbones.trunk import load_model
from graft.errors import (
    InputError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    ResourceError,
    ServingError,
    StoreDenied,
)
from graft.registry import ModelVersion
from graft.serving.engines.engine import Engine, EngineName, EngineSetting, OnnxEngine, TorchEngine
from graft.serving.engines.golden import GoldenImages
from graft.serving.engines.kept_graph import onnx_graph
from graft.spec import Id, Section
from graft.store import Store, document_bytes
from graft.store.documents import find_document, parse_document
from graft.store.retries import swaps

E = TypeVar("E", bound=Engine)

ROUNDS = 3
"""Each engine computes in so many turns, of which its best counts: a neighbour disturbs some."""
TURN_S = 0.5
"""Seconds of a turn, after a first batch that warms it."""
BATCHES = (1, 8)
"""Sizes of the batches that it computes in turn: an idle server's, and a busy one's."""
AHEAD = 1.1
"""How many times faster than torch another engine has to be, to be taken."""

logger = logging.getLogger(__name__)


class EngineChoice(Section):
    """Pointer ``engines/<deployment>.json`` of a version: the engine that answers there."""

    engine: EngineName
    reason: str
    """Why this one, in a line."""
    images_per_second: dict[EngineName, float]
    """What the race measured; empty where there was none."""
    passed: tuple[str, ...]
    """Processors on which it has given the golden logits."""
    releases: dict[str, str]
    """Releases of what could have raced where it was chosen."""
    chosen: str
    """ISO 8601 in UTC."""


@dataclass(frozen=True)
class Place:
    """Where a version answers, and how its engine is chosen there."""

    engine: EngineSetting = "torch"
    deployment: Id = "none"
    """Its replicas answer alike."""
    threads: int = 1
    device: torch.device | None = None
    """None: the CPU."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.device is not None and self.device.type == "cuda"


ON_CPU = Place()
"""Where torch answers in this process alone."""


@dataclass(frozen=True)
class Chosen:
    """An engine that has proved right in this process, and why it is this one."""

    engine: Engine
    reason: str


class Rivals(Protocol):
    """The engines that may compute a version, each proved as it is asked for.

    They raise ServingError where one does not give the golden logits, ResourceError where it is
    not installed, and StoreError where a payload is missing or damaged.
    """

    @property
    def torch(self) -> Engine:
        """On the place's device."""

    @property
    def onnx(self) -> Engine:
        """On CPUs."""

    @property
    def crop(self) -> int:
        """Width and height of the images that they take."""

    @property
    def folder(self) -> str:
        """The store's folder in which it is recorded which one answers."""


class Candidates:
    """The engines of a version at a place, each loaded as it is asked for, and proved.

    They raise ServingError where one does not give the golden logits, ResourceError where it is
    not installed, and StoreError where a payload is missing or damaged.
    """

    def __init__(self, store: Store, version: ModelVersion, place: Place = ON_CPU):
        self._store, self._version, self._place = store, version, place
        self._golden = GoldenImages.read(store, version)

    @property
    def crop(self) -> int:
        """Width and height of the images that they take."""
        return self._version.contract.crop

    @property
    def folder(self) -> str:
        """See `Rivals`."""
        return engines_folder(self._version)

    @cached_property
    def torch(self) -> TorchEngine:
        """On the place's device."""
        model, contract = load_model(self._store, self._version), self._version.contract
        return self._proved(TorchEngine(model, contract, self._place.device))

    @cached_property
    def onnx(self) -> OnnxEngine:
        """On CPUs."""
        check_onnx(self._place)
        graph = onnx_graph(self._store, self._version)
        return self._proved(OnnxEngine(graph, self._place.threads))

    def _proved(self, engine: E) -> E:
        self._golden.prove(self._version, engine.logits)
        return engine


def check_onnx(place: Place) -> None:
    """Check that ONNX Runtime computes at a place.

    Raises:
        InputError: it does not.
    """
    if place.on_gpu:
        raise InputError(
            "engine onnx computes on CPUs, and this replica has a GPU; choose torch, or auto"
        )


def choose_engine(store: Store, version: ModelVersion, place: Place) -> Chosen:
    """Return the engine that answers for a version at a place; see `choose_among`."""
    return choose_among(store, Candidates(store, version, place), place)


def choose_among(store: Store, rivals: Rivals, place: Place) -> Chosen:
    """Return which of two engines answers at a place.

    With `auto`, the first replica of a deployment that asks lets them race, and records the
    faster one for all. Where that one does not pass on another kind of processor, torch answers in
    all replicas from then on. Nothing is recorded, and torch answers, where ONNX Runtime is not
    installed, or the store may not be written.

    Raises:
        ServingError: torch, or the engine that was asked for, does not give the golden logits.
        ResourceError: the engine that was asked for is not installed.
        InputError: it does not compute there.
        StoreError: a payload is missing or damaged.
    """
    if place.engine == "torch":
        return Chosen(rivals.torch, "it was asked for")
    if place.engine == "onnx":
        return Chosen(rivals.onnx, "it was asked for")
    if place.on_gpu:
        return Chosen(rivals.torch, "no other engine computes on GPUs")
    try:
        return _agreed(store, f"{rivals.folder}/{place.deployment}.json", rivals)
    except StoreDenied as error:
        reason = f"this server may not record which engine is faster: {error}"
    except ResourceError as error:
        reason = str(error)
    return Chosen(rivals.torch, reason)


def recorded_engine(store: Store, folder: str, place: Place) -> EngineName | None:
    """Return the engine that a folder of the store says answers at a place; None: it does not."""
    choice = find_document(store, f"{folder}/{place.deployment}.json", EngineChoice)
    return choice.engine if choice else None


def choice_key(version: ModelVersion, deployment: Id) -> str:
    """Return where the choice for a version and a deployment lies."""
    return f"{engines_folder(version)}/{deployment}.json"


def engines_folder(version: ModelVersion) -> str:
    """Return the store's folder of choices for a version."""
    return f"{version.folder}/engines"


def _agreed(store: Store, key: str, candidates: Rivals) -> Chosen:
    """Return the recorded engine, and record first what this process can add to it.

    Raises:
        StoreDenied: it may not.
        ResourceError: nothing is recorded, and there is none but torch here.
    """
    here = processor()
    for _ in swaps(f"{store.uri}/{key}"):
        try:
            stored = store.read(key)
        except ObjectNotFound:
            with hold_lease(store, f"{key}.lease"):  # a race beside another would measure both
                if not store.exists(key):
                    with contextlib.suppress(ObjectExists):
                        store.create(key, document_bytes(_race(candidates)))
            continue
        choice = parse_document(store, key, stored.data, EngineChoice)
        if choice.engine == "torch":
            return Chosen(candidates.torch, choice.reason)
        try:
            engine = candidates.onnx
        except (ResourceError, ServingError) as error:
            logger.warning(f"torch answers in all replicas from now on: {error}")
            choice = _choice("torch", f"onnx does not pass on {here}: {error}")
        else:
            if here in choice.passed:
                return Chosen(engine, choice.reason)
            choice = choice.model_copy(update={"passed": (*choice.passed, here)})
        with contextlib.suppress(ObjectChanged):
            store.replace(key, document_bytes(choice), stored.etag)
    raise AssertionError("swaps ends by raising")


def _race(candidates: Rivals) -> EngineChoice:
    """Let the engines that prove right compute in turn, and choose the fastest.

    Raises:
        ResourceError: there is none but torch here.
    """
    torch_engine = candidates.torch
    try:
        engines = (torch_engine, candidates.onnx)
    except ServingError as error:
        return _choice("torch", f"onnx does not pass on {processor()}: {error}")
    crop = candidates.crop
    turns = [{one.name: images_per_second(one, crop) for one in engines} for _ in range(ROUNDS)]
    speeds: dict[EngineName, float] = {
        one.name: round(max(turn[one.name] for turn in turns), 1) for one in engines
    }
    ratio = speeds["onnx"] / speeds["torch"]
    if ratio < AHEAD:
        reason = f"onnx is {ratio:.2f} times as fast as torch, which is not enough"
        return _choice("torch", reason, speeds)
    return _choice("onnx", f"it is {ratio:.2f} times as fast as torch", speeds)


def images_per_second(engine: Engine, crop: int, seconds: float = TURN_S) -> float:
    """Measure how many images an engine computes in a second, in batches of `BATCHES` in turn."""
    batches = [np.zeros((count, crop, crop, 3), np.uint8) for count in BATCHES]
    for batch in batches:
        engine.logits(batch)
    start, images = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not images:
        for batch in batches:
            engine.logits(batch)
            images += len(batch)
    return images / spent


def processor() -> str:
    """Return the name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _choice(
    engine: EngineName, reason: str, speeds: Mapping[EngineName, float] | None = None
) -> EngineChoice:
    return EngineChoice(
        engine=engine,
        reason=reason,
        images_per_second=dict(speeds or {}),
        passed=(processor(),),
        releases=_releases(),
        chosen=datetime.now(UTC).isoformat(),
    )


def _releases() -> dict[str, str]:
    releases = {}
    for name in ("torch", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            releases[name] = release_of(name)
    return releases
