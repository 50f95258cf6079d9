"""The plan of a sweep: which trials run in which order, what they share, and what it costs; pure.

Nothing here reads the store or computes with tensors: `resolve` finds the facts.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from graft.errors import SpecError
from graft.spec import Finetune, Section, StandardAugment, Sweep
from graft.sweep.space import Changes, count_trials

BACKWARD = 2
"""What a backward pass costs, in forward passes."""
BATCHED = ("lr", "weight_decay")
"""Of the optimiser: all that heads trained as one computation may differ in. Not the seed: lanes
see the same images in the same order."""


@dataclass(frozen=True)
class StageCost:
    """What one image costs in a stage."""

    name: str
    gflops: float
    """Forward; a multiply-add counts one."""
    bytes: int
    """Of the activations at its end, as they are kept."""


@dataclass(frozen=True)
class Facts:
    """What the plan has to know of a trial beyond its spec."""

    train: int
    """Training images."""
    val: int
    """Validation images."""
    stages: tuple[StageCost, ...]
    head_gflops: float
    """Forward, for one image."""
    depth: int
    """The least number of stages that are frozen in any epoch: what is frozen in all of them."""
    lanes: int
    """How many like it can be trained as one computation (`training.lanes`); 0: it cannot."""

    @property
    def trunk_gflops(self) -> float:
        """Forward through the trunk, for one image."""
        return sum(stage.gflops for stage in self.stages[: self.depth])

    @property
    def tail_gflops(self) -> float:
        """Forward through the tail, for one image."""
        return sum(stage.gflops for stage in self.stages[self.depth :]) + self.head_gflops


@dataclass(frozen=True)
class Resolved:
    """A trial's spec with nothing left open, and the facts on it."""

    changes: Changes
    spec: Finetune
    facts: Facts


class Throughput(Section):
    """What the machines that run a sweep do in a second, all of them together."""

    gflops: float
    """Billions of multiply-adds."""
    images: float
    """Images decoded and preprocessed."""


TWO_CORES = Throughput(gflops=60.0, images=340.0)
"""Once measured on 2 CPU cores: SqueezeNet 1.1 forward at 224, and JPEGs of 500 x 400."""


class Trial(Section):
    """One trial that is known before the sweep starts."""

    number: int
    """From 1, in running order."""
    id: str
    """The beginning of a hash of all in the spec that changes what is trained."""
    changes: dict[str, JsonValue]
    """Values by dotted key of the sweep's base."""
    spec: Finetune
    """With nothing left open."""
    trunk: int | None
    """Number of the trunk it starts from; null: it keeps no activations."""


class Trunk(Section):
    """A frozen prefix, and the activations of it that the sweep needs."""

    number: int
    """From 1; a trunk is computed after those it starts from."""
    dataset: str
    """NAME@VERSION."""
    arch: str
    weights: str
    depth: int
    """Stages that are frozen."""
    through: str
    """Name of the last of them."""
    gflops: float
    """Forward through all of it, for one image; a multiply-add counts one."""
    parent: int | None
    """Number of the shallower trunk whose activations it starts from; null: from the images."""
    images: int
    """Views of images that go through it: those of validation, and each view of training's."""
    bytes: int
    """Of all these activations."""
    seconds: float
    """Forecast for computing them."""
    trials: tuple[int, ...]
    """Numbers of the trials that use it; empty where trials are not known beforehand."""


class Plan(Section):
    """What a sweep is going to do: ``plan.json``."""

    count: int
    """Trials."""
    trials: tuple[Trial, ...]
    """In running order; empty where the search finds trials as it goes. Then the rest of the
    plan is of all that the space can reach, and costs are upper bounds."""
    trunks: tuple[Trunk, ...]
    batches: tuple[tuple[int, ...], ...]
    """Numbers of trials that can be trained as one computation, where these are several: only
    the head trains, and they differ in learning rate and weight decay alone."""
    throughput: Throughput
    """What the forecast assumes."""
    cached_s: float
    """Forecast of the whole sweep, every trunk computed once; trials that a scheduler stops
    early take less."""
    uncached_s: float
    """The same where every trial decodes every image and runs its trunk in every epoch."""
    trial_s: float
    """Forecast of the shortest trial alone, its activations kept or not."""

    @property
    def bytes(self) -> int:
        """Activations to cache, in all."""
        return sum(trunk.bytes for trunk in self.trunks)

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return self.trials[number - 1]


