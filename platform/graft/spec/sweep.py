"""The spec of a sweep: variations of one fine-tuning job, and how the best one is found."""

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from graft.spec.dotted_keys import Changes, sections_at
from graft.spec.explain import fields_of, nearest
from graft.spec.finetune import Finetune, Register
from graft.spec.ranges import Choice, Range, range_size
from graft.spec.scheduler import ASHA, PBT, Scheduler
from graft.spec.section import Name, Positive, PositiveFloat, Section, Seed
from graft.spec.train import METRICS, Metric, Train

NOT_SWEPT = {
    "kind": "is what a trial is",
    "name": "does not change what is trained",
    "register": "is no matter of trials; the sweep's own `register` says where the best one goes",
    "cache": "does not change what is trained",
    "loader": "does not change what is trained",
    "scaling": "says how a trial runs, the same for all",
    "train.metric": "is the sweep's `search.metric`",
    "train.checkpoint": "does not change what is trained",
}
"""Sections that a sweep cannot vary, and the rest of the sentence that tells why."""
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
"""Keys that population-based training can change while a trial runs."""
MOST_TRIALS = 10_000
TrialCount = Annotated[int, Field(gt=0, le=MOST_TRIALS)]


class _Compared(Section):
    metric: Metric = "val.accuracy"
    """Metric that decides which trial is the best; each trial counts with its best epoch. It is
    the `train.metric` of every trial: `val.accuracy`, `val.macro_f1`, `val.top5_accuracy` (needs
    more than 5 classes), `val.loss` or `val.ece` (calibration error)."""
    mode: Literal["max", "min"] = "max"
    """Whether more is better (`max`) or less (`min`: losses and errors)."""

    @model_validator(mode="after")
    def _better(self) -> Self:
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
    """Exactly the listed trials, for designed experiments; the sweep then has no `space`."""

    kind: Literal["list"]
    trials: Annotated[tuple[Changes, ...], Field(min_length=1, max_length=MOST_TRIALS)]
    """For each trial the values that it changes, by dotted key of `base`."""

    @field_validator("trials")
    @classmethod
    def _keys(cls, trials: tuple[Changes, ...]) -> tuple[Changes, ...]:
        for changes in trials:
            for key, value in changes.items():
                _check_key(key, Choice(choice=(value,)))
        return trials


class RandomSearch(_Compared):
    """Random combinations, no two of them the same."""

    kind: Literal["random"] = "random"
    trials: TrialCount
    """Number of trials."""
    seed: Seed = 0
    """A trial's value for a key depends only on this seed, the trial's number and the key."""


class _Estimated(_Compared):
    trials: TrialCount
    """Number of trials."""
    seed: Seed = 0
    """Seed of the estimator. Trials that run at the same time end in no fixed order, so the same
    seed gives the same trials only with `budget.concurrency: 1`."""
    startup: Positive = 5
    """Number of random trials before the estimator takes over; trials of an earlier sweep
    (`warm_start`) count among them."""


class TPESearch(_Estimated):
    """Optuna's tree-structured Parzen estimator: tries values near those of the best trials."""

    kind: Literal["tpe"]


class BOHBSearch(_Estimated):
    """As `tpe`, and also learns from trials that the scheduler stopped early (arXiv:1807.01774).

    Of those, the estimator weighs the trials that trained longest first (multi-fidelity).
    """

    kind: Literal["bohb"]


Search = Annotated[
    GridSearch | RandomSearch | ListSearch | TPESearch | BOHBSearch, Field(discriminator="kind")
]


class Budget(Section):
    """Limits of a sweep, besides `search.trials`."""

    wall_time_s: PositiveFloat | None = None
    """Seconds after which no trial starts, and running trials stop with the epochs that they have
    finished; null: no limit. The computing of activations is never cut short."""
    concurrency: Positive | Literal["auto"] = "auto"
    """Largest number of trials at the same time; `auto`: as many as fit the CPUs and GPUs."""


