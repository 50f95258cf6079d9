"""How a replica loads a version: with the engine that answers for it there, and warm."""

import logging
from dataclasses import dataclass

import numpy as np

from graft.backbones.trunk import stage_bytes
from graft.decisions.records import decision_in_force
from graft.registry import ModelVersion
from graft.serving.batching import MAX_BATCH
from graft.serving.engines.choice import (
    ON_CPU,
    Place,
    choose_engine,
    engines_folder,
    recorded_engine,
)
from graft.serving.predictor import Predictor
from graft.store import Store
from graft.units import size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loader:
    """Loads versions of models from a store, at one place."""

    store: Store
    place: Place = ON_CPU

    def load(self, version: ModelVersion) -> Predictor:
        """Return a version that answers as soon as it is asked.

        Raises:
            GraftError: it cannot answer here; as `choose_engine`.
        """
        chosen = choose_engine(self.store, version, self.place)
        if self.place.engine == "auto":
            logger.warning(f"{version.ref} is computed by {chosen.engine.name}: {chosen.reason}")
        decision = decision_in_force(self.store, version)
        predictor = Predictor(version, chosen.engine, chosen.reason, decision)
        warm(predictor)
        return predictor

    def cost(self, version: ModelVersion) -> str:
        """Say what a version takes of memory beside all that is there.

        Raises:
            StoreError: the store cannot be read.
        """
        return f"{size(stage_bytes(self.store, version.stages) + version.tail.size)} of weights"

    def is_outdated(self, predictor: Predictor) -> bool:
        """Whether another replica has found that a predictor's engine does not pass everywhere.

        Raises:
            StoreError: the store cannot be read.
        """
        if self.place.engine != "auto" or predictor.engine.name == "torch":
            return False
        folder = engines_folder(predictor.version)
        return recorded_engine(self.store, folder, self.place) == "torch"


def warm(predictor: Predictor) -> None:
    """Compute each size of batch once: an engine prepares for each shape that it meets."""
    side = predictor.version.contract.crop
    for count in range(1, MAX_BATCH + 1):
        predictor.predict([np.zeros((side, side, 3), np.uint8)] * count)
