"""The predictor that answers now: one version for good, or whichever an alias points at."""

import logging
import threading
import time

from graft.errors import GraftError, StoreError
from graft.registry import aliases, get_model
from graft.serving.predictor import Predictor
from graft.store import Store

POLL_S = 5.0
"""How often a follower looks where its alias points, in seconds."""
LONGEST_PAUSE_S = 30.0
"""How long it waits at most between two looks where the store fails it."""

logger = logging.getLogger(__name__)


class Current:
    """What answers. A request reads `predictor` once: one version computes its whole answer."""

    refused: str | None = None
    """The version that should answer and cannot, and why."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor


class Follower(Current):
    """Answers with the version that an alias points at, wherever it moves.

    A version that cannot be loaded, or whose golden images do not match, is not taken:
    the one before goes on. The one before is freed when its last request has ended.
    """

    def __init__(self, store: Store, ref: str):
        """Load what `ref`, NAME@ALIAS, points at.

        Raises:
            NotFoundError: there is no such model or alias yet.
            ServingError: its golden images do not match.
        """
        super().__init__(Predictor.load(store, get_model(store, ref)))
        self._store = store
        self._name, _, self._alias = ref.partition("@")
        self._seen = self.predictor.version.version
        self._said = ""

    @classmethod
    def wait_for(cls, store: Store, ref: str, poll_s: float, patience_s: float) -> "Follower":
        """Return one as soon as `ref` can answer; what prevents it after `patience_s` is raised."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return cls(store, ref)
            except GraftError as error:
                if time.monotonic() + poll_s > deadline:
                    raise
                logger.warning(f"{ref} cannot answer yet: {error}")
                time.sleep(poll_s)

    def follow(self, poll_s: float, stop: threading.Event) -> None:
        """Look every `poll_s` seconds until `stop`, and less often while the store fails."""
        pause = poll_s
        while not stop.wait(pause):
            pause = poll_s if self.look() else max(poll_s, min(2 * pause, LONGEST_PAUSE_S))

    def look(self) -> bool:
        """Look where the alias points, and take what it moved to if that proves right.

        Returns whether the store did its part; where it did not, the next look tries again.
        What failed by itself would fail again, and is not tried until the alias moves.
        """
        try:
            number = aliases(self._store, self._name).get(self._alias, self._seen)
        except Exception as error:  # whatever it is, requests go on
            self._say(f"cannot read where {self._name}@{self._alias} points: {_reason(error)}")
            return False
        if number == self._seen:
            if number == self.predictor.version.version:
                self.refused = None  # the alias is back where it was
            return True
        ref = f"{self._name}@{number}"
        try:
            if number != self.predictor.version.version:
                self.predictor = Predictor.load(self._store, get_model(self._store, ref))
        except Exception as error:
            self.refused = f"{ref}: {_reason(error).removeprefix(ref).lstrip(': ')}"
            self._say(f"{self.predictor.version.ref} goes on, refused is {self.refused}")
            if isinstance(error, StoreError):
                return False
        else:
            self.refused = None
            self._say(f"{ref} answers from now on")
        self._seen = number
        return True

    def _say(self, message: str) -> None:
        """Log what is new; a store that is away for a night is one line."""
        if message != self._said:
            logger.warning(message)
            self._said = message


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, GraftError) else repr(error)
