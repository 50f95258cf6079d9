"""A replica's metrics in Ray's exporter, which Prometheus reads at every pod's port 8080.

Each is called ``ray_graft_serving_...`` there; a counter ends with ``_total``. Their labels are
bounded: no client can add one. Ray adds its own (`deployment`, `replica`, `application`).
"""

from ray.serve.metrics import Counter, Gauge, Histogram

from graft.registry import ModelVersion
from graft.serving.alias_follower import Current
from graft.serving.exchange import Exchange
from graft.serving.stats import IMAGES, PREFIX, PROBABILITIES, SECONDS, seconds_of

SHOWN_CLASSES = 100
"""Most classes of a model that are counted apart: Prometheus keeps a series for each."""
OTHER_CLASS = "(other)"
"""What the classes after these are counted as."""


class RayMetrics:
    """Counts exchanges in Ray's metrics."""

    def __init__(self, current: Current):
        self._current = current
        self._of: ModelVersion | None = None
        self._shown: frozenset[str] = frozenset()
        self._requests = Counter(
            f"{PREFIX}requests", "Requests, by the status of their answer.", ("model", "status")
        )
        self._refused = Counter(
            f"{PREFIX}refused",
            "Requests that were not answered, by the reason.",
            ("model", "reason"),
        )
        self._predictions = Counter(
            f"{PREFIX}predictions", "Answers, by the likeliest class.", ("model", "class")
        )
        self._seconds = Histogram(
            f"{PREFIX}seconds",
            "How long answers took, by part: decode, wait, forward, total.",
            list(SECONDS),
            ("model", "part"),
        )
        self._batch = Histogram(
            f"{PREFIX}batch", "Images in the forward of an answer.", list(IMAGES), ("model",)
        )
        self._probability = Histogram(
            f"{PREFIX}probability",
            "Probability of the likeliest class.",
            list(PROBABILITIES),
            ("model",),
        )
        self._in_progress = Gauge(f"{PREFIX}in_progress", "Requests in progress.", ("model",))
        self._version = Gauge(f"{PREFIX}version", "The version that answers.", ("model",))
        every: list[Counter | Gauge | Histogram] = [
            *(self._requests, self._refused, self._predictions, self._seconds),
            *(self._batch, self._probability, self._in_progress, self._version),
        ]
        for metric in every:
            # A dict for each: Ray Serve adds its own tags to what it is given.
            metric.set_default_tags({"model": current.predictor.version.name})
        self._last_in_progress = 0
        self.refresh()

    def refresh(self) -> None:
        """Say again what is so now: of a replica that nobody asks Ray would forget it."""
        self._in_progress.set(self._last_in_progress)
        self._version.set(self._current.predictor.version.version)

    def begun(self, in_progress: int) -> None:
        """Count one that has begun."""
        self._last_in_progress = in_progress
        self._in_progress.set(in_progress)

    def ended(self, exchange: Exchange, in_progress: int) -> None:
        """Count one that has ended."""
        self._last_in_progress = in_progress
        self.refresh()
        self._requests.inc(1, {"status": str(exchange.status)})
        if exchange.reason:
            self._refused.inc(1, {"reason": exchange.reason})
        predicted = exchange.predicted
        if predicted is None:
            return
        shown = predicted.class_ if predicted.class_ in self._shown_classes() else OTHER_CLASS
        self._predictions.inc(1, {"class": shown})
        self._batch.observe(predicted.batch)
        self._probability.observe(predicted.probability)
        for part, seconds in seconds_of(predicted, exchange.total_s).items():
            self._seconds.observe(seconds, {"part": part})

    def _shown_classes(self) -> frozenset[str]:
        version = self._current.predictor.version
        if version is not self._of:
            self._of, self._shown = version, frozenset(version.classes[:SHOWN_CLASSES])
        return self._shown
