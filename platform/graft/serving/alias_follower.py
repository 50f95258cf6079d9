"""The predictor that answers at the moment: a fixed version's, or that of a followed alias."""

import logging
import threading
import time
from dataclasses import dataclass

from graft.errors import GraftError, StoreError
from graft.registry import aliases, get_model
from graft.serving.loader import Loader
from graft.serving.predictor import Predictor

POLL_S = 5.0
"""How often a follower looks where its alias points, in seconds."""
LONGEST_PAUSE_S = 30.0
"""The longest pause between two looks while the store fails, in seconds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Polling:
    """How an alias is followed."""

    every_s: float = POLL_S
    """Seconds between two looks where it points."""
    patience_s: float = 0.0
    """Seconds that a follower may take to find a first version that can answer."""


class Current:
    """What answers. A request reads `predictor` once: one version computes its whole answer."""

    refused: str | None = None
    """The version that the alias points at, where it cannot answer, and why."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor


class Follower(Current):
    """Answers with the version that an alias points at, wherever the alias moves.

    A version that cannot be loaded, or whose golden images do not match, is refused: the
    previous one goes on answering. That one is freed when its last request has ended. Where its
    engine does not pass in another replica, it is loaded again, with the one that then answers
    in all of them.
    """

    def __init__(self, loader: Loader, ref: str):
        """Load the version that `ref` names: NAME@ALIAS, or NAME@VERSION, which never moves.

        Raises:
            NotFoundError: there is no such model or alias yet.
            ServingError: its golden images do not match.
        """
        super().__init__(loader.load(get_model(loader.store, ref)))
        self._loader = loader
        self._name, _, self._alias = ref.partition("@")
        # The version number to which the alias last moved, and which was then taken or refused.
        self._handled = self.predictor.version.version
        self._last_logged = ""

    @classmethod
    def wait_for(cls, loader: Loader, ref: str, polling: Polling) -> "Follower":
        """Return a follower as soon as `ref` can answer.

        Raises:
            GraftError: `ref` cannot answer within `polling.patience_s`, and why.
        """
        deadline = time.monotonic() + polling.patience_s
        last_logged = ""
        while True:
            try:
                return cls(loader, ref)
            except GraftError as error:
                if time.monotonic() + polling.every_s > deadline:
                    raise
                if str(error) != last_logged:  # it may wait for days
                    logger.warning(f"{ref} cannot answer yet: {error}")
                    last_logged = str(error)
                time.sleep(polling.every_s)

    def follow(self, every_s: float, stop: threading.Event) -> None:
        """Look every `every_s` seconds until `stop` is set, less often while the store fails."""
        pause = every_s
        while not stop.wait(pause):
            pause = every_s if self.look() else max(every_s, min(2 * pause, LONGEST_PAUSE_S))

    def look(self) -> bool:
        """Look where the alias points, and let that version answer if it proves right.

        Returns whether the store could be read; if not, the next look tries the same again. A
        version that fails for another reason would fail again: it is not tried until the alias
        moves.
        """
        try:
            number = self._number()
        except Exception as error:  # whatever it is, requests go on
            self._log_if_new(f"cannot read where {self._name}@{self._alias} points: {_text(error)}")
            return False
        self._change_engine()
        if number == self._handled:
            if number == self.predictor.version.version:
                self.refused = None  # the alias is back where it was
            return True
        ref = f"{self._name}@{number}"
        try:
            if number != self.predictor.version.version:
                self.predictor = self._loader.load(get_model(self._loader.store, ref))
        except Exception as error:
            self.refused = f"{ref}: {_text(error).removeprefix(ref).lstrip(': ')}"
            self._log_if_new(f"{self.predictor.version.ref} goes on, refused is {self.refused}")
            if isinstance(error, StoreError):
                return False
        else:
            self.refused = None
            self._log_if_new(f"{ref} answers from now on")
        self._handled = number
        return True

    def _number(self) -> int:
        """Return the number of the version that is to answer; one that is named itself stays."""
        if self._alias.isdecimal():
            return self._handled
        return aliases(self._loader.store, self._name).get(self._alias, self._handled)

    def _change_engine(self) -> None:
        """Load the version again where another replica has found that its engine does not pass."""
        try:
            if self._loader.is_outdated(self.predictor):
                self.predictor = self._loader.load(self.predictor.version)
        except Exception as error:  # whatever it is, requests go on
            ref, engine = self.predictor.version.ref, self.predictor.engine.name
            self._log_if_new(f"{ref} goes on by {engine}: {_text(error)}")

    def _log_if_new(self, message: str) -> None:
        """Log a message unless it repeats the last: a store away for a night is one line."""
        if message != self._last_logged:
            logger.warning(message)
            self._last_logged = message


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, GraftError) else repr(error)
