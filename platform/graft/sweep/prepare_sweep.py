"""From a sweep's spec and the store to its plan: every trial's spec with nothing left open.

`spec.trial_spec` makes a trial's spec of the base, and `training.prepare_run.Resolver` resolves it
like a run's. Whoever trains or measures the trial later takes its spec from the plan.
"""

import itertools
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from graft.activations.key import BYTES, Dtype
from graft.backbones.flops import part_costs
from graft.backbones.process_setup import has_gpu, set_up_process
from graft.backbones.transfer_model import build, build_on_meta
from graft.cpus import available_cpus
from graft.data.image import decode
from graft.data.index import Image
from graft.data.loader import to_tensor
from graft.data.manifest import DatasetVersion, open_dataset
from graft.data.read_ahead import BLOCK_BYTES, RANGES_AT_ONCE
from graft.data.subset import choose_subset
from graft.data.views import render
from graft.errors import SpecError
from graft.spec import (
    Backbone,
    Changes,
    Choice,
    Finetune,
    Head,
    Preprocess,
    Range,
    Sweep,
    trial_spec,
)
from graft.spec.ranges import bounds, range_size
from graft.store import Store
from graft.store.requests import Requests, get_requests
from graft.sweep.space import changes_text, count_trials, listed_trials, values_of
from graft.sweep.sweep_plan import (
    Facts,
    Resolved,
    Splits,
    StageCost,
    SweepPlan,
    Throughput,
    check_budget,
    make_sweep_plan,
)
from graft.training.lanes import can_be_lane, lanes_at_once
from graft.training.metrics import TOP
from graft.training.prepare_run import Resolver
from graft.training.training_plan import make_training_plan

UNCHECKED = ("optimizer", "seed", "label_smoothing", "clip_norm")
"""Keys of `train` that `Resolver` does not look at."""
MEASURED = 32
"""Images that are decoded to measure how fast that is."""
BUCKET_BYTES = 32 << 20
"""What is read of a shard to measure how fast that is."""
TRUNK = ("backbone", "dataset", "preprocess", "head.replaces", "train.unfreeze")
"""Keys that decide which trunk a trial starts from."""


class TrialResolver:
    """Resolves the trials of one sweep, once for all that differ in rates and seeds alone."""

    def __init__(self, store: Store, base: Finetune, metric: str | None = None):
        """Compare all trials' epochs by `metric`; None: as `base` says."""
        self._resolver = Resolver(store)
        self._base = base
        self._metric = metric or base.train.metric
        self._cache: dict[str, tuple[Finetune, Facts]] = {}

    def resolve(self, changes: Changes) -> Resolved:
        """Return a trial's spec with nothing left open, and the facts that the plan needs.

        Raises:
            InputError: whatever would make the trial fail before its first step.
        """
        label = f"trial ({changes_text(changes)})"
        spec = trial_spec(self._base, changes, label)
        train = spec.train.model_copy(update={"metric": self._metric})
        spec = spec.model_copy(update={"train": train})
        key = str(spec.model_dump(mode="json", exclude={"train": set(UNCHECKED)}))
        if key not in self._cache:
            try:
                resolved = self._resolver.resolve(spec)
                self._cache[key] = (resolved, _facts(self._resolver.dataset(resolved), resolved))
            except SpecError as error:
                raise SpecError(f"{label}: {error}") from error
        resolved, facts = self._cache[key]
        return Resolved(changes, resolved.model_copy(update={"train": spec.train}), facts)


