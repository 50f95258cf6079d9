"""The plan of a sweep: the order of its trials, what they share, and what it costs; pure.

Nothing here reads the store or computes with tensors: `sweep.prepare_sweep` gathers the facts.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.activations.division import fill_requests
from graft.errors import SpecError
from graft.spec import Changes, Finetune, Ref, Section, StandardAugment, Sweep
from graft.store.requests import Requests
from graft.sweep.space import count_trials

BACKWARD = 2
"""Cost of a backward pass, in forward passes."""
DECIDING = Requests(writes=2, reads=2)
"""What is asked of a bucket for each view of a split, to decide whether to cache it."""
BATCHED = ("lr", "weight_decay")
"""Keys of `train.optimizer` that trials of one batch may differ in. They may not differ in the
seed, since lanes see the same images in the same order."""


@dataclass(frozen=True)
class StageCost:
    """Cost of one image in a stage."""

    name: str
    gflops: float
    """Billions of multiply-adds of a forward pass."""
    bytes: int
    """Bytes of the cached activations after the stage."""


@dataclass(frozen=True)
class Splits:
    """The splits of which a trial's images are a part, whole, as the cache has their activations.

    Of these splits' images; where both are of one split, the second has none.
    """

    train: int
    """Number of images where the trial's training images are from."""
    val: int
    """The same of validation."""
    reading: Requests | None = None
    """What it takes to read all of them once; None: the store is a directory."""
    bytes: int = 0
    """Bytes that are read."""


@dataclass(frozen=True)
class Facts:
    """What the plan needs to know of a trial beyond its spec."""

    train: int
    """Number of training images."""
    val: int
    """Number of validation images."""
    stages: tuple[StageCost, ...]
    head_gflops: float
    """Billions of multiply-adds of the head's forward pass, for one image."""
    depth: int
    """Number of stages that are frozen in every epoch."""
    lanes: int
    """How many such trials can be trained as one computation (`training.lanes`); 0: this
    one cannot."""
    splits: Splits

    @property
    def trunk_gflops(self) -> float:
        """Billions of multiply-adds of one image's forward pass through the trunk."""
        return sum(stage.gflops for stage in self.stages[: self.depth])

    @property
    def tail_gflops(self) -> float:
        """Billions of multiply-adds of one image's forward pass through the tail."""
        return sum(stage.gflops for stage in self.stages[self.depth :]) + self.head_gflops


@dataclass(frozen=True)
class Resolved:
    """A trial's spec with nothing left open, and its facts."""

    changes: Changes
    spec: Finetune
    facts: Facts


class Throughput(Section):
    """Speed of the machines that run a sweep, all of them together."""

    gflops: float
    """Billions of multiply-adds in a second."""
    images: float
    """Images decoded and preprocessed in a second."""
    bucket_bytes: float | None = None
    """Bytes of images that are read from the store's bucket in a second, by all threads that
    decode, and taken for what is written, too; null: not measured, or a directory."""


TWO_CORES = Throughput(gflops=60.0, images=340.0)
"""Measured once on 2 CPU cores: SqueezeNet 1.1 forward at 224 pixels, and JPEGs of 500 x 400."""


class Trial(Section):
    """A trial of a sweep."""

    number: int
    """From 1, in running order."""
    id: str
    """Beginning of a hash over every part of the spec that changes what is trained."""
    changes: Changes
    """Values by dotted key of the sweep's base."""
    spec: Finetune
    """With nothing left open."""
    trunk: int | None
    """Number of the trunk whose cached activations it reads; null: it reads none."""


class PlannedTrunk(Section):
    """A trunk (the frozen stages of a backbone), and its activations that the sweep needs."""

    number: int
    """From 1; a trunk is computed after its parent."""
    dataset: Ref
    """NAME@VERSION."""
    arch: str
    weights: str
    depth: int
    """Number of stages."""
    through: str
    """Name of the last stage."""
    gflops: float
    """Billions of multiply-adds of one image's forward pass through the whole trunk."""
    parent: int | None
    """Number of the shallower trunk whose activations are its input; null: images are."""
    images: int
    """Views of images that go through it: one of each validation image, and all those of each
    training image."""
    bytes: int
    """Bytes of all these activations."""
    seconds: float
    """Forecast of the time to compute and write them."""
    writes: int = 0
    """Forecast of the PUT, POST and LIST requests to the store's bucket."""
    reads: int = 0
    """Forecast of the GET requests; each further node that trains reads all of their bytes once,
    in requests of 16 MiB."""
    trials: tuple[int, ...]
    """Numbers of the trials that read them; empty where the plan lists no trials."""


