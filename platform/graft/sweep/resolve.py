"""From a sweep's spec and the store to its plan: every trial's spec with nothing left open."""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from pydantic import JsonValue
from torch.utils.flop_counter import FlopCounterMode

from graft.activations.key import BYTES, Dtype
from graft.backbones.model import Steps, build, build_on_meta
from graft.data.budget import choose_images
from graft.data.image import decode
from graft.data.manifest import Image, open_dataset
from graft.data.views import render
from graft.errors import SpecError
from graft.spec import (
    Backbone,
    Choice,
    Finetune,
    Head,
    Preprocess,
    Sweep,
    UniformRates,
    trial_spec,
)
from graft.store import Store
from graft.sweep.plan import Facts, Plan, Resolved, StageCost, Throughput, check_budget, make_plan
from graft.sweep.space import (
    Changes,
    bounds,
    count_trials,
    describe,
    known_trials,
    size,
    values_of,
)
from graft.training.lanes import laned, lanes_at_once
from graft.training.metrics import TOP
from graft.training.plan import make_plan as plan_training
from graft.training.prepare import resolve

UNCHECKED = ("optimizer", "seed", "label_smoothing", "clip_norm")
"""Keys of `train` that no check of a run's preparation looks at."""
MEASURED = 32
"""Images that are decoded to find out how fast that is."""
TRUNK = ("backbone", "dataset", "preprocess", "head.replaces", "train.unfreeze")
"""Keys that decide which trunk a trial starts from."""


class Resolver:
    """Resolves trials of one sweep; prepares a run once for all that differ in rates and seeds."""

    def __init__(self, store: Store, base: Finetune):
        self._store = store
        self._base = base
        self._known: dict[str, tuple[Finetune, Facts]] = {}

    def __call__(self, changes: Changes) -> Resolved:
        """Return a trial's spec with nothing left open, and what the plan has to know of it.

        Raises:
            InputError: whatever would make the trial fail before its first step.
        """
        where = f"trial ({describe(changes)})"
        spec = trial_spec(self._base, changes, where)
        if spec.backbone.freeze == "all" and "backbone.freeze" in changes:
            # Rates by stage are there for the trials that freeze less.
            uniform = spec.train.model_copy(update={"rates": UniformRates()})
            spec = spec.model_copy(update={"train": uniform})
        document = spec.model_dump(mode="json", exclude={"train": set(UNCHECKED)})
        key = str(document)
        if key not in self._known:
            try:
                resolved = resolve(self._store, spec)
                self._known[key] = (resolved, _facts(self._store, resolved))
            except SpecError as error:
                raise SpecError(f"{where}: {error}") from error
        resolved, facts = self._known[key]
        return Resolved(changes, resolved.model_copy(update={"train": spec.train}), facts)