@dataclass(frozen=True)
class Cost:
    """Work: images to decode, and billions of multiply-adds."""

    images: float
    gflops: float

    def seconds(self, throughput: Throughput) -> float:
        """Return how long it takes: images / (images/s) + GFLOP / (GFLOP/s)."""
        return self.images / throughput.images + self.gflops / throughput.gflops


def trial_cost(spec: Finetune, facts: Facts, cached: bool) -> Cost:
    """Return what a trial costs.

    With E epochs, images T (training) and V (validation), and GFLOPs per image of trunk and
    tail, where validation also happens before the first epoch::

        uncached  (E T + (E + 1) V) decoded;  E T (trunk + 3 tail) + (E + 1) V (trunk + tail)
        cached                                E T (3 tail)         + (E + 1) V tail

    The trunk of gradual unfreezing is what stays frozen to the end. `cached` acts where
    activations are kept at all.
    """
    train = spec.train.epochs * facts.train
    val = (spec.train.epochs + 1) * facts.val
    gflops = facts.tail_gflops * ((1 + BACKWARD) * train + val)
    if cached and keeps(spec, facts):
        return Cost(0, gflops)
    return Cost(train + val, gflops + facts.trunk_gflops * (train + val))


def keeps(spec: Finetune, facts: Facts) -> bool:
    """Whether a trial can use activations that are kept."""
    return facts.depth > 0 and spec.not_kept is None


def make_plan(
    sweep: Sweep, found: Sequence[Resolved], throughput: Throughput, view_sets: int = 1
) -> Plan:
    """Return the plan of a sweep.

    Args:
        sweep: the spec.
        found: all trials, in the search's order; or, where the search finds trials as it goes,
            one for each trunk that the space can reach.
        throughput: of the machines that run it.
        view_sets: how often, at most, each of `found` occurs with other augmented views.

    """
    known = sweep.search.kind in ("grid", "random", "list")
    ordered = _ordered(found)
    trunks, used = _trunks(ordered, throughput, view_sets)
    trials = tuple(
        Trial(
            number=number,
            id=trial_id(one.spec),
            changes=one.changes,
            spec=one.spec,
            trunk=used[number - 1],
        )
        for number, one in enumerate(ordered, 1)
    )

    def seconds(cached: bool) -> list[float]:
        return [trial_cost(o.spec, o.facts, cached).seconds(throughput) for o in ordered]

    count = count_trials(sweep)
    cached, uncached = seconds(True), seconds(False)
    uncached_s = sum(uncached) if known else count * max(uncached)
    cached_s = sum(trunk.seconds for trunk in trunks)
    cached_s += sum(cached) if known else count * max(cached)
    return Plan(
        count=count,
        trials=trials if known else (),
        trunks=trunks if known else tuple(t.model_copy(update={"trials": ()}) for t in trunks),
        batches=tuple(_batches(ordered)) if known and _batched(sweep) else (),
        throughput=throughput,
        # Of a bound: what does not pay is not kept.
        cached_s=cached_s if known else min(cached_s, uncached_s),
        uncached_s=uncached_s,
        trial_s=min(min(uncached), min(cached) + min((t.seconds for t in trunks), default=0.0)),
    )


def check_budget(sweep: Sweep, plan: Plan) -> None:
    """Refuse a budget that no trial fits into.

    Raises:
        SpecError: the forecast of the shortest trial is more than twice as long; a forecast is
            no better than that.
    """
    budget = sweep.budget.wall_time_s
    if budget is not None and 2 * budget < plan.trial_s:
        raise SpecError(
            f"budget.wall_time_s ({budget:g}) is too small for one trial, which takes about "
            f"{plan.trial_s:.3g} s here; raise it, or lower base.train.epochs"
        )


def trial_id(spec: Finetune) -> str:
    """Return the name of what a spec trains: specs that train the same have the same."""
    document = spec.model_dump(mode="json", by_alias=True)
    for key in ("name", "cache", "loader", "register"):
        del document[key]
    return hashlib.sha256(_canonical(document).encode()).hexdigest()[:12]


def trunk_family(spec: Finetune) -> str:
    """Return what trunks have in common that differ in depth alone; also views of validation."""
    backbone = spec.backbone
    return _canonical(
        [
            [spec.dataset.name, spec.dataset.version],
            spec.train.seed if backbone.weights == "none" else None,  # draws the weights
            [backbone.arch, backbone.weights, backbone.weights_sha256, spec.head.replaces],
            spec.cache_dtype,
            spec.preprocess.model_dump(mode="json") if spec.preprocess else None,
        ]
    )


