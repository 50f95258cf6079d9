"""How a replica of several models loads their versions: what trunks begin with, once for all.

A frozen stage is named by the digest of all up to it, so that versions with the same digest have
the same stage: in torch it is in memory once, as long as a version needs it. Where another engine
computes trunks, a whole trunk is in memory once. A version's tail, which is always torch's, is
loaded as it is asked for, and kept while the budget for tails has room.
"""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.parts import load_stage_parts, load_tail, part_bytes
from graft.backbones.transfer_model import Steps
from graft.backbones.trunk import stage_bytes
from graft.data.loader import to_tensor
from graft.decisions.records import decision_in_force
from graft.registry import ModelVersion
from graft.serving.engines.choice import (
    ON_CPU,
    Chosen,
    Place,
    check_onnx,
    choose_among,
    recorded_engine,
)
from graft.serving.engines.engine import Engine, EngineName, OnnxEngine
from graft.serving.engines.golden import GoldenImages
from graft.serving.engines.kept_graph import onnx_graph
from graft.serving.loader import warm
from graft.serving.predictor import Predictor
from graft.serving.routes import Asked, Route, logits
from graft.serving.shelf import Shelf
from graft.spec import Contract
from graft.store import Store
from graft.units import size

GIGABYTE = 10**9
TAILS_GB = 1.0
"""What tails may take of a replica's memory by default, in gigabytes."""


class Pixels:
    """The first part of torch's routes: prepared images to normalised tensors."""

    def __init__(self, contract: Contract, device: torch.device | None):
        self._contract = contract
        self._device = device

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(B, crop, crop, 3) uint8 to (B, 3, crop, crop) float32."""
        return to_tensor(images, self._contract, self._device)


class SharedTrunks:
    """Loads versions of several models from a store, at one place."""

    def __init__(self, store: Store, place: Place = ON_CPU, tails_gb: float = TAILS_GB):
        """`tails_gb`: what tails may take of memory, in gigabytes."""
        self.store = store
        self.tails = Shelf[Steps](int(tails_gb * GIGABYTE), part_bytes)
        self._place = place
        # One version after another, and always in the same thread: OpenMP starts a set of workers
        # for each thread that computes.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warm")
        self._stages: WeakValueDictionary[str, Steps] = WeakValueDictionary()
        self._pixels: WeakValueDictionary[str, Pixels] = WeakValueDictionary()
        self._graphs: WeakValueDictionary[str, OnnxEngine] = WeakValueDictionary()

    def load(self, version: ModelVersion) -> Predictor:
        """Return a version that answers as soon as it is asked.

        Raises:
            GraftError: it cannot answer here; as `choose_among`.
        """
        return self._thread.submit(self._load, version).result()

    def cost(self, version: ModelVersion) -> str:
        """Say what a version takes of memory beside all that is there; errors as `load`'s."""
        digests = [] if version.trunk_digest in self._graphs else version.stages
        missing = [digest for digest in digests if digest not in self._stages]
        return (
            f"{size(stage_bytes(self.store, missing))} for {len(missing)} frozen stages "
            f"({version.freeze - len(missing)} more are shared), {size(version.tail.size)} for its "
            f"tail (all tails: at most {size(self.tails.budget)})"
        )

    def is_outdated(self, predictor: Predictor) -> bool:
        """Whether another replica has found that a trunk's engine does not pass everywhere.

        Raises:
            StoreError: the store cannot be read.
        """
        if self._place.engine != "auto" or predictor.engine.name == "torch":
            return False
        folder = engines_folder(predictor.version)
        return recorded_engine(self.store, folder, self._place) == "torch"

    @property
    def bytes(self) -> int:
        """What torch's stages, and all tails, take of memory."""
        return sum(map(part_bytes, self._stages.values())) + self.tails.bytes

    def torch_trunk(self, version: ModelVersion) -> Route:
        """Return the way through a version's frozen stages, those that are not there loaded."""
        digests, device = version.stages, self._place.device
        stages = {digest: stage for digest in digests if (stage := self._stages.get(digest))}
        missing = [index for index, digest in enumerate(digests) if digest not in stages]
        if missing:
            loaded = load_stage_parts(self.store, version, missing, device)
            stages |= {digests[index]: part for index, part in zip(missing, loaded, strict=True)}
            self._stages.update(stages)
        # Stages have the same digest only where they see the same pixels, too.
        first = digests[0] if digests else version.ref
        pixels = self._pixels.get(first) or Pixels(version.contract, device)
        self._pixels[first] = pixels
        return (pixels, *(stages[digest] for digest in digests))

    def onnx_trunk(self, version: ModelVersion) -> Route:
        """Return the way through a version's trunk as one graph; errors as `onnx_graph`'s."""
        check_onnx(self._place)
        digest = version.trunk_digest
        graph = self._graphs.get(digest)
        if graph is None:
            graph = OnnxEngine(onnx_graph(self.store, version, True), self._place.threads)
            self._graphs[digest] = graph
        return (graph.logits, torch.from_numpy)

    def engine(self, name: EngineName, trunk: Route, version: ModelVersion) -> "TailEngine":
        """Return what computes a version, on a trunk that computes its tail's input."""
        tail = partial(load_tail, self.store, version, self._place.device)
        return TailEngine(name, trunk, self.tails, tail)

    def _load(self, version: ModelVersion) -> Predictor:
        known = version.trunk_digest in self._stages or version.trunk_digest in self._graphs
        rivals = _Trunks(self, version)
        if version.stages:
            chosen = choose_among(self.store, rivals, self._place)
        else:
            chosen = Chosen(rivals.torch, "it shares no frozen stage")
        decision = decision_in_force(self.store, version)
        predictor = Predictor(version, chosen.engine, chosen.reason, decision)
        if not known:
            warm(predictor)
        return predictor


