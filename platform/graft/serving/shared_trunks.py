"""How a replica of several models loads their versions: what trunks begin with, once for all.

A frozen stage is named by the digest of all up to it, so that versions with the same digest have
the same stage: it is in memory once, as long as a version needs it. A version's tail is loaded as
it is asked for, and kept while the budget for tails has room. torch computes: other engines know
whole networks alone.
"""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.parts import load_stage_parts, load_tail, part_bytes
from graft.backbones.transfer_model import Steps
from graft.backbones.trunk import stage_bytes
from graft.data.loader import to_tensor
from graft.registry import ModelVersion
from graft.serving.engines.choice import ON_CPU, Place
from graft.serving.engines.engine import Engine, EngineName
from graft.serving.engines.golden import GoldenImages
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
WHY_TORCH = "models that share trunks are computed by torch"


class Pixels:
    """The first part of a route: prepared images to normalised tensors."""

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
        self._device = place.device
        # One version after another, and always in the same thread: OpenMP starts a set of workers
        # for each thread that computes.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warm")
        self._stages: WeakValueDictionary[str, Steps] = WeakValueDictionary()
        self._pixels: WeakValueDictionary[str, Pixels] = WeakValueDictionary()

    def load(self, version: ModelVersion) -> Predictor:
        """Return a version that answers as soon as it is asked.

        Raises:
            ServingError: it does not give the golden logits.
            StoreError: a payload is missing or damaged.
        """
        return self._thread.submit(self._load, version).result()

    def cost(self, version: ModelVersion) -> str:
        """Say what a version takes of memory beside all that is there; errors as `load`'s."""
        missing = [digest for digest in version.stages if digest not in self._stages]
        return (
            f"{size(stage_bytes(self.store, missing))} for {len(missing)} frozen stages "
            f"({version.freeze - len(missing)} more are shared), {size(version.tail.size)} for its "
            f"tail (all tails: at most {size(self.tails.budget)})"
        )

    def is_outdated(self, predictor: Predictor) -> bool:
        """Whether another engine is to compute it: there is none."""
        return False

    @property
    def bytes(self) -> int:
        """What all stages and tails take of memory."""
        return sum(map(part_bytes, self._stages.values())) + self.tails.bytes

    def _load(self, version: ModelVersion) -> Predictor:
        golden = GoldenImages.read(self.store, version)
        known = version.trunk_digest in self._stages
        tail = partial(load_tail, self.store, version, self._device)
        engine = TailEngine(self._trunk(version), self.tails, tail)
        golden.prove(version, engine.logits)
        predictor = Predictor(version, engine, WHY_TORCH)
        if not known:
            warm(predictor)
        return predictor

    def _trunk(self, version: ModelVersion) -> Route:
        digests = version.stages
        stages = {digest: stage for digest in digests if (stage := self._stages.get(digest))}
        missing = [index for index, digest in enumerate(digests) if digest not in stages]
        if missing:
            loaded = load_stage_parts(self.store, version, missing, self._device)
            stages |= {digests[index]: part for index, part in zip(missing, loaded, strict=True)}
            self._stages.update(stages)
        # Stages have the same digest only where they see the same pixels, too.
        first = digests[0] if digests else version.ref
        pixels = self._pixels.get(first) or Pixels(version.contract, self._device)
        self._pixels[first] = pixels
        return (pixels, *(stages[digest] for digest in digests))


class TailEngine(Engine):
    """torch, on a trunk in memory and a tail that is there while the shelf has room."""

    name: EngineName = "torch"

    def __init__(self, trunk: Route, tails: Shelf[Steps], load: Callable[[], Steps]):
        """`trunk` is the way to the activations that the tail begins with; `load` loads that."""
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