def prepare_sweep(
    store: Store, sweep: Sweep, throughput: Throughput | None = None
) -> tuple[Sweep, Plan]:
    """Return the spec to record, its base with nothing left open, and the plan.

    `throughput` is what the forecast assumes; None: what this machine is measured to do.

    Raises:
        InputError: whatever would make a trial fail before its first step.
    """
    _check_metric(store, sweep)
    resolver = Resolver(store, sweep.base)
    changes = known_trials(sweep)
    found = [resolver(one) for one in (_reachable(sweep) if changes is None else changes)]
    throughput = throughput or measure_throughput(store, found[0])
    plan = make_plan(sweep, found, throughput, 1 if changes else _view_sets(sweep))
    if has_gpu() or not sweep.base.scaling.gpus_per_worker:
        check_budget(sweep, plan)  # a forecast for CPUs says nothing of GPUs elsewhere
    return sweep.model_copy(update={"base": _recorded(sweep, found[0].spec)}), plan


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch can use."""
    return torch.cuda.is_available()


def measure_throughput(store: Store, trial: Resolved) -> Throughput:
    """Measure what this machine does in a second, with a trial's network and images.

    A few images, on all cores, or on a GPU where the spec asks for them and there is one: a
    second or two, a large network's first pass apart. On a busy machine it comes out low.
    """
    spec = trial.spec
    dataset = open_dataset(store, spec.dataset.name, spec.dataset.version)
    preprocess = spec.preprocess or Preprocess()
    backbone = Backbone(arch=spec.backbone.arch, weights="none", freeze="all")
    model = build(backbone, spec.head, len(dataset.manifest.classes), preprocess.crop).eval()
    device = torch.device("cuda" if spec.scaling.gpus_per_worker and has_gpu() else "cpu")
    model.to(device)
    x = torch.zeros(MEASURED // 4, preprocess.crop, preprocess.crop, 3).permute(0, 3, 1, 2)
    x = x.to(device)
    model.trunk(x).sum().item()
    passes: list[float] = []
    # The fastest of a few: whatever else runs only makes them slower.
    while len(passes) < 5 and sum(passes) < 1:
        before = time.perf_counter()
        model.trunk(x).sum().item()  # a GPU is done when the number is here
        passes.append(time.perf_counter() - before)
    images = dataset.images("train")[:MEASURED]
    cores = len(os.sched_getaffinity(0))

    def prepare(image: Image) -> None:
        render(decode(dataset.read(image)), image.sha256, 1, preprocess, spec.augment)

    prepare(images[0])  # opens the shard
    with ThreadPoolExecutor(cores) as pool:
        before = time.perf_counter()
        list(pool.map(prepare, images))
        spent = time.perf_counter() - before
    gflops = sum(stage.gflops for stage in trial.facts.stages)
    return Throughput(gflops=gflops * len(x) / min(passes), images=len(images) / spent)


def _check_metric(store: Store, sweep: Sweep) -> None:
    dataset = sweep.base.dataset
    if sweep.search.metric != "val.top5_accuracy" or _varies(sweep, "dataset"):
        return
    classes = open_dataset(store, dataset.name, dataset.version).manifest.classes
    if len(classes) <= TOP:
        raise SpecError(
            f"search.metric: val.top5_accuracy needs more than {TOP} classes; "
            f"'{dataset.name}' has {len(classes)}"
        )


def _reachable(sweep: Sweep) -> list[Changes]:
    """Return a trial for each trunk that a space can reach, at its most epochs."""
    found: dict[str, list[JsonValue]] = {}
    for key, values in sweep.space.items():
        reaches = key.startswith(TRUNK) or key in ("head", "train")
        if key == "train.epochs" and isinstance(values, Choice):
            found[key] = [max(value for value in values.choice if isinstance(value, int))]
        elif key == "train.epochs":
            found[key] = [int(bounds(values)[1])]
        elif reaches and size(values):
            found[key] = values_of(values)
        else:
            found[key] = [values.choice[0] if isinstance(values, Choice) else bounds(values)[0]]
    rows: list[Changes] = [{}]
    for key, some in found.items():
        rows = [row | {key: value} for row in rows for value in some]
    return rows


def _view_sets(sweep: Sweep) -> int:
    """Return how many different sets of augmented views a space can reach, at most."""
    trials = count_trials(sweep)
    sizes = [
        size(values) or trials
        for key, values in sweep.space.items()
        if key == "augment" or (key.startswith("augment.") and key != "augment.views")
    ]
    return min(trials, math.prod(sizes))


def _recorded(sweep: Sweep, first: Finetune) -> Finetune:
    """Return the base with what all trials share resolved, as the first of them has it."""
    base, update = sweep.base, dict[str, Any]()
    if not _varies(sweep, "dataset"):
        update["dataset"] = first.dataset
    if not _varies(sweep, "backbone", "arch", "weights", "weights_sha256"):
        same = {"weights": first.backbone.weights, "weights_sha256": first.backbone.weights_sha256}
        update["backbone"] = base.backbone.model_copy(update=same)
        if not _varies(sweep, "preprocess"):
            update["preprocess"] = first.preprocess
    return base.model_copy(update=update)


def _varies(sweep: Sweep, section: str, *names: str) -> bool:
    """Whether a space has a section, or one of its keys; of `names`, where there are any."""
    return any(
        key == section
        or (key.startswith(f"{section}.") and (not names or key.split(".")[1] in names))
        for key in sweep.varied
    )


def _facts(store: Store, spec: Finetune) -> Facts:
    """Return what the plan has to know of a resolved spec."""
    dataset = open_dataset(store, spec.dataset.name, spec.dataset.version)
    chosen = choose_images(dataset, spec.dataset)
    classes, crop = len(dataset.manifest.classes), (spec.preprocess or Preprocess()).crop
    model = build_on_meta(spec.backbone, spec.head, classes, crop)
    depths = plan_training(model, spec.backbone, spec.train).depths
    stages, head_gflops = _costs(spec.backbone.arch, spec.head, classes, crop, spec.cache_dtype)
    return Facts(
        train=len(chosen.train),
        val=len(chosen.val),
        stages=stages,
        head_gflops=head_gflops,
        depth=depths[-1][1],
        lanes=lanes_at_once(model) if depths[-1][1] == len(stages) and laned(spec.train) else 0,
    )


@cache
def _costs(
    arch: str, head: Head, classes: int, crop: int, dtype: Dtype
) -> tuple[tuple[StageCost, ...], float]:
    """Return what one image costs in every stage, and GFLOPs of the head; without memory."""
    backbone = Backbone(arch=arch, weights="none", freeze=0)
    model = build_on_meta(backbone, head, classes, crop).eval()
    x = torch.empty(1, 3, crop, crop, device="meta")
    costs = []
    named = [(stage.name, stage.steps) for stage in model.stages.stages]
    for name, steps in (*named, ("head", model.stages.head)):
        part = Steps(model.network, steps).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            x = part(x)
        gflops = counter.get_total_flops() / 2e9
        costs.append(StageCost(name, gflops, BYTES[dtype] * math.prod(x.shape[1:])))
    return tuple(costs[:-1]), costs[-1].gflops