class AsIs(Section):
    """The sweep's model has the weights that the best trial was trained to."""

    kind: Literal["as-is"] = "as-is"


class Retrain(Section):
    """The best trial's spec is trained again, as `graft train` would, and gives the model."""

    kind: Literal["retrain"]
    epochs: Positive | None = None
    """Number of epochs; null: as many as in the trial."""


Best = Annotated[AsIs | Retrain, Field(discriminator="kind")]


class Sweep(Section):
    """Train variations of one fine-tuning job and find the best."""

    kind: Literal["sweep"]
    name: Name
    """Beginning of the sweep's id."""
    base: Finetune
    """A whole fine-tuning spec, which all trials share. `kind` may be left out; so may `name`,
    which is then the sweep's."""
    space: dict[str, Range] = Field(default_factory=dict)
    """What trials vary: dotted keys of `base`, each with {choice: [...]}, {uniform: [low, high]},
    {log_uniform: [low, high]} or {int_uniform: [low, high]}; empty with `search.kind: list`."""
    search: Search
    """Which combinations of the space are tried, and by which metric they are compared."""
    scheduler: Scheduler = ASHA()
    """Which trials are stopped before their last epoch."""
    budget: Budget = Budget()
    best: Best = AsIs()
    """Whether the best trial's weights are used as they are, or it is trained again."""
    register_: Register | None = Field(default=None, alias="register")
    """Model name under which the best model is registered; null: its weights stay in the sweep."""
    warm_start: str | None = None
    """Id of an earlier sweep whose trials `tpe` or `bohb` learns from; null: no sweep."""

    @field_validator("space")
    @classmethod
    def _keys(cls, space: dict[str, Any]) -> dict[str, Any]:
        for key, values in space.items():
            _check_key(key, values)
            for name in _keys_set(values):
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
        if self.base.train.metric not in (None, self.search.metric):
            raise ValueError(
                f"base.train.metric: {self.base.train.metric} has no effect in a sweep, whose "
                f"search.metric ({self.search.metric}) compares epochs, too; leave it out"
            )
        self._check_labels()
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

    def _check_labels(self) -> None:
        """Refuse shares of labels among numbers of them: 1 among shares would be one image."""
        key = "dataset.labels"
        values: Sequence[JsonValue] = ()
        if isinstance(self.search, ListSearch):
            values = [trial[key] for trial in self.search.trials if key in trial]
        elif isinstance(choices := self.space.get(key), Choice):
            values = choices.choice
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1:
            raise ValueError(
                f"{key}: {', '.join(map(str, values))} mixes shares with numbers of images; "
                "all of them is 1.0, one image of each class is 1"
            )

    def _check_search(self) -> None:
        if isinstance(self.search, ListSearch):
            return
        sizes = {key: range_size(values) for key, values in self.space.items()}
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
        if "train.epochs" in self.varied or (train and "epochs" in _keys_set(train)):
            raise ValueError(
                f"space: 'train.epochs' is what scheduler.kind: {scheduler.kind} compares trials "
                "at; use scheduler: {kind: none}"
            )
        name = scheduler.first_decision
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
    for name in _keys_set(values):
        if f"{key}.{name}" in NOT_SWEPT:
            _check_key(f"{key}.{name}", Choice(choice=(None,)))
    sections_of_key = itertools.accumulate(key.split("."), lambda above, name: f"{above}.{name}")
    reason = next((NOT_SWEPT[part] for part in sections_of_key if part in NOT_SWEPT), None)
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
        examples = ", ".join(f"{key}.{name}" for name in names)
        raise ValueError(
            f"'{key}' is a section; vary keys of it ({examples}, ...), or give a choice of mappings"
        )


def _keys_set(values: Range) -> set[str]:
    """Return the keys that a choice of mappings for a section sets."""
    mappings = values.choice if isinstance(values, Choice) else ()
    return {name for value in mappings if isinstance(value, dict) for name in value}
