"""What a replica has done since it began: counts and times, as a document."""

import bisect
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from graft.registry import ModelVersion
from graft.serving.exchange import Exchange, Predicted

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Boundaries of histograms of times, in seconds."""
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Boundaries of histograms of the likeliest class's probability."""
IMAGES = (1, 2, 4, 8, 16, 32, 64)
"""Boundaries of histograms of images in a forward."""
PREFIX = "graft_serving_"
"""How metrics in Ray's exporter begin, after its own `ray_`."""
METRICS = (
    "ray_graft_serving_requests_total",
    "ray_graft_serving_refused_total",
    "ray_graft_serving_predictions_total",
    *(
        f"ray_graft_serving_{name}_{part}"
        for name in ("seconds", "batch", "probability")
        for part in ("bucket", "count", "sum")
    ),
    "ray_graft_serving_in_progress",
    "ray_graft_serving_version",
)
"""Their names in Prometheus, which the chart's dashboard and alert rules use."""


class Distribution(BaseModel):
    """Figures of which there are too many to keep."""

    count: int
    mean: float
    at_most: dict[str, int] = Field(
        description="How many were at most this; `+Inf` has all, as Prometheus counts."
    )


class Seconds(BaseModel):
    """How long the parts of answers took, in seconds."""

    decode: Distribution = Field(description="From the body to the pixels that the model sees.")
    wait: Distribution = Field(description="From there to the beginning of the forward.")
    forward: Distribution
    total: Distribution


class Stats(BaseModel):
    """What one replica has done for a model since it began, probes left out."""

    model: str = Field(description="NAME@VERSION that answers now.")
    since: str = Field(description="When the replica began.")
    in_progress: int
    requests: int
    status: dict[str, int] = Field(description="Requests by the status of their answers.")
    refused: dict[str, int] = Field(description="Those that were not answered, by the reason.")
    versions: dict[str, int] = Field(description="Answers by NAME@VERSION.")
    classes: dict[str, int] = Field(description="Answers by their likeliest class.")
    decisions: dict[str, int] = Field(description="Answers by what was decided.")
    probability: Distribution = Field(description="Of the likeliest class.")
    batch: Distribution = Field(description="Images in the forward of an answer.")
    seconds: Seconds


class _Histogram:
    def __init__(self, boundaries: tuple[float, ...]):
        self._boundaries = boundaries
        self._counts = [0] * (len(boundaries) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._boundaries, value)] += 1
        self._sum += value

    def distribution(self) -> Distribution:
        at_most, count = {}, 0
        for boundary, number in zip((*self._boundaries, "+Inf"), self._counts, strict=True):
            count += number
            at_most[str(boundary)] = count
        return Distribution(count=count, mean=self._sum / count if count else 0, at_most=at_most)


class Counts:
    """Counts exchanges. Bounded by the classes and versions that there are, whoever asks what."""

    def __init__(self) -> None:
        self._since = datetime.now(UTC)
        self._in_progress = 0
        self._status = Counter[str]()
        self._refused = Counter[str]()
        self._versions = Counter[str]()
        self._classes = Counter[str]()
        self._decisions = Counter[str]()
        self._probability = _Histogram(PROBABILITIES)
        self._batch = _Histogram(IMAGES)
        self._seconds = {
            part: _Histogram(SECONDS) for part in ("decode", "wait", "forward", "total")
        }

    def begun(self) -> None:
        """Count one that has begun."""
        self._in_progress += 1

    def ended(self, exchange: Exchange) -> None:
        """Count one that has ended."""
        self._in_progress -= 1
        self._status[str(exchange.status)] += 1
        if exchange.reason:
            self._refused[exchange.reason] += 1
        predicted = exchange.predicted
        if predicted is None:
            return
        self._versions[predicted.model] += 1
        self._classes[predicted.class_] += 1
        self._decisions[predicted.decision] += 1
        self._probability.add(predicted.probability)
        self._batch.add(predicted.batch)
        for part, seconds in seconds_of(predicted, exchange.total_s).items():
            self._seconds[part].add(seconds)

    def stats(self, model: str) -> Stats:
        """Return the document; `model`: NAME@VERSION that answers now."""
        return Stats(
            model=model,
            since=self._since.isoformat(timespec="seconds"),
            in_progress=self._in_progress,
            requests=self._status.total(),
            status=dict(sorted(self._status.items())),
            refused=dict(sorted(self._refused.items())),
            versions=dict(self._versions),
            classes=dict(self._classes.most_common()),
            decisions=dict(self._decisions.most_common()),
            probability=self._probability.distribution(),
            batch=self._batch.distribution(),
            seconds=Seconds(
                **{part: times.distribution() for part, times in self._seconds.items()}
            ),
        )


class CountsByModel:
    """Counts the exchanges about each of the served models; those about none are not counted."""

    def __init__(self, models: Iterable[str]):
        self._of = {model: Counts() for model in models}

    def begun(self, exchange: Exchange) -> None:
        """Count one that has begun."""
        if exchange.model:
            self._of[exchange.model].begun()

    def ended(self, exchange: Exchange) -> None:
        """Count one that has ended."""
        if exchange.model:
            self._of[exchange.model].ended(exchange)

    def stats(self, version: ModelVersion) -> Stats:
        """Return the document about the model of a version, which answers now."""
        return self._of[version.name].stats(version.ref)


def seconds_of(predicted: Predicted, total_s: float) -> dict[str, float]:
    """Return how long the parts of an answer took."""
    return {
        "decode": predicted.decode_s,
        "wait": predicted.wait_s,
        "forward": predicted.forward_s,
        "total": total_s,
    }
