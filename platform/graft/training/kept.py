"""Which of a run's activations are kept in the store, and who computes them: all its workers."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graft.activations.cache import Activations, find
from graft.activations.compute import BATCH_SIZE, Computed
from graft.activations.cost import Budgets, Costs, Decision, Mode, Reads, decide
from graft.activations.fill import (
    JOB_IMAGES,
    Done,
    Filled,
    Job,
    Naming,
    Wanted,
    fill,
    run_job,
)
from graft.activations.index import missing
from graft.activations.key import BYTES, Dtype, backend_name
from graft.activations.measure import measure
from graft.backbones.model import TransferModel
from graft.backbones.trunk import TrunkChain
from graft.data.budget import choose_images
from graft.data.loader import training_shares
from graft.data.manifest import DatasetVersion
from graft.data.views import view_of_epoch
from graft.spec import Finetune
from graft.store import Store, cache_folder, cache_room, gigabytes
from graft.training.events import Event, Keeping
from graft.training.loop import Data
from graft.training.plan import Plan
from graft.training.prepare import Assembly
from graft.training.ranks import Ranks

ROUND_IMAGES = 256
"""Images of a worker's job where several compute together: minutes, even of a large network."""
SAMPLE = 8
"""Images that are decoded to find out what that costs."""

Kept = Callable[[str, int, int], Activations | None]
"""From split, view and freeze depth to activations that are kept."""


def nothing(split: str, view: int, depth: int) -> None:
    """Keep no activations."""


def naming_of(spec: Finetune, chain: TrunkChain, device: str) -> Naming:
    """Return how a run's activations are named."""
    return Naming(chain, spec.augment, spec.cache_dtype, backend_name(device))


ReadCounts = dict[int, defaultdict[tuple[str, int], float]]
"""By freeze depth, how often each split and view is read; 0.5: half of its images, once."""


def reads_of(spec: Finetune, dataset: DatasetVersion, plan: Plan, done: int) -> ReadCounts:
    """Return how often a run reads each split and view, by freeze depth, after `done` epochs."""
    chosen = choose_images(dataset, spec.dataset)
    train = len(chosen.train) / len(dataset.images("train"))
    val = len(chosen.val) / max(1, len(dataset.images(chosen.val_split)))
    reads: ReadCounts = {}
    if done == 0:
        reads.setdefault(plan.depth(1), defaultdict(float))[chosen.val_split, 0] += val
    for epoch in range(done, spec.train.epochs):
        at = reads.setdefault(plan.depth(epoch + 1), defaultdict(float))
        at["train", view_of_epoch(spec.augment, epoch)] += train
        at[chosen.val_split, 0] += val
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

    reads = reads_of(spec, data.dataset, assembly.plan, done)
    return worth_keeping(store, spec.cache, reads, assembly.model, data, naming, tell)


def worth_keeping(
    store: Store,
    mode: Mode,
    reads: Mapping[int, Mapping[tuple[str, int], float]],
    model: TransferModel,
    data: Data,
    naming: Naming,
    tell: Callable[[int, Decision], object],
) -> list[Wanted]:
    """Return the activations that are worth keeping; depths share the space that there is.

    Args:
        store: where they are, or will be.
        mode: `cache` of the spec.
        reads: as `reads_of` returns them; decided in this order.
        model: frozen at least as deep as any of these; what it costs is measured here and now.
        data: the images.
        naming: the keys.
        tell: told what is decided for each depth.

    Raises:
        SpecError: `on`, where there is nothing to keep.
        ResourceError: `on`, and there is not enough space.
    """
    costs, budgets = costs_of(model, data, naming.dtype), budgets_of(store)
    wanted = []
    for depth, times in reads.items():
        if depth == 0 and len(reads) > 1:
            continue  # before an epoch that freezes nothing others may, or other trials
        found = [
            Reads(
                split,
                view,
                len(data.dataset.images(split)),
                round(count) or 1,
                _count_kept(store, data, naming, depth, (split, view)),
            )
            for (split, view), count in times.items()
        ]
        decision = decide(mode, depth, found, costs.get(depth, Costs(0, 0.0, 0.0)), budgets)
        budgets = budgets.less(decision)
        tell(depth, decision)
        wanted += [Wanted(read.split, read.view, depth) for read in decision.keep]
    return wanted