def _ordered(found: Sequence[Resolved]) -> list[Resolved]:
    """Return trials that share a trunk together, of one backbone the shallower first."""
    families = _ranks(trunk_family(one.spec) for one in found)
    augments = _ranks(_views(one.spec) for one in found)
    alike = _ranks(_unbatched(one.spec) for one in found)
    keys = [
        (family, one.facts.depth, augment, batch, number)
        for number, (family, one, augment, batch) in enumerate(
            zip(families, found, augments, alike, strict=True)
        )
    ]
    return [found[key[-1]] for key in sorted(keys)]


def _trunks(
    ordered: Sequence[Resolved], throughput: Throughput, view_sets: int
) -> tuple[tuple[Trunk, ...], list[int | None]]:
    """Return the distinct trunks, and by trial the number of its own."""
    members: dict[tuple[str, int], list[int]] = {}
    for index, one in enumerate(ordered):
        if keeps(one.spec, one.facts):
            members.setdefault((trunk_family(one.spec), one.facts.depth), []).append(index)
    trunks: list[Trunk] = []
    used: list[int | None] = [None] * len(ordered)
    above: dict[str, tuple[int, float, dict[str, int]]] = {}
    for number, ((family, depth), indices) in enumerate(members.items(), 1):
        first = ordered[indices[0]]
        views: dict[str, int] = {}
        for index in indices:
            used[index] = number
            spec = ordered[index].spec
            views[_views(spec)] = max(views.get(_views(spec), 0), _count_views(spec))
        parent, before, had = above.get(family, (None, 0.0, {}))
        train, val, gflops = first.facts.train, first.facts.val, first.facts.trunk_gflops
        images = val + view_sets * train * sum(views.values())
        shared = val + view_sets * train * sum(
            min(count, had.get(augment, 0)) for augment, count in views.items()
        )
        shared = shared if parent else 0
        cost = Cost(images - shared, images * gflops - shared * before)
        trunks.append(
            Trunk(
                number=number,
                dataset=f"{first.spec.dataset.name}@{first.spec.dataset.version}",
                arch=first.spec.backbone.arch,
                weights=first.spec.backbone.weights,
                depth=depth,
                through=first.facts.stages[depth - 1].name,
                gflops=gflops,
                parent=parent,
                images=images,
                bytes=images * first.facts.stages[depth - 1].bytes,
                seconds=cost.seconds(throughput),
                trials=tuple(index + 1 for index in indices),
            )
        )
        above[family] = (number, gflops, views)
    return tuple(trunks), used


def _batched(sweep: Sweep) -> bool:
    """Whether heads of a sweep are trained as one computation at all."""
    return sweep.scheduler.kind != "pbt" and sweep.base.scaling.workers == 1


def _batches(ordered: Sequence[Resolved]) -> Iterable[tuple[int, ...]]:
    """Yield the numbers of trials that can be trained as one computation."""
    alike: dict[tuple[str, int], list[int]] = {}
    for number, one in enumerate(ordered, 1):
        if one.facts.lanes:
            alike.setdefault((_unbatched(one.spec), one.facts.lanes), []).append(number)
    for (_, lanes), numbers in alike.items():
        batches = [numbers[i : i + lanes] for i in range(0, len(numbers), lanes)]
        yield from (tuple(batch) for batch in batches if len(batch) > 1)


def _unbatched(spec: Finetune) -> str:
    """Return all of a spec that heads trained as one computation have in common."""
    document = spec.model_dump(mode="json", by_alias=True)
    for name in BATCHED:
        del document["train"]["optimizer"][name]
    return _canonical(document)


def _views(spec: Finetune) -> str:
    """Return what makes the pixels of training's views; not how many there are."""
    document = spec.augment.model_dump(mode="json")
    document.pop("views", None)
    return _canonical(document)


def _count_views(spec: Finetune) -> int:
    """Return how many views of each training image a trial sees, beyond validation's own view.

    Without augmentation that is view 0, of training images.
    """
    augment, epochs = spec.augment, spec.train.epochs
    if not isinstance(augment, StandardAugment):
        return 1
    return epochs if augment.views == "live" else min(augment.views, epochs)


def _ranks(keys: Iterable[str]) -> list[int]:
    """Return for each key the place of its first occurrence among the distinct ones."""
    seen: dict[str, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