class SweepPlan(Section):
    """What a sweep is going to do: ``plan.json``."""

    count: int
    """Number of trials."""
    trials: tuple[Trial, ...]
    """In running order; empty where the search finds trials as it goes. In that case the rest of
    the plan covers all that the space can reach, and costs are upper bounds."""
    trunks: tuple[PlannedTrunk, ...]
    batches: tuple[tuple[int, ...], ...]
    """Numbers of the trials that are trained as one computation, several in each batch: they
    train the head alone, and differ in nothing but learning rate and weight decay."""
    throughput: Throughput
    """The speed that the forecast assumes."""
    cached_s: float
    """Forecast of the whole sweep in seconds, with every trunk computed once; trials that a
    scheduler stops early take less."""
    uncached_s: float
    """The same without a cache: every trial decodes all images and runs its trunk in every
    epoch."""
    trial_s: float
    """Forecast of the shortest trial alone in seconds, cached or not."""

    @property
    def bytes(self) -> int:
        """Bytes of all activations to cache."""
        return sum(trunk.bytes for trunk in self.trunks)

    @property
    def requests(self) -> Requests:
        """Requests to the store's bucket that caching them takes."""
        return sum((Requests(trunk.writes, trunk.reads) for trunk in self.trunks), Requests())

    def trial(self, number: int) -> Trial:
        """Return the trial with a number, from 1."""
        return self.trials[number - 1]


@dataclass(frozen=True)
class Cost:
    """An amount of work: images to decode, and billions of multiply-adds, and bytes to move."""

    images: float
    gflops: float
    bytes: float = 0.0
    """Read from the store's bucket or written into it."""

    def seconds(self, throughput: Throughput) -> float:
        """Return how long the work takes: images / (images/s) + GFLOP / (GFLOP/s).

        Bytes move meanwhile: they count where they take longer.
        """
        busy_s = self.images / throughput.images + self.gflops / throughput.gflops
        return max(busy_s, self.bytes / (throughput.bucket_bytes or math.inf))


def trial_cost(spec: Finetune, facts: Facts, cached: bool) -> Cost:
    """Return the cost of a trial.

    With E epochs, T training images, V validation images, and GFLOPs per image of trunk and tail,
    where validation also happens before the first epoch::

        uncached  (E T + (E + 1) V) decoded;  E T (trunk + 3 tail) + (E + 1) V (trunk + tail)
        cached                                E T (3 tail)         + (E + 1) V tail

    With gradual unfreezing, the trunk is what stays frozen to the end. `cached` has no effect on
    a trial that can read no cached activations.
    """
    train = spec.train.epochs * facts.train
    val = (spec.train.epochs + 1) * facts.val
    gflops = facts.tail_gflops * ((1 + BACKWARD) * train + val)
    if cached and can_cache(spec, facts):
        return Cost(0, gflops)
    return Cost(train + val, gflops + facts.trunk_gflops * (train + val))


def can_cache(spec: Finetune, facts: Facts) -> bool:
    """Whether a trial can read cached activations."""
    return facts.depth > 0 and spec.cache_refusal is None