def _count_kept(store: Store, data: Data, naming: Naming, depth: int, at: tuple[str, int]) -> int:
    """Return of how many images the store has activations, from whatever run or dataset version."""
    split, view = at
    if depth == 0:
        return 0
    images, key = len(data.dataset.images(split)), naming.key(depth, view)
    if find(store, data.dataset, split, key) is not None:
        return images
    _, absent = missing(store, data.dataset, split, key)
    return images - len(absent)


def costs_of(model: TransferModel, data: Data, dtype: Dtype) -> dict[int, Costs]:
    """Return what one image costs by depth, measured here and now."""
    if model.depth == 0:
        return {}
    sample = data.train[:SAMPLE]
    share = training_shares(len(sample), SAMPLE, 0, 0, 0, 1)
    for _ in data.loader.batches(sample[:1], training_shares(1, 1, 0, 0, 0, 1), view=0):
        pass  # opens, or fetches, what the images lie in
    before = time.perf_counter()
    for _ in data.loader.batches(sample, share, view=0):
        pass
    decode_s = (time.perf_counter() - before) / len(sample)
    costs, seconds = {}, 0.0
    for depth, cost in enumerate(measure(model, data.preprocess.crop), 1):
        seconds += cost.seconds
        size = BYTES[dtype]
        for side in cost.shape:
            size *= side
        costs[depth] = Costs(size, seconds, decode_s)
    return costs


def budgets_of(store: Store) -> Budgets:
    """Return the space for activations: of the store, and of the node's copies where it has any."""
    room = None
    if (limit := gigabytes("GRAFT_ACTIVATIONS_GB")) is not None:
        room = max(0, limit - sum(size for _, size in store.scan("activations/")))
    if store.is_directory:
        free = shutil.disk_usage(store.uri).free if Path(store.uri).exists() else None
        return Budgets(store_bytes=min((n for n in (room, free) if n is not None), default=None))
    folder = cache_folder()
    return Budgets(store_bytes=room, node_bytes=cache_room(folder) if folder.exists() else None)


def _fill_together(
    store: Store,
    assembly: Assembly,
    naming: Naming,
    data: Data,
    ranks: Ranks,
    wanted: Sequence[Wanted],
    post: Callable[[Event], object],
) -> dict[Wanted, Activations]:
    """Fill what is missing, a job for each worker at a time; open all of it.

    The first worker holds the claim and tells the others what to do, often enough that none
    takes it for dead: a round of jobs, an empty one while it waits for another process, and
    None in the end.
    """

    def take_part(jobs: Sequence[Job], progress: Callable[[int], object]) -> list[Computed | None]:
        """Compute this worker's job of a round; return what each worker's gave."""
        mine = jobs[ranks.rank] if ranks.rank < len(jobs) else None
        computed = _run(store, assembly.model, data, mine, ranks, progress) if mine else None
        return ranks.gather(computed)

    def run(jobs: Sequence[Job], told: Done) -> None:
        """Run jobs on all workers; on the first one."""
        total, done = sum(len(job.images) for job in jobs), 0
        for first in range(0, len(jobs), ranks.size):
            these = jobs[first : first + ranks.size]
            before = done

            def progress(images: int) -> None:
                nonlocal done
                done += images * len(these)  # noqa: B023 - called in this round alone
                post(Keeping("computing activations", min(done, total), total))

            ranks.from_first(these)
            for job, computed in zip(these, take_part(these, progress), strict=False):
                if computed:
                    told(job, computed)
            done = before + sum(len(job.images) for job in these)

    def pause(seconds: float) -> None:
        time.sleep(seconds)
        ranks.from_first([])

    filled: Filled | None = None
    if ranks.rank == 0:
        each = -(-max(len(data.train), len(data.val)) // (ranks.size * BATCH_SIZE)) * BATCH_SIZE
        filled = fill(
            store,
            data.dataset,
            naming,
            wanted,
            run,
            job_images=JOB_IMAGES if ranks.size == 1 else min(each, ROUND_IMAGES),
            waiting=lambda holder: post(Keeping(f"waiting for activations that {holder} computes")),
            pause=pause,
        )
        ranks.from_first(None)
    else:
        while (jobs := ranks.from_first(None)) is not None:
            if jobs:
                take_part(jobs, lambda images: None)
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
