"""The pace of an attempt, and the watchdog that ends one that makes no progress."""

import os
import threading
import time
from collections.abc import Callable
from typing import Self

from graft.training.loop import StepDone

STALLED_EXIT_CODE = 17
LAST_WORDS_S = 0.5
"""Time for an event to leave a process that is about to end."""


class Pace:
    """Training images per second over all workers; time between epochs does not count."""

    def __init__(self) -> None:
        self._finished_images, self._finished_seconds = 0, 0.0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start an epoch's clock."""
        self._began = time.monotonic()
        self._images, self._seconds = 0, 0.0

    def step(self, done: StepDone) -> None:
        """Count a step."""
        self._images += done.images
        self._seconds = time.monotonic() - self._began
        if done.step == done.steps:
            self._finished_images += self._images
            self._finished_seconds += self._seconds

    @property
    def images_per_second(self) -> float:
        """Pace in the current epoch, up to its last step."""
        return self._images / self._seconds if self._seconds else 0.0

    @property
    def overall(self) -> float:
        """Pace over all epochs that the attempt has finished, in images per second."""
        return self._finished_images / self._finished_seconds if self._finished_seconds else 0.0


class Watchdog:
    """Ends this process when training makes no progress for `timeout_s`, while a block lasts.

    A worker stuck in a collective or a read cannot raise; Ray Train restarts a dead one. Before the
    end, `on_stall` is called with `timeout_s`.
    """

    def __init__(self, timeout_s: float, on_stall: Callable[[float], object]):
        self._timeout_s = timeout_s
        self._on_stall = on_stall
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self.alive()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def alive(self) -> None:
        """Note progress."""
        self._last = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._last > self._timeout_s:
                self._on_stall(self._timeout_s)
                time.sleep(LAST_WORDS_S)
                os._exit(STALLED_EXIT_CODE)
