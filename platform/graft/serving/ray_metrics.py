"""A replica's metrics in Ray's exporter, which Prometheus reads at every pod's port 8080.

Each is called ``ray_graft_serving_...`` there; a counter ends with ``_total``. Their labels are
bounded: no client can add one. Ray adds its own (`deployment`, `replica`, `application`).
"""

from collections import Counter as Counts
from collections.abc import Sequence
from time import monotonic

from ray.serve.metrics import Counter, Gauge, Histogram

from graft.serving.alias_follower import Current
from graft.serving.exchange import Exchange
from graft.serving.stats import IMAGES, PREFIX, PROBABILITIES, SECONDS, seconds_of

SHOWN_CLASSES = 100
"""Most classes of a model that are counted apart: Prometheus keeps a series for each."""
NO_MODEL = "(none)"
"""The model of requests that name none of several served ones."""
OTHER_CLASS = "(other)"
"""What the classes after these are counted as."""

REFRESH_S = 1.0
"""How often gauges are set under load, in seconds: they took a tenth of what a request costs here,
and Ray passes them on every ten seconds."""


class RayMetrics:
    """Counts exchanges in Ray's metrics."""

    def __init__(self, currents: Sequence[Current]):
        """`currents` are what answers for the served models."""
        self._currents = {current.name: current for current in currents}
        self._classes: dict[str, tuple[str, ...]] = {}
        self._shown: dict[str, frozenset[str]] = {}
        self._in_progress_of = Counts[str]()
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
        self._unknown = Counter(f"{PREFIX}unknown", "Answers that are `unknown`.", ("model",))
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
        self.refresh()

    def refresh(self) -> None:
        """Say again what is so now: of a replica that nobody asks Ray would forget it."""
        self._refreshed = monotonic()
        for name, current in self._currents.items():
            self._in_progress.set(self._in_progress_of[name], {"model": name})
            if current.answers:
                self._version.set(current.predictor.version.version, {"model": name})

    def begun(self, exchange: Exchange) -> None:
        """Count one that has begun."""
        self._in_progress_of[_label(exchange)] += 1

    def ended(self, exchange: Exchange) -> None:
        """Count one that has ended."""
        model = _label(exchange)
        self._in_progress_of[model] -= 1
        if monotonic() - self._refreshed > REFRESH_S:
            self.refresh()
        self._requests.inc(1, {"model": model, "status": str(exchange.status)})
        if exchange.reason:
            self._refused.inc(1, {"model": model, "reason": exchange.reason})
        predicted = exchange.predicted
        if predicted is None:
            return
        shown = predicted.class_ if predicted.class_ in self._shown_classes(model) else OTHER_CLASS
        self._predictions.inc(1, {"model": model, "class": shown})
        if predicted.is_unknown:
            self._unknown.inc(1, {"model": model})
        self._batch.observe(predicted.batch, {"model": model})
        self._probability.observe(predicted.probability, {"model": model})
        for part, seconds in seconds_of(predicted, exchange.total_s).items():
            self._seconds.observe(seconds, {"model": model, "part": part})

    def _shown_classes(self, model: str) -> frozenset[str]:
        classes = self._currents[model].predictor.version.classes
        if self._classes.get(model) is not classes:
            self._classes[model] = classes
            self._shown[model] = frozenset(classes[:SHOWN_CLASSES])
        return self._shown[model]


def _label(exchange: Exchange) -> str:
    return exchange.model or NO_MODEL
