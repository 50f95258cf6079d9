"""The spec of a sweep: variations of one fine-tuning job, and how the best is found."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from graft.spec.explain import fields_of, nearest
from graft.spec.finetune import Finetune, Register
from graft.spec.keys import sections_at
from graft.spec.scheduler import ASHA, PBT, Scheduler
from graft.spec.section import Name, Positive, PositiveFloat, Section, Seed
from graft.spec.train import Train

METRICS = {
    "val.accuracy": "max",
    "val.macro_f1": "max",
    "val.top5_accuracy": "max",
    "val.loss": "min",
    "val.ece": "min",
}
"""What trials can be compared by, and which way is better."""
NOT_SWEPT = {
    "kind": "is what a trial is",
    "name": "does not change what is trained",
    "register": "is no matter of trials; the sweep's own `register` says where the best one goes",
    "cache": "does not change what is trained",
    "loader": "does not change what is trained",
    "scaling": "says how a trial runs, the same for all",
}
MUTABLE = (
    "train.optimizer.lr",
    "train.optimizer.momentum",
    "train.optimizer.weight_decay",
    "train.rates.factor",
    "train.rates.backbone",
    "train.label_smoothing",
    "train.clip_norm",
    "train.mixup_alpha",
    "train.cutmix_alpha",
)
"""What population-based training can change while a trial runs."""


MOST_TRIALS = 10_000
TrialCount = Annotated[int, Field(gt=0, le=MOST_TRIALS)]


class Choice(Section):
    """One of some values."""

    choice: tuple[JsonValue, ...]
    """The values, in the order of a grid. For a section, mappings: they take the place of a
    section that has a `kind`, and change the keys they name in another
    (`backbone: {choice: [{arch: resnet18}, {arch: vgg16, weights: none}]}`)."""

    @field_validator("choice")
    @classmethod
    def _distinct(cls, values: tuple[JsonValue, ...]) -> tuple[JsonValue, ...]:
        if not values:
            raise ValueError("there is nothing to choose from")
        for number, value in enumerate(values):
            if any(value == other and type(value) is type(other) for other in values[:number]):
                raise ValueError(f"{value!r} is there twice")
        return values


class Uniform(Section):
    """A number between two, each as likely."""

    uniform: tuple[float, float]
    """Smallest and largest, in the key's own unit; drawn to 4 significant digits."""

    @field_validator("uniform")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        return _ascending(bounds)


