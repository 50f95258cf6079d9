"""What is trained when, and how fast: freeze depths by epoch, learning rates by stage."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from graft.backbones.stage_map import freeze_depth
from graft.backbones.transfer_model import TransferModel
from graft.errors import SpecError
from graft.spec import Backbone, DecayedRates, ListedRates, Train, nearest
from graft.training.run_records import StagePlan


@dataclass(frozen=True)
class DepthFrom:
    """A freeze depth, and the epoch that it begins with."""

    epoch: int
    """From 1."""
    depth: int
    """Number of frozen stages, until the next one's epoch."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a spec means for one architecture; made before anything is trained, and recorded."""

    depths: tuple[DepthFrom, ...]
    """In order; the first one begins with epoch 1, and each is less deep than the one before."""
    stages: tuple[StagePlan, ...]
    """By stage; the last one is the head."""

    def depth(self, epoch: int) -> int:
        """Return the freeze depth of an epoch (from 1)."""
        return [change.depth for change in self.depths if change.epoch <= max(1, epoch)][-1]

    @property
    def always_frozen(self) -> int:
        """Number of stages that are frozen in every epoch."""
        return self.depths[-1].depth

    def rate(self, stage: int) -> float:
        """Return the learning rate, before the schedule, of a stage that is trained.

        Raises:
            ValueError: it is frozen throughout.
        """
        rate = self.stages[stage].lr
        if rate is None:
            raise ValueError(f"stage '{self.stages[stage].stage}' is never trained")
        return rate


def make_training_plan(model: TransferModel, backbone: Backbone, train: Train) -> TrainingPlan:
    """Resolve freeze depths and learning rates.

    Raises:
        SpecError: a depth that does not fall, a pattern that matches nothing, or rates
            for stages that are never trained.
    """
    depths = _depths(model, backbone, train)
    names = (*model.stages.names, "head")
    rates = _rates(model, train, depths[-1].depth)
    sizes = [0] * len(names)
    for name, parameter in model.network.named_parameters():
        sizes[model.stage_of(name)] += parameter.numel()
    trained_from = [
        next((change.epoch for change in depths if change.depth <= index), None)
        for index in range(len(names))
    ]
    stages = tuple(
        StagePlan(stage=name, trained_from=epoch, lr=rate if epoch else None, parameters=size)
        for name, epoch, rate, size in zip(names, trained_from, rates, sizes, strict=True)
    )
    return TrainingPlan(depths, stages)


def _depths(model: TransferModel, backbone: Backbone, train: Train) -> tuple[DepthFrom, ...]:
    depths = [DepthFrom(1, freeze_depth(backbone.freeze, model.stages))]
    for number, step in enumerate(train.unfreeze):
        key = f"train.unfreeze.{number}.freeze"
        depth = freeze_depth(step.freeze, model.stages, key)
        before = depths[-1].depth
        if depth >= before:
            raise SpecError(
                f"{key}: {step.freeze} freezes {depth} stages, and {before} were frozen before; "
                "expected less"
            )
        depths.append(DepthFrom(step.epoch, depth))
    return tuple(depths)


def _rates(model: TransferModel, train: Train, frozen: int) -> list[float]:
    """Return the learning rate of every stage, and at last the head's.

    `frozen` is the number of stages that are never trained.
    """
    names, head = model.stages.names, train.optimizer.lr
    if train.rates.kind != "uniform" and frozen == len(names):
        raise SpecError("train.rates has no effect: the head alone is trained")
    if isinstance(train.rates, DecayedRates):
        last, factor = train.rates.backbone or head * train.rates.factor, train.rates.factor
        return [*(last * factor ** (len(names) - 1 - i) for i in range(len(names))), head]
    if isinstance(train.rates, ListedRates):
        matches = _first_matches(train.rates, model.stages.arch, names, frozen)
        return [*(head if n is None else train.rates.stages[n].lr for n in matches), head]
    return [head] * (len(names) + 1)


def _first_matches(
    listed: ListedRates, arch: str, names: tuple[str, ...], frozen: int
) -> list[int | None]:
    """Return for each stage the number of the first entry that matches it, None where none does.

    Raises:
        SpecError: an entry has no effect.
    """
    matches = [
        next((n for n, entry in enumerate(listed.stages) if fnmatchcase(name, entry.match)), None)
        for name in names
    ]
    for number, entry in enumerate(listed.stages):
        key = f"train.rates.stages.{number}.match"
        if not any(fnmatchcase(name, entry.match) for name in names):
            raise SpecError(
                f"{key}: no stage of {arch} matches '{entry.match}'{nearest(entry.match, names)}"
            )
        if number not in matches:
            raise SpecError(f"{key}: '{entry.match}' has no effect; entries before it match first")
        if number not in matches[frozen:]:
            raise SpecError(f"{key}: '{entry.match}' has no effect; what it matches stays frozen")
    return matches