def make_sweep_plan(
    sweep: Sweep, trials: Sequence[Resolved], throughput: Throughput, view_sets: int = 1
) -> SweepPlan:
    """Return the plan of a sweep.

    Args:
        sweep: the spec.
        trials: all trials, in the search's order; or, where the search finds trials as it goes,
            one for each trunk that the space can reach.
        throughput: speed of the machines that run the sweep.
        view_sets: how many different sets of augmented views, at most, each of `trials` stands
            for.
    """
    listed = sweep.search.kind in ("grid", "random", "list")
    ordered = _ordered(trials)
    trunks = _trunks(ordered, throughput, view_sets)
    trunk_of = {number: trunk.number for trunk in trunks for number in trunk.trials}

    def seconds(cached: bool) -> list[float]:
        return [trial_cost(t.spec, t.facts, cached).seconds(throughput) for t in ordered]

    count = count_trials(sweep)
    cached, uncached = seconds(True), seconds(False)
    uncached_s = sum(uncached) if listed else count * max(uncached)
    cached_s = sum(trunk.seconds for trunk in trunks)
    cached_s += sum(cached) if listed else count * max(cached)
    shortest_s = min(cached) + min((trunk.seconds for trunk in trunks), default=0.0)
    plan = SweepPlan(
        count=count,
        trials=tuple(
            Trial(
                number=number,
                id=trial_id(trial.spec),
                changes=trial.changes,
                spec=trial.spec,
                trunk=trunk_of.get(number),
            )
            for number, trial in enumerate(ordered, 1)
        ),
        trunks=trunks,
        batches=tuple(_batches(ordered)) if _allows_batches(sweep) else (),
        throughput=throughput,
        cached_s=cached_s,
        uncached_s=uncached_s,
        trial_s=min(*uncached, shortest_s),
    )
    if listed:
        return plan
    return plan.model_copy(
        update={
            "trials": (),
            "trunks": tuple(trunk.model_copy(update={"trials": ()}) for trunk in trunks),
            "batches": (),
            # Of the bounds, the lower one holds: what does not pay is not cached.
            "cached_s": min(cached_s, uncached_s),
        }
    )


def check_budget(sweep: Sweep, plan: SweepPlan) -> None:
    """Refuse a time budget that no trial fits into.

    Raises:
        SpecError: the forecast of the shortest trial is more than twice the budget; a forecast
            is not exact enough to refuse any more.
    """
    budget = sweep.budget.wall_time_s
    if budget is not None and 2 * budget < plan.trial_s:
        raise SpecError(
            f"budget.wall_time_s ({budget:g}) is too small for one trial, which takes about "
            f"{plan.trial_s:.3g} s here; raise it, or lower base.train.epochs"
        )


def trial_id(spec: Finetune) -> str:
    """Return an id of what a spec trains: specs that train the same have the same id."""
    document = spec.model_dump(mode="json", by_alias=True)
    for key in ("name", "cache", "loader", "register"):
        del document[key]
    document["train"].pop("checkpoint", None)  # at its default it is left out
    return hashlib.sha256(_canonical(document).encode()).hexdigest()[:12]


def trunk_family(spec: Finetune) -> str:
    """Return what decides a trunk, but for its depth; and the pixels of validation's view."""
    backbone = spec.backbone
    return _canonical(
        [
            [spec.dataset.name, spec.dataset.version],
            spec.train.seed if backbone.weights == "none" else None,  # it draws the weights
            [backbone.arch, backbone.weights, backbone.weights_sha256, spec.head.replaces],
            spec.cache_dtype,
            spec.preprocess.model_dump(mode="json") if spec.preprocess else None,
        ]
    )


def _ordered(trials: Sequence[Resolved]) -> list[Resolved]:
    """Return trials in running order: those with the same trunk together, shallow trunks first."""
    families = _ranks(trunk_family(trial.spec) for trial in trials)
    augments = _ranks(_pixels(trial.spec) for trial in trials)
    batches = _ranks(_unbatched(trial.spec) for trial in trials)
    keys = [
        (family, trial.facts.depth, augment, batch, place)
        for place, (family, trial, augment, batch) in enumerate(
            zip(families, trials, augments, batches, strict=True)
        )
    ]
    return [trials[key[-1]] for key in sorted(keys)]


@dataclass(frozen=True)
class _Parent:
    """The deepest trunk so far of a family; the next deeper one starts from its activations."""

    number: int
    gflops: float
    views: Mapping[str, int]
    """Number of views of each training image, by what makes their pixels."""