def prepare_sweep(
    store: Store, sweep: Sweep, throughput: Throughput | None = None
) -> tuple[Sweep, SweepPlan]:
    """Return the spec to record, its base with nothing left open, and the plan.

    `throughput` is what the forecast assumes; None: it is measured on this machine.

    Raises:
        InputError: whatever would make a trial fail before its first step.
    """
    _check_metric(store, sweep)
    resolver = TrialResolver(store, sweep.base, sweep.search.metric)
    listed = listed_trials(sweep)
    changes_of_all = _reachable(sweep) if listed is None else listed
    trials = [resolver.resolve(changes) for changes in changes_of_all]
    throughput = throughput or measure_throughput(store, trials[0])
    plan = make_sweep_plan(sweep, trials, throughput, 1 if listed else _view_sets(sweep))
    if has_gpu() or not sweep.base.scaling.gpus_per_worker:
        check_budget(sweep, plan)  # a forecast for CPUs says nothing of GPUs elsewhere
    return sweep.model_copy(update={"base": _recorded(sweep, trials[0].spec)}), plan


def measure_throughput(store: Store, trial: Resolved) -> Throughput:
    """Measure what this machine does in a second, with a trial's network and images.

    It takes a few images, on all cores, or on a GPU if the spec asks for one and there is one: a
    second or two, and longer for a large network's first pass. On a busy machine the result is too
    low.
    """
    spec, cores = trial.spec, available_cpus()
    dataset = open_dataset(store, spec.dataset.name, spec.dataset.version)
    preprocess = spec.preprocess or Preprocess()
    classes = len(dataset.manifest.classes)
    if spec.scaling.gpus_per_worker and has_gpu():
        # In a process that ends: this one's context would stay on the GPU while trials train there.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            images_s = process.submit(_trunk_speed_on_gpu, spec, classes, cores).result()
    else:
        images_s = _trunk_speed(spec, classes, torch.device("cpu"))
    images = dataset.images("train").of_first_shard(MEASURED)

    def prepare(image: Image) -> None:
        pixels = render(decode(dataset.read(image)), image.sha256, 1, preprocess, spec.augment)
        to_tensor(np.array(pixels)[None], preprocess)  # a batch is a copy, too

    prepare(images[0])  # opens the shard
    with ThreadPoolExecutor(cores) as pool:
        before = time.perf_counter()
        list(pool.map(prepare, images))
        spent = time.perf_counter() - before
    gflops = sum(stage.gflops for stage in trial.facts.stages)
    bucket = None if store.is_directory else _bucket_speed(dataset)
    return Throughput(gflops=gflops * images_s, images=len(images) / spent, bucket_bytes=bucket)


def _bucket_speed(dataset: DatasetVersion) -> float:
    """Return how many bytes of a shard are read from the bucket in a second."""
    shard = dataset.manifest.all_shards[0]
    size = min(shard.ref.size, BUCKET_BYTES)

    def read(start: int) -> int:
        return len(dataset.store.read_range(shard.key, start, min(BLOCK_BYTES, size - start)))

    with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
        before = time.perf_counter()
        read_bytes = sum(pool.map(read, range(0, size, BLOCK_BYTES)))
        return read_bytes / (time.perf_counter() - before)


def _trunk_speed_on_gpu(spec: Finetune, classes: int, cpus: int) -> float:
    return _trunk_speed(spec, classes, set_up_process(cpus, gpus=1))


