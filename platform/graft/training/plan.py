"""What is trained when, and how fast: freeze depths by epoch, learning rates by stage."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from graft.backbones.model import TransferModel
from graft.backbones.stages import freeze_depth
from graft.errors import SpecError
from graft.spec import Backbone, DecayedRates, ListedRates, Train, nearest
from graft.training.runs import StagePlan


@dataclass(frozen=True)
class Plan:
    """What a spec means for one architecture; made before anything is trained, and recorded."""

    depths: tuple[tuple[int, int], ...]
    """(first epoch, from 1; freeze depth from then on), in order."""
    stages: tuple[StagePlan, ...]
    """By stage; the last one is the head."""

    def depth(self, epoch: int) -> int:
        """Return the freeze depth of an epoch (from 1)."""
        return [depth for first, depth in self.depths if first <= max(1, epoch)][-1]

    def rate(self, stage: int) -> float:
        """Return the learning rate, before the schedule, of a stage that is trained."""
        rate = self.stages[stage].lr
        if rate is None:
            raise ValueError(f"stage '{self.stages[stage].stage}' is never trained")
        return rate


def make_plan(model: TransferModel, backbone: Backbone, train: Train) -> Plan:
    """Resolve freeze depths and learning rates.

    Raises:
        SpecError: a depth that does not fall, a pattern that matches nothing, or rates
            for stages that are never trained.
    """
    depths = _depths(model, backbone, train)
    frozen = depths[-1][1]
    names = (*model.stages.names, "head")
    rates = [train.optimizer.lr] * len(names)
    if train.rates.kind != "uniform" and frozen == len(names) - 1:
        raise SpecError("train.rates has no effect: the head alone is trained")
    if isinstance(train.rates, DecayedRates):
        rates[:-1] = _decayed(train.rates, train.optimizer.lr, len(names) - 1)
    elif isinstance(train.rates, ListedRates):
        _list_rates(train.rates, model.stages.arch, names[:-1], frozen, rates)
    sizes = [0] * len(names)
    for name, parameter in model.network.named_parameters():
        sizes[model.stage_of(name)] += parameter.numel()
    since = [
        next((first for first, depth in depths if depth <= index), None)
        for index in range(len(names))
    ]
    stages = tuple(
        StagePlan(stage=name, trained_from=first, lr=rate if first else None, parameters=size)
        for name, first, rate, size in zip(names, since, rates, sizes, strict=True)
    )
    return Plan(depths, stages)


def _depths(model: TransferModel, backbone: Backbone, train: Train) -> tuple[tuple[int, int], ...]:
    depths = [(1, freeze_depth(backbone.freeze, model.stages))]
    for number, step in enumerate(train.unfreeze):
        key = f"train.unfreeze.{number}.freeze"
        depth = freeze_depth(step.freeze, model.stages, key)
        before = depths[-1][1]
        if depth >= before:
            raise SpecError(
                f"{key}: {step.freeze} freezes {depth} stages, and {before} were frozen before; "
                "expected less"
            )
        depths.append((step.epoch, depth))
    return tuple(depths)


def _decayed(rates: DecayedRates, head: float, stages: int) -> list[float]:
    last = rates.backbone or head * rates.factor
    return [last * rates.factor ** (stages - 1 - index) for index in range(stages)]


def _list_rates(
    listed: ListedRates, arch: str, names: tuple[str, ...], frozen: int, rates: list[float]
) -> None:
    """Set `rates` of the stages that entries match."""
    first = [
        next((n for n, e in enumerate(listed.stages) if fnmatchcase(name, e.match)), None)
        for name in names
    ]
    for number, entry in enumerate(listed.stages):
        key = f"train.rates.stages.{number}.match"
        if not any(fnmatchcase(name, entry.match) for name in names):
            raise SpecError(
                f"{key}: no stage of {arch} matches '{entry.match}'{nearest(entry.match, names)}"
            )
        if number not in first:
            raise SpecError(f"{key}: '{entry.match}' has no effect; entries before it match first")
        if number not in first[frozen:]:
            raise SpecError(f"{key}: '{entry.match}' has no effect; what it matches stays frozen")
    for index, found in enumerate(first):
        if found is not None:
            rates[index] = listed.stages[found].lr