def _trunks(
    ordered: Sequence[Resolved], throughput: Throughput, view_sets: int
) -> tuple[PlannedTrunk, ...]:
    """Return the distinct trunks of trials, which are numbered from 1 as they are ordered."""
    members: dict[tuple[str, int], list[int]] = {}
    for number, trial in enumerate(ordered, 1):
        if can_cache(trial.spec, trial.facts):
            members.setdefault((trunk_family(trial.spec), trial.facts.depth), []).append(number)
    trunks: list[PlannedTrunk] = []
    parents: dict[str, _Parent] = {}
    for (family, depth), numbers in members.items():
        trials = [ordered[number - 1] for number in numbers]
        spec, facts = trials[0].spec, trials[0].facts
        views: dict[str, int] = {}
        for trial in trials:
            pixels = _pixels(trial.spec)
            views[pixels] = max(views.get(pixels, 0), _count_views(trial.spec))
        splits, row = facts.splits, facts.stages[depth - 1].bytes
        train_views = view_sets * sum(views.values())
        images = splits.val + train_views * splits.train
        parent, shared, shared_gflops = parents.get(family), 0, 0.0
        if parent:
            common = sum(min(count, parent.views.get(name, 0)) for name, count in views.items())
            shared = splits.val + view_sets * splits.train * common
            shared_gflops = shared * parent.gflops
        decoded = images - shared
        requests = _requests(
            splits, train_views, row, 0 if parent else depth - 1, is_decoded=decoded > 0
        )
        moved = images * row + (splits.bytes if decoded else 0)
        cost = Cost(decoded, images * facts.trunk_gflops - shared_gflops, moved)
        trunk = PlannedTrunk(
            number=len(trunks) + 1,
            dataset=f"{spec.dataset.name}@{spec.dataset.version}",
            arch=spec.backbone.arch,
            weights=spec.backbone.weights,
            depth=depth,
            through=facts.stages[depth - 1].name,
            gflops=facts.trunk_gflops,
            parent=parent.number if parent else None,
            images=images,
            bytes=images * row,
            seconds=cost.seconds(throughput),
            writes=requests.writes,
            reads=requests.reads,
            trials=tuple(numbers),
        )
        trunks.append(trunk)
        parents[family] = _Parent(trunk.number, trunk.gflops, views)
    return tuple(trunks)


def _requests(
    splits: Splits, train_views: int, row_bytes: int, shallower: int, is_decoded: bool
) -> Requests:
    """Return the requests to a bucket that it takes to cache activations at one depth."""
    if splits.reading is None:
        return Requests()
    requests = splits.reading if is_decoded else Requests()
    for count in [splits.train] * train_views + [splits.val]:
        requests += fill_requests(count, row_bytes, shallower) + DECIDING
    return requests


def _allows_batches(sweep: Sweep) -> bool:
    """Whether a sweep may train several heads as one computation."""
    return sweep.scheduler.kind != "pbt" and sweep.base.scaling.workers == 1


def _batches(ordered: Sequence[Resolved]) -> Iterable[tuple[int, ...]]:
    """Yield the numbers of trials that can be trained as one computation, batch by batch."""
    alike: dict[tuple[str, int], list[int]] = {}
    for number, trial in enumerate(ordered, 1):
        if trial.facts.lanes:
            alike.setdefault((_unbatched(trial.spec), trial.facts.lanes), []).append(number)
    for (_, lanes), numbers in alike.items():
        batches = [numbers[i : i + lanes] for i in range(0, len(numbers), lanes)]
        yield from (tuple(batch) for batch in batches if len(batch) > 1)


def _unbatched(spec: Finetune) -> str:
    """Return all of a spec but `BATCHED`: what trials of one batch have in common."""
    document = spec.model_dump(mode="json", by_alias=True)
    for name in BATCHED:
        del document["train"]["optimizer"][name]
    return _canonical(document)


def _pixels(spec: Finetune) -> str:
    """Return what decides the pixels of training's views, whatever their number."""
    document = spec.augment.model_dump(mode="json")
    document.pop("views", None)
    return _canonical(document)


def _count_views(spec: Finetune) -> int:
    """Return how many views of each training image a trial sees; without augmentation it is 1."""
    augment, epochs = spec.augment, spec.train.epochs
    if not isinstance(augment, StandardAugment):
        return 1
    return epochs if augment.views == "live" else min(augment.views, epochs)


def _ranks(keys: Iterable[str]) -> list[int]:
    """Return a number for each key: equal keys have the same, in order of first occurrence."""
    ranks: dict[str, int] = {}
    return [ranks.setdefault(key, len(ranks)) for key in keys]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