class LogUniform(Section):
    """A number between two, whose logarithm is uniform: for learning rates and their like."""

    log_uniform: tuple[float, float]
    """Smallest and largest, both above 0; drawn to 4 significant digits."""

    @field_validator("log_uniform")
    @classmethod
    def _positive(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if min(bounds) <= 0:
            raise ValueError(f"{_listed(bounds)}: both bounds must be above 0")
        return _ascending(bounds)


class IntUniform(Section):
    """A whole number between two, each as likely."""

    int_uniform: tuple[int, int]
    """Smallest and largest, both inclusive."""

    @field_validator("int_uniform")
    @classmethod
    def _ordered(cls, bounds: tuple[int, int]) -> tuple[int, int]:
        return _ascending(bounds)


RANGES: dict[str, type[Section]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_uniform": IntUniform,
}


def _range_of(value: Any) -> str | None:
    """Return the name of the class that a range is of: a range is told by its only key."""
    if isinstance(value, Section):
        return type(value).__name__
    known = [name for name in RANGES if name in value] if isinstance(value, Mapping) else []
    return RANGES[known[0]].__name__ if known else None


Range = Annotated[
    Annotated[Choice, Tag("Choice")]
    | Annotated[Uniform, Tag("Uniform")]
    | Annotated[LogUniform, Tag("LogUniform")]
    | Annotated[IntUniform, Tag("IntUniform")],
    Discriminator(
        _range_of,
        custom_error_type="range",
        custom_error_message="expected {choice: [...]}, {uniform: [low, high]}, "
        "{log_uniform: [low, high]} or {int_uniform: [low, high]}",
    ),
]


class _Compared(Section):
    metric: str = "val.accuracy"
    """What the best trial is best in, by its best epoch: `val.accuracy`, `val.macro_f1`,
    `val.top5_accuracy` (more than 5 classes), `val.loss` or `val.ece` (calibration error)."""
    mode: Literal["max", "min"] = "max"
    """Whether more is better (`max`) or less (`min`: losses and errors)."""

    @model_validator(mode="after")
    def _better(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"there is no metric '{self.metric}'{nearest(self.metric, METRICS)}")
        better = METRICS[self.metric]
        if self.mode != better:
            raise ValueError(
                f"mode: {self.mode} would look for the worst {self.metric}; set mode: {better}"
            )
        return self


class GridSearch(_Compared):
    """Every combination of choices and whole numbers, the last key varying fastest."""

    kind: Literal["grid"]


class ListSearch(_Compared):
    """Just the trials that are listed, for designed experiments; without a `space`."""

    kind: Literal["list"]
    trials: Annotated[tuple[dict[str, JsonValue], ...], Field(min_length=1, max_length=MOST_TRIALS)]
    """What each changes: values by dotted key of `base`."""

    @field_validator("trials")
    @classmethod
    def _keys(cls, trials: tuple[dict[str, JsonValue], ...]) -> tuple[dict[str, JsonValue], ...]:
        for changes in trials:
            for key, value in changes.items():
                _check_key(key, Choice(choice=(value,)))
        return trials


class RandomSearch(_Compared):
    """Combinations at random, no two the same."""

    kind: Literal["random"] = "random"
    trials: TrialCount
    """How many."""
    seed: Seed = 0
    """A trial's value for a key depends on this, the trial's number and the key alone."""


class _Modelled(_Compared):
    trials: TrialCount
    """How many."""
    seed: Seed = 0
    """Of the estimator. Trials that run at the same time end in an order of their own, so the
    same seed gives the same trials only with `budget.concurrency: 1`."""
    startup: Positive = 5
    """Trials at random before the estimator; an earlier sweep's (`warm_start`) count as such."""


class TPESearch(_Modelled):
    """Optuna's tree-structured Parzen estimator: later trials are near the best of earlier ones."""

    kind: Literal["tpe"]


class BOHBSearch(_Modelled):
    """As `tpe`, with an estimator of what most epochs have shown (arXiv:1807.01774).

    Multi-fidelity: trials that the scheduler stopped early teach it, too.
    """

    kind: Literal["bohb"]


Search = Annotated[
    GridSearch | RandomSearch | ListSearch | TPESearch | BOHBSearch, Field(discriminator="kind")
]


class Budget(Section):
    """What a sweep may take, beside `search.trials`."""

    wall_time_s: PositiveFloat | None = None
    """Seconds after which no trial starts and running ones stop, with the epochs that they have
    finished; null: none. Computing activations is never cut short."""
    concurrency: Positive | Literal["auto"] = "auto"
    """Trials at the same time, at most; `auto`: as many as fit the CPUs and GPUs."""


class AsIs(Section):
    """The best trial's own weights are what the sweep gives."""

    kind: Literal["as-is"] = "as-is"


class Retrain(Section):
    """The best trial's spec is trained once more, as `graft train` would."""

    kind: Literal["retrain"]
    epochs: Positive | None = None
    """null: as many as in the trial."""


Best = Annotated[AsIs | Retrain, Field(discriminator="kind")]


class Sweep(Section):
    """Train variations of one fine-tuning job and find the best."""

    kind: Literal["sweep"]
    name: Name
    """Beginning of the sweep's id."""
    base: Finetune
    """What all trials share, a whole fine-tuning spec; `kind` may be left out, and `name` where
    it is the sweep's."""
    space: dict[str, Range] = Field(default_factory=dict)
    """What differs: dotted keys of `base`, each with {choice: [...]}, {uniform: [low, high]},
    {log_uniform: [low, high]} or {int_uniform: [low, high]}; empty where the trials are listed."""
    search: Search
    """Which points of the space are tried, and what makes one the best."""
    scheduler: Scheduler = ASHA()
    """Which trials are stopped before their last epoch."""
    budget: Budget = Budget()
    best: Best = AsIs()
    """What becomes of the best trial."""
    register_: Register | None = Field(default=None, alias="register")
    """Where the best model goes; null: its weights stay in the sweep."""
    warm_start: str | None = None
    """Id of an earlier sweep whose trials `tpe` or `bohb` learns from; null: none."""

    @field_validator("space")
    @classmethod
    def _keys(cls, space: dict[str, Any]) -> dict[str, Any]:
        for key, values in space.items():
            _check_key(key, values)
            for name in _set_by(values):
                if f"{key}.{name}" in space:
                    raise ValueError(f"'{key}' and '{key}.{name}' both set {key}.{name}")
        return space

    @property
    def varied(self) -> tuple[str, ...]:
        """Dotted keys of `base` in which trials differ, in order."""
        if isinstance(self.search, ListSearch):
            return tuple(dict.fromkeys(key for trial in self.search.trials for key in trial))
        return tuple(self.space)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.search, ListSearch) and self.space:
            raise ValueError("space has no effect with search.kind: list, which has the trials")
        if not isinstance(self.search, ListSearch) and not self.space:
            raise ValueError("space: is empty: name at least one key of base to vary")
        if self.base.register_:
            raise ValueError(
                "base.register has no effect in a sweep; the sweep's own `register` says where "
                "the best model goes"
            )
        self._check_search()
        self._check_scheduler()
        if self.scheduler.kind == "pbt":
            self._check_population(self.scheduler)
        if self.scheduler.kind in ("pbt", "hyperband") and self.budget.concurrency != "auto":
            raise ValueError(
                f"budget.concurrency: {self.budget.concurrency} does not go with scheduler.kind: "
                f"{self.scheduler.kind}, whose trials wait for each other; leave it auto"
            )
        if self.warm_start is not None and self.search.kind not in ("tpe", "bohb"):
            raise ValueError(
                f"warm_start has no effect with search.kind: {self.search.kind}; use tpe or bohb"
            )
        if isinstance(self.best, Retrain) and self.best.epochs:
            if self.best.epochs == self.base.train.epochs:
                raise ValueError("best.epochs is base.train.epochs; leave it out")
            train = self.base.train.model_dump(mode="json") | {"epochs": self.best.epochs}
            try:
                Train.model_validate_json(json.dumps(train))
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"best.epochs ({self.best.epochs}): {reason}") from error
        return self

    def _check_search(self) -> None:
        if isinstance(self.search, ListSearch):
            return
        sizes = {key: size(values) for key, values in self.space.items()}
        combinations = 1
        for key, count in sizes.items():
            if count is None and self.search.kind == "grid":
                raise ValueError(
                    f"space: '{key}' has no end of values, and search.kind is grid; give it "
                    "a choice, or use kind: random"
                )
            combinations *= count or 0
        if isinstance(self.search, GridSearch):
            if combinations > MOST_TRIALS:
                raise ValueError(
                    f"search.kind: grid has {combinations:,} trials in this space, more than "
                    f"{MOST_TRIALS:,}; use kind: random"
                )
            return
        if None not in sizes.values() and self.search.trials > combinations:
            raise ValueError(
                f"search.trials ({self.search.trials}) is more than the space's {combinations} "
                "combinations; lower it, or use kind: grid"
            )
        if isinstance(self.search, RandomSearch) or self.warm_start:
            return
        if self.search.startup >= self.search.trials:
            raise ValueError(
                f"search.startup ({self.search.startup}) leaves none of {self.search.trials} "
                f"trials to {self.search.kind}; lower it, or use kind: random"
            )

    def _check_scheduler(self) -> None:
        scheduler, epochs = self.scheduler, self.base.train.epochs
        if self.search.kind == "bohb" and scheduler.kind not in ("asha", "hyperband"):
            raise ValueError(
                f"search.kind: bohb learns from trials that are stopped early; with "
                f"scheduler.kind: {scheduler.kind} it is tpe; use asha or hyperband"
            )
        if scheduler.kind == "none":
            return
        train = self.space.get("train")
        if "train.epochs" in self.varied or (train and "epochs" in _set_by(train)):
            raise ValueError(
                f"space: 'train.epochs' is what scheduler.kind: {scheduler.kind} compares trials "
                "at; use scheduler: {kind: none}"
            )
        first = {"asha": "grace", "median": "grace", "hyperband": "reduction", "pbt": "every"}
        name = first[scheduler.kind]
        if (value := getattr(scheduler, name)) >= epochs:
            raise ValueError(
                f"scheduler.kind: {scheduler.kind} has no effect with {name}: {value} and "
                f"base.train.epochs: {epochs}; use scheduler: {{kind: none}}, or train longer"
            )

    def _check_population(self, scheduler: PBT) -> None:
        if not isinstance(self.search, RandomSearch):
            raise ValueError(
                f"scheduler.kind: pbt searches by itself from a random population; with "
                f"search.kind: {self.search.kind} it cannot; use kind: random"
            )
        for key in self.space:
            if key not in MUTABLE:
                raise ValueError(
                    f"space: '{key}' cannot change while a trial trains, as scheduler.kind: pbt "
                    f"wants it to{nearest(key, MUTABLE)}"
                )
        if self.search.trials * scheduler.quantile < 1:
            raise ValueError(
                f"scheduler.quantile ({scheduler.quantile:g}) of {self.search.trials} trials is "
                "less than one; raise search.trials"
            )
        if isinstance(self.best, Retrain):
            raise ValueError(
                "best.kind: retrain cannot repeat a trial of pbt, whose values changed on the "
                "way; use as-is"
            )


