"""Which of a run's activations are kept in the store, and who computes them: all its workers."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graft.activations.cache import Activations, find
from graft.activations.compute import Computed
from graft.activations.cost import Budgets, Costs, Decision, Mode, Reads, decide
from graft.activations.fill import Done, Filled, Job, Naming, Wanted, fill, run_job
from graft.activations.key import BYTES, Dtype, backend_name
from graft.activations.measure import measure
from graft.backbones.model import TransferModel
from graft.backbones.trunk import TrunkChain
from graft.data.loader import training_shares
from graft.data.views import view_of_epoch
from graft.spec import Finetune
from graft.store import Store, cache_budget, cache_folder
from graft.training.events import Event, Keeping
from graft.training.loop import Data
from graft.training.plan import Plan
from graft.training.prepare import Assembly
from graft.training.ranks import Ranks

DTYPE: Dtype = "float32"
"""What is kept: with rounded activations the cache would change what is trained."""
SAMPLE = 8
"""Images that are decoded to find out what that costs."""

Kept = Callable[[str, int, int], Activations | None]
"""From split, view and freeze depth to activations that are kept."""


def nothing(split: str, view: int, depth: int) -> None:
    """Keep no activations."""


def naming_of(spec: Finetune, chain: TrunkChain, device: str) -> Naming:
    """Return how a run's activations are named."""
    return Naming(chain, spec.augment, DTYPE, backend_name(device))


def reads_of(spec: Finetune, plan: Plan, done: int) -> dict[int, Counter[tuple[str, int]]]:
    """Return how often a run reads each split and view, by freeze depth, after `done` epochs."""
    reads: dict[int, Counter[tuple[str, int]]] = {}
    if done == 0:
        reads[plan.depth(1)] = Counter({("val", 0): 1})
    for epoch in range(done, spec.train.epochs):
        at = reads.setdefault(plan.depth(epoch + 1), Counter())
        at["train", view_of_epoch(spec.augment, epoch)] += 1
        at["val", 0] += 1
    return reads


def keep_activations(
    store: Store,
    spec: Finetune,
    assembly: Assembly,
    chain: TrunkChain,
    data: Data,
    ranks: Ranks,
    done: int,
    post: Callable[[Event], object],
) -> Kept:
    """Decide, compute what is missing, and return what the loop reads instead of images.

    Args:
        store: where activations are kept.
        spec: the run's.
        assembly: its model on the worker's device, cut where the run begins.
        chain: of that model.
        data: the images.
        ranks: this worker among the others.
        done: finished epochs.
        post: told the decision, and how far the computing is, by the first worker.
    """
    naming = naming_of(spec, chain, ranks.device.type)
    wanted: list[Wanted] = []
    if ranks.rank == 0:
        wanted = _decided(store, spec, assembly, data, naming, done, post)
    wanted = ranks.from_first(wanted)
    if not wanted:
        return nothing
    kept = _fill_together(store, assembly, naming, data, ranks, wanted, post)
    return lambda split, view, depth: kept.get(Wanted(split, view, depth))


def _decided(
    store: Store,
    spec: Finetune,
    assembly: Assembly,
    data: Data,
    naming: Naming,
    done: int,
    post: Callable[[Event], object],
) -> list[Wanted]:
    """Return what a run keeps and reads."""
    if reason := spec.not_kept:
        if spec.cache != "off":
            post(Keeping(f"not cached: {reason}"))
        return []
    several = len(assembly.plan.depths) > 1

    def tell(depth: int, decision: Decision) -> None:
        at_depth = f"{depth} frozen stages: " if several else ""
        post(Keeping(at_depth + decision.reason))

    reads = reads_of(spec, assembly.plan, done)
    return worth_keeping(store, spec.cache, reads, assembly.model, data, naming, tell)


