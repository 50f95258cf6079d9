"""Which engine answers for a version in a deployment: raced once, and recorded in the store.

All replicas of a deployment take the recorded one, and so does a restart: so they answer alike.
ONNX Runtime's graph of a version is kept beside the record, for replicas to come.
"""

import contextlib
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as release_of
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field

from graft.backbones.trunk import load_model
from graft.errors import (
    GraftError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    ServingError,
    StoreDenied,
    StoreError,
)
from graft.registry import ModelVersion
from graft.serving.engines.description import Network
from graft.serving.engines.engine import Engine, EngineName, OnnxEngine, TorchEngine
from graft.serving.engines.forms import FORMS
from graft.serving.engines.golden import GoldenImages
from graft.spec import Name, Section
from graft.store import ObjectRef, Store, document_bytes
from graft.store.documents import parse_document
from graft.store.retries import swaps

E = TypeVar("E", bound=Engine)

RACE_S = 1.0
"""Seconds that each engine computes for in a race, after a first batch that warms it."""
BATCHES = (1, 8)
"""Sizes of the batches that it computes in turn: an idle server's, and a busy one's."""
AHEAD = 1.1
"""How many times faster than torch another engine has to be, to be taken."""


class EngineChoice(Section):
    """Pointer ``engines/<deployment>.json`` of a version: the engine that answers there."""

    engine: EngineName
    reason: str
    """Why this one, in a line."""
    images_per_second: dict[EngineName, float]
    """What the race measured; empty where there was none."""
    graph: ObjectRef | None = None
    """ONNX graph, where ONNX Runtime answers."""
    threads: int = Field(gt=0)
    processor: str
    """Of the machine that decided."""
    releases: dict[str, str]
    """Releases of the engines that raced."""
    chosen: str
    """ISO 8601 in UTC."""


@dataclass(frozen=True)
class Place:
    """Where a version answers."""

    deployment: Name
    """Its replicas answer alike."""
    threads: int
    device: torch.device | None = None
    """None: the CPU."""


@dataclass(frozen=True)
class Chosen:
    """An engine that has proved right on this machine, and why it is this one."""

    engine: Engine
    choice: EngineChoice


def choose_engine(store: Store, version: ModelVersion, place: Place) -> Chosen:
    """Return the engine that answers for a version in a deployment; the first one to ask decides.

    Where the recorded engine does not give the golden logits on this machine, torch answers in all
    replicas from then on. A server that may not write to the store takes torch, so that its
    replicas answer alike, too.

    Raises:
        ServingError: torch itself does not give them.
        StoreError: a payload is missing or damaged.
    """
    golden = GoldenImages.read(store, version)
    key = choice_key(version, place.deployment)
    for _ in swaps(f"{store.uri}/{key}"):
        try:
            stored = store.read(key)
        except ObjectNotFound:
            try:
                chosen = _race(store, version, place, golden)
                store.create(key, document_bytes(chosen.choice))
            except ObjectExists:
                continue  # another replica was first
            except StoreDenied:
                why = "this server may not record another choice in the store"
                return _torch(store, version, place, golden, why)
            return chosen
        choice = parse_document(store, key, stored.data, EngineChoice)
        try:
            return Chosen(_prove(_recorded(store, version, place, choice), version, golden), choice)
        except ServingError as error:
            if choice.engine == "torch":
                raise
            chosen = _torch(store, version, place, golden, f"{choice.engine} here: {error}")
        with contextlib.suppress(ObjectChanged):
            store.replace(key, document_bytes(chosen.choice), stored.etag)
            return chosen
    raise AssertionError("swaps ends by raising")


def proved_torch(
    store: Store, version: ModelVersion, device: torch.device | None = None
) -> TorchEngine:
    """Return torch as the engine of a version, once it has given the golden logits.

    Raises:
        ServingError: it does not.
        StoreError: a payload is missing or damaged.
    """
    engine = TorchEngine(load_model(store, version), version.contract, device)
    return _prove(engine, version, GoldenImages.read(store, version))


def choice_key(version: ModelVersion, deployment: Name) -> str:
    """Return where the choice for a deployment lies."""
    return f"{version.folder}/engines/{deployment}.json"


def _race(store: Store, version: ModelVersion, place: Place, golden: GoldenImages) -> Chosen:
    """Let the engines that prove right compute in turn, and return the fastest."""
    if place.device is not None and place.device.type != "cpu":
        return _torch(store, version, place, golden, "torch alone computes on GPUs here")
    chosen = _torch(store, version, place, golden, "no other engine")
    try:
        with TemporaryDirectory(prefix="graft-graph-") as folder:
            path = Path(folder, "model.onnx")
            FORMS["onnx"].write(load_model(store, version), Network.of(version), path)
            rival = _prove(OnnxEngine(path, place.threads), version, golden)
            graph = store.put(f"{version.folder}/engines", "graph.onnx", path)
    except StoreError:
        raise
    except GraftError as error:  # not installed, not to be exported, or it answers otherwise
        return replace(chosen, choice=_choice(place, "torch", f"not onnxruntime: {error}"))
    crop = version.contract.crop
    speeds = {one.name: images_per_second(one, crop) for one in (chosen.engine, rival)}
    ratio = speeds["onnxruntime"] / speeds["torch"]
    if ratio < AHEAD:
        why = f"onnxruntime is {ratio:.2f} times as fast, which is not enough"
        return replace(chosen, choice=_choice(place, "torch", why, speeds))
    why = f"{ratio:.2f} times as fast as torch"
    return Chosen(rival, _choice(place, "onnxruntime", why, speeds, graph))


def images_per_second(engine: Engine, crop: int, seconds: float = RACE_S) -> float:
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


def _recorded(store: Store, version: ModelVersion, place: Place, choice: EngineChoice) -> Engine:
    """Return the engine that a choice names.

    Raises:
        ServingError: this process cannot run it.
    """
    if choice.graph is None:
        return TorchEngine(load_model(store, version), version.contract, place.device)
    graph = store.get_shared(f"{version.folder}/engines", choice.graph)
    try:
        return OnnxEngine(graph, place.threads)
    except ImportError as error:
        raise ServingError("it is not installed") from error


def _torch(
    store: Store, version: ModelVersion, place: Place, golden: GoldenImages, reason: str
) -> Chosen:
    engine = TorchEngine(load_model(store, version), version.contract, place.device)
    return Chosen(_prove(engine, version, golden), _choice(place, "torch", reason))


def _prove(engine: E, version: ModelVersion, golden: GoldenImages) -> E:
    """Return the engine, once it has given what training recorded.

    Raises:
        ServingError: it does not.
    """
    replay = golden.replay(version.contract, engine.logits)
    if not replay.holds:
        raise ServingError(
            f"{version.ref} does not give its recorded outputs and takes no traffic: {replay}; "
            "serve another version, or train this one again"
        )
    return engine


def _choice(
    place: Place,
    engine: EngineName,
    reason: str,
    speeds: Mapping[EngineName, float] | None = None,
    graph: ObjectRef | None = None,
) -> EngineChoice:
    return EngineChoice(
        engine=engine,
        reason=reason,
        images_per_second=dict(speeds or {}),
        graph=graph,
        threads=place.threads,
        processor=processor(),
        releases=_releases(),
        chosen=datetime.now(UTC).isoformat(),
    )


def _releases() -> dict[str, str]:
    releases = {}
    for name in ("torch", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            releases[name] = release_of(name)
    return releases