def _check_key(key: str, values: Range) -> None:
    sections = sections_at(key)
    reason = NOT_SWEPT.get(key.partition(".")[0])
    if key.endswith(".kind"):
        section = key.removesuffix(".kind")
        reason = f"decides which keys there are; give '{section}' a choice of mappings"
    if reason:
        raise ValueError(f"'{key}' cannot be varied: it {reason}")
    mappings = isinstance(values, Choice) and all(
        value is None or isinstance(value, dict) for value in values.choice
    )
    if sections and not mappings:
        names = sorted(fields_of(sections).keys() - {"kind"})[:3]
        some = ", ".join(f"{key}.{name}" for name in names)
        raise ValueError(
            f"'{key}' is a section; vary keys of it ({some}, ...), or give a choice of mappings"
        )


def _set_by(values: Range) -> set[str]:
    """Return the keys that a choice of mappings for a section sets."""
    chosen = values.choice if isinstance(values, Choice) else ()
    return {name for value in chosen if isinstance(value, dict) for name in value}


def size(values: Range) -> int | None:
    """Return how many values a range has; None where there is no end of them."""
    if isinstance(values, Choice):
        return len(values.choice)
    if isinstance(values, IntUniform):
        low, high = values.int_uniform
        return high - low + 1
    return None


def _ascending(bounds: tuple[Any, Any]) -> tuple[Any, Any]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"{_listed(bounds)}: expected the smaller bound first")
    return bounds


def _listed(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"