def worth_keeping(
    store: Store,
    mode: Mode,
    reads: Mapping[int, Mapping[tuple[str, int], int]],
    model: TransferModel,
    data: Data,
    naming: Naming,
    tell: Callable[[int, Decision], object],
) -> list[Wanted]:
    """Return the activations that are worth keeping; depths share the space that there is.

    Args:
        store: where they are, or will be.
        mode: `cache` of the spec.
        reads: by freeze depth, how often each split and view is read; decided in this order.
        model: frozen at least as deep as any of these; what it costs is measured here and now.
        data: the images.
        naming: the keys.
        tell: told what is decided for each depth.

    Raises:
        SpecError: `on`, where there is nothing to keep.
        ResourceError: `on`, and there is not enough space.
    """
    images = {"train": len(data.train), "val": len(data.val)}
    costs, budgets = costs_of(model, data), budgets_of(store)
    wanted = []
    for depth, times in reads.items():
        found = [
            Reads(split, view, images[split], count, _is_kept(store, data, naming, depth, at))
            for at, count in times.items()
            for split, view in (at,)
        ]
        decision = decide(mode, depth, found, costs.get(depth, Costs(0, 0.0, 0.0)), budgets)
        budgets = budgets.less(decision)
        tell(depth, decision)
        wanted += [Wanted(read.split, read.view, depth) for read in decision.keep]
    return wanted


def _is_kept(store: Store, data: Data, naming: Naming, depth: int, at: tuple[str, int]) -> bool:
    split, view = at
    return depth > 0 and find(store, data.dataset, split, naming.key(depth, view)) is not None


def costs_of(model: TransferModel, data: Data) -> dict[int, Costs]:
    """Return what one image costs by depth, measured here and now."""
    if model.depth == 0:
        return {}
    sample = data.train[:SAMPLE]
    share = training_shares(len(sample), SAMPLE, 0, 0, 0, 1)
    before = time.perf_counter()
    for _ in data.loader.batches(sample, share, view=0):
        pass
    decode_s = (time.perf_counter() - before) / len(sample)
    costs, seconds = {}, 0.0
    for depth, cost in enumerate(measure(model, data.preprocess.crop), 1):
        seconds += cost.seconds
        size = BYTES[DTYPE]
        for side in cost.shape:
            size *= side
        costs[depth] = Costs(size, seconds, decode_s)
    return costs


def budgets_of(store: Store) -> Budgets:
    """Return the space for activations: of a directory's disk, or of the node's copies."""
    if store.is_directory:
        free = shutil.disk_usage(store.uri).free if Path(store.uri).exists() else None
        return Budgets(store_bytes=free)
    folder = cache_folder()
    return Budgets(node_bytes=cache_budget(folder) if folder.exists() else None)


def _fill_together(
    store: Store,
    assembly: Assembly,
    naming: Naming,
    data: Data,
    ranks: Ranks,
    wanted: Sequence[Wanted],
    post: Callable[[Event], object],
) -> dict[Wanted, Activations]:
    """Fill what is missing, each worker computing its part of the jobs; open all of it."""

    def compute(jobs: Sequence[Job]) -> list[tuple[int, Computed]]:
        total = sum(len(job.images) for job in jobs)
        done = 0

        def progress(images: int) -> None:
            nonlocal done
            done += images * ranks.size
            if ranks.rank == 0:
                post(Keeping("computing activations", min(done, total), total))

        return [
            (number, _run(store, assembly.model, data, jobs[number], ranks, progress))
            for number in range(ranks.rank, len(jobs), ranks.size)
        ]

    def run(jobs: Sequence[Job], told: Done) -> None:
        """Run jobs on all workers; on the first one, which holds the claim."""
        ranks.from_first(list(jobs))
        for found in ranks.gather(compute(jobs)):
            for number, computed in found:
                told(jobs[number], computed)

    filled: Filled | None = None
    if ranks.rank == 0:
        each = max(len(data.train), len(data.val))
        filled = fill(store, data.dataset, naming, wanted, run, job_images=-(-each // ranks.size))
        ranks.from_first([])  # no more jobs
    else:
        while jobs := ranks.from_first(None):
            ranks.gather(compute(jobs))
    return filled.activations if filled else _opened(store, data, naming, wanted)


def _run(
    store: Store,
    model: TransferModel,
    data: Data,
    job: Job,
    ranks: Ranks,
    progress: Callable[[int], object],
) -> Computed:
    return run_job(
        store, model, data.loader, data.preprocess, job, device=ranks.device, progress=progress
    )


def _opened(
    store: Store, data: Data, naming: Naming, wanted: Sequence[Wanted]
) -> dict[Wanted, Activations]:
    opened = {}
    for item in wanted:
        found = find(store, data.dataset, item.split, naming.key(item.depth, item.view))
        if found is not None:
            opened[item] = found
    return opened