class _Trunks:
    """The engines that may compute a version's trunk; see `Rivals`."""

    def __init__(self, trunks: SharedTrunks, version: ModelVersion):
        self._trunks, self._version = trunks, version
        self._golden = GoldenImages.read(trunks.store, version)
        self.crop = version.contract.crop
        self.folder = engines_folder(version)

    @cached_property
    def torch(self) -> Engine:
        return self._proved("torch", self._trunks.torch_trunk(self._version))

    @cached_property
    def onnx(self) -> Engine:
        return self._proved("onnx", self._trunks.onnx_trunk(self._version))

    def _proved(self, name: EngineName, trunk: Route) -> Engine:
        engine = self._trunks.engine(name, trunk, self._version)
        self._golden.prove(self._version, engine.logits)
        return engine


class TailEngine(Engine):
    """A trunk in memory, and a tail that is there while the shelf has room."""

    def __init__(
        self, name: EngineName, trunk: Route, tails: Shelf[Steps], load: Callable[[], Steps]
    ):
        """`trunk` is the way to the activations that the tail begins with; `load` loads that."""
        self.name = name
        self._trunk, self._tails, self._load = trunk, tails, load
        self._key = object()
        # When the last request of a version that was replaced has ended.
        weakref.finalize(self, tails.drop, self._key)

    @property
    def in_memory(self) -> Route:
        """See `Engine`."""
        return self._trunk

    def ready_route(self) -> Route | None:
        """See `Engine`."""
        tail = self._tails.find(self._key)
        return None if tail is None else (*self._trunk, tail)

    def route(self) -> Route:
        """See `Engine`."""
        return (*self._trunk, self._tails.take(self._key, self._load))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`."""
        route = self.route()
        return np.stack(logits([Asked(route, image) for image in images]))


def engines_folder(version: ModelVersion) -> str:
    """Return the store's folder of choices for a version's trunk."""
    return f"exports/{version.trunk_digest}/trunk/engines"