def _trunk_speed(spec: Finetune, classes: int, device: torch.device) -> float:
    """Return how many images a second pass through all stages of a spec's backbone."""
    crop = (spec.preprocess or Preprocess()).crop
    backbone = Backbone(arch=spec.backbone.arch, weights="none", freeze="all")
    model = build(backbone, spec.head, classes, crop).eval().to(device)
    x = torch.zeros(MEASURED // 4, crop, crop, 3).permute(0, 3, 1, 2).to(device)
    model.trunk(x).sum().item()
    passes: list[float] = []
    # The fastest of a few counts: other work on the machine only makes them slower.
    while len(passes) < 5 and sum(passes) < 1:
        before = time.perf_counter()
        model.trunk(x).sum().item()  # a GPU is done when the number is here
        passes.append(time.perf_counter() - before)
    return len(x) / min(passes)


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
    """Return a trial for each trunk that a space can reach, with the most epochs."""
    rows = itertools.product(*(_reaching(key, values) for key, values in sweep.space.items()))
    return [dict(zip(sweep.space, row, strict=True)) for row in rows]


def _reaching(key: str, values: Range) -> Sequence[JsonValue]:
    """Return the values of a key that lead to different trunks, or one value where none do."""
    if key == "train.epochs" and isinstance(values, Choice):
        return [max(value for value in values.choice if isinstance(value, int))]
    if key == "train.epochs":
        return [int(bounds(values)[1])]
    if (key.startswith(TRUNK) or key in ("head", "train")) and range_size(values):
        return values_of(values)
    return [values.choice[0] if isinstance(values, Choice) else bounds(values)[0]]


def _view_sets(sweep: Sweep) -> int:
    """Return the largest number of different sets of augmented views that a space can reach."""
    trials = count_trials(sweep)
    sizes = [
        range_size(values) or trials
        for key, values in sweep.space.items()
        if key == "augment" or (key.startswith("augment.") and key != "augment.views")
    ]
    return min(trials, math.prod(sizes))


def _recorded(sweep: Sweep, first: Finetune) -> Finetune:
    """Return the base; the keys that no trial changes are resolved, as in the first trial."""
    base, update = sweep.base, dict[str, Any]()
    if not _varies(sweep, "dataset"):
        update["dataset"] = first.dataset
    if not _varies(sweep, "backbone", "arch", "weights", "weights_sha256"):
        weights = {name: getattr(first.backbone, name) for name in ("weights", "weights_sha256")}
        update["backbone"] = base.backbone.model_copy(update=weights)
        if not _varies(sweep, "preprocess"):
            update["preprocess"] = first.preprocess
    return base.model_copy(update=update)


def _varies(sweep: Sweep, section: str, *names: str) -> bool:
    """Whether trials differ in a section; where `names` are given, in one of these keys of it."""
    return any(
        key == section
        or (key.startswith(f"{section}.") and (not names or key.split(".")[1] in names))
        for key in sweep.varied
    )


def _facts(dataset: DatasetVersion, spec: Finetune) -> Facts:
    """Return the facts on a resolved spec that the plan needs."""
    subset = choose_subset(dataset, spec.dataset)
    classes, crop = len(dataset.manifest.classes), (spec.preprocess or Preprocess()).crop
    model = build_on_meta(spec.backbone, spec.head, classes, crop)
    depth = make_training_plan(model, spec.backbone, spec.train).always_frozen
    *stages, head = _costs(spec.backbone.arch, spec.head, classes, crop, spec.cache_dtype)
    return Facts(
        train=len(subset.train),
        val=len(subset.val),
        stages=tuple(stages),
        head_gflops=head.gflops,
        depth=depth,
        lanes=lanes_at_once(model) if depth == len(stages) and can_be_lane(spec.train) else 0,
        splits=_splits(dataset, subset.val_split),
    )


def _splits(dataset: DatasetVersion, val_split: str) -> Splits:
    """Return the splits that trials read from, and what reading them once takes."""
    train = len(dataset.images("train"))
    val = len(dataset.images("val")) if val_split == "val" else 0
    if dataset.store.is_directory:
        return Splits(train, val)
    share = (train + val) / dataset.manifest.images  # they lie together
    sizes = [shard.ref.size for shard in dataset.manifest.all_shards]
    if dataset.fits_node:
        gets = sum(get_requests(size) for size in sizes)
    else:
        gets = sum(math.ceil(size / BLOCK_BYTES) for size in sizes)
    return Splits(train, val, Requests(reads=math.ceil(share * gets)), round(share * sum(sizes)))


@cache
def _costs(arch: str, head: Head, classes: int, crop: int, dtype: Dtype) -> tuple[StageCost, ...]:
    """Return what one image costs in every stage and, last, in the head."""
    backbone = Backbone(arch=arch, weights="none", freeze=0)
    parts = part_costs(build_on_meta(backbone, head, classes, crop), crop)
    return tuple(StageCost(part.name, part.gflops, BYTES[dtype] * part.numbers) for part in parts)
