"""A model version that answers: from an image file's bytes to classes, and what they mean.

Nothing here knows HTTP or Ray. An engine is proved before it answers: from the golden images'
bytes it must give the logits that training recorded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from graft.decisions.calibration import NONE
from graft.decisions.records import Decision, decision_in_force
from graft.decisions.rules import Answers, Likeliest, answer
from graft.registry import ModelVersion
from graft.serving.engines.choice import Candidates, Place
from graft.serving.engines.engine import Engine
from graft.serving.engines.golden import prepare
from graft.store import Store


class Predictor:
    """One model version in memory.

    `prepare` may run in many threads at once, `predict` and `logits` in one at a time.
    """

    def __init__(
        self,
        version: ModelVersion,
        engine: Engine,
        reason: str = "it was asked for",
        decision: Decision | None = None,
    ):
        """Answer by an engine that has been proved.

        Args:
            version: the version.
            engine: computes its logits.
            reason: why it is this one.
            decision: what they mean; None: the likeliest class is the answer.
        """
        self.version = version
        self.engine = engine
        self.reason = reason
        self.decision = decision

    @classmethod
    def load(
        cls,
        store: Store,
        version: ModelVersion,
        device: torch.device | None = None,
        decides: bool = True,
    ) -> "Predictor":
        """Load a version in torch, by default onto the CPU, and check its golden images.

        `decides`: answer by the decision in force; else it is not read, for logits need none.

        Raises:
            ServingError: a golden image's logits differ by more than its tolerance.
            StoreError: a payload, or the decision in force, is missing or damaged.
        """
        engine = Candidates(store, version, Place(device=device)).torch
        decision = decision_in_force(store, version) if decides else None
        return cls(version, engine, decision=decision)

    def meaning(self, decision: Decision | None) -> "Predictor":
        """Return this predictor with another decision."""
        return Predictor(self.version, self.engine, self.reason, decision)

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image file and return its evaluation view: (crop, crop, 3) uint8.

        Raises:
            ImageError: not an image that can be used.
        """
        return prepare(data, self.version.contract)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> Answers:
        """Return the answers for B prepared images."""
        return self.answer(self.logits(images))

    def answer(self, logits: NDArray[np.float32]) -> Answers:
        """Return what logits (B, classes) mean."""
        if self.decision is None:
            return answer(logits, self.version.classes, NONE, Likeliest())
        decision = self.decision
        return answer(logits, self.version.classes, decision.calibration, decision.rule)

    def logits(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the logits of B prepared images: (B, classes)."""
        return self.engine.logits(np.stack(images))
