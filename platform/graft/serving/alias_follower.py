"""The predictor that answers at the moment: a fixed version's, or that of a followed alias."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graft.decisions.records import Decision, decision_in_force
from graft.errors import GraftError, ServingLost, StoreError
from graft.registry import ModelVersion, aliases, get_model
from graft.serving.predictor import Predictor
from graft.store import Store

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


class Loads(Protocol):
    """Loads versions of models from a store."""

    @property
    def store(self) -> Store:
        """The store that has them."""

    def load(self, version: ModelVersion) -> Predictor:
        """Return a version that answers as soon as it is asked; GraftError: it cannot."""

    def cost(self, version: ModelVersion) -> str:
        """Say what a version takes of memory beside all that is there."""

    def is_outdated(self, predictor: Predictor) -> bool:
        """Whether a predictor is to be loaded again, since another engine is to compute it."""


class Current:
    """What answers for a model.

    A request reads `predictor` once: one version computes its whole answer.
    """

    refused: str | None = None
    """The version that the alias points at, where it cannot answer, and why."""

    def __init__(self, predictor: Predictor | None, name: str = ""):
        """`name` is the model's, where there is no predictor yet."""
        self.name = predictor.version.name if predictor else name
        self._predictor = predictor

    @property
    def answers(self) -> bool:
        """Whether there is a predictor."""
        return self._predictor is not None

    @property
    def predictor(self) -> Predictor:
        """What answers now.

        Raises:
            ServingLost: nothing does yet.
        """
        if self._predictor is None:
            raise ServingLost(f"'{self.name}' cannot answer yet; /healthz says why")
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: Predictor) -> None:
        self._predictor = predictor


class Follower(Current):
    """Answers with the version that an alias points at, wherever the alias moves.

    A version that cannot be loaded, or whose golden images do not match, is refused: the
    previous one goes on answering. That one is freed when its last request has ended. Where its
    engine does not pass in another replica, it is loaded again, with the one that then answers
    in all of them.
    """

    def __init__(self, loader: Loads, ref: str, lacking: str | None = None):
        """Load the version that `ref` names: NAME@ALIAS, or NAME@VERSION, which never moves.

        With `lacking`, what it cannot answer for yet, nothing is loaded before it looks.

        Raises:
            NotFoundError: there is no such model or alias yet.
            ServingError: its golden images do not match.
        """
        name, _, self._alias = ref.partition("@")
        predictor = None if lacking else loader.load(get_model(loader.store, ref))
        super().__init__(predictor, name)
        self.refused = lacking
        self._loader = loader
        # The version number to which the alias last moved, and which was then taken or refused.
        self._handled = predictor.version.version if predictor else None
        self._announced = self._handled
        self._last_logged = ""

    @classmethod
    def wait_for(cls, loader: Loads, ref: str, polling: Polling) -> "Follower":
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

    @classmethod
    def wait_for_some(
        cls, loader: Loads, refs: Sequence[str], polling: Polling
    ) -> list["Follower"]:
        """Return a follower for each ref, as soon as one of them can answer.

        Without patience each has to, and a single one anyway.

        Raises:
            GraftError: none can answer within `polling.patience_s`, and why.
        """
        if len(refs) == 1 or not polling.patience_s:
            return [cls.wait_for(loader, ref, polling) for ref in refs]
        deadline = time.monotonic() + polling.patience_s
        logged = set[str]()
        while True:
            followers, errors = list["Follower"](), list[GraftError]()
            for ref in refs:
                try:
                    followers.append(cls(loader, ref))
                except GraftError as error:
                    followers.append(cls(loader, ref, lacking=f"{ref}: {error}"))
                    errors.append(error)
            for reason in {one.refused for one in followers if one.refused} - logged:
                logger.warning(f"cannot answer yet: {reason}")
                logged.add(reason)
            if len(errors) < len(refs):
                return followers
            if time.monotonic() + polling.every_s > deadline:
                raise errors[0]
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
            self._log_if_new(f"cannot read where {self.name}@{self._alias} points: {_text(error)}")
            return False
        if number is None:  # there is no such alias yet
            return True
        self._change_engine()
        self._change_decision()
        answering = self._predictor.version.version if self._predictor else None
        if number == self._handled:
            if number == answering:
                self.refused = None  # the alias is back where it was
            return True
        ref = f"{self.name}@{number}"
        try:
            if number != answering:
                version = get_model(self._loader.store, ref)
                self._announce(version)
                self.predictor = self._loader.load(version)
        except Exception as error:
            self.refused = f"{ref}: {_text(error).removeprefix(ref).lstrip(': ')}"
            before = f"{self._predictor.version.ref} goes on" if self._predictor else "no version"
            self._log_if_new(f"{before}, refused is {self.refused}")
            if isinstance(error, StoreError):
                return False
        else:
            self.refused = None
            self._log_if_new(f"{ref} answers from now on")
        self._handled = number
        return True

    def _announce(self, version: ModelVersion) -> None:
        """Say what a version takes of memory, before it is loaded beside the one that answers."""
        if version.version != self._announced:
            beside = f" beside {self._predictor.version.ref}" if self._predictor else ""
            logger.warning(f"{version.ref} is warmed{beside}: {self._loader.cost(version)}")
        self._announced = version.version

    def _number(self) -> int | None:
        """Return the number of the version that is to answer; one that is named itself stays."""
        if self._alias.isdecimal():
            return int(self._alias)
        return aliases(self._loader.store, self.name).get(self._alias, self._handled)

    def _change_engine(self) -> None:
        """Load the version again where another replica has found that its engine does not pass."""
        if self._predictor is None:
            return
        try:
            if self._loader.is_outdated(self._predictor):
                self.predictor = self._loader.load(self._predictor.version)
        except Exception as error:  # whatever it is, requests go on
            ref, engine = self._predictor.version.ref, self._predictor.engine.name
            self._log_if_new(f"{ref} goes on by {engine}: {_text(error)}")

    def _change_decision(self) -> None:
        """Answer by the decision that is in force now, in memory as it is."""
        if self._predictor is None:
            return
        version, before = self._predictor.version, self._predictor.decision
        try:
            decision = decision_in_force(self._loader.store, version)
        except Exception as error:  # whatever it is, requests go on
            self._log_if_new(f"{version.ref} goes on by {_named(before)}: {_text(error)}")
            return
        if decision != before:
            self.predictor = self._predictor.meaning(decision)
            logger.warning(f"{version.ref} answers by {_named(decision)} from now on")

    def _log_if_new(self, message: str) -> None:
        """Log a message unless it repeats the last: a store away for a night is one line."""
        if message != self._last_logged:
            logger.warning(message)
            self._last_logged = message


def _named(decision: Decision | None) -> str:
    return f"decision {decision.number}" if decision else "no decision"


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, GraftError) else repr(error)
