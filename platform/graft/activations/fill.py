"""Have activations: find what is there, compute what is missing, commit, each image once.

`fill` plans jobs and commits; who runs the jobs is its caller's choice: this process
(`run_here`) or a Ray cluster (`worker.fill_on_ray`).
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from graft.activations.cache import Activations, commit, find
from graft.activations.claims import LEASE_S, claimed
from graft.activations.compute import BATCH_SIZE, Computed, Start, compute_part
from graft.activations.index import Index, Part, covering, missing, note_parts, read_index
from graft.activations.key import Dtype, Key, view_name
from graft.backbones.model import TransferModel
from graft.backbones.trunk import TrunkChain
from graft.data.loader import ImageLoader
from graft.data.manifest import DatasetVersion, Image
from graft.errors import ObjectNotFound
from graft.spec import NoAugment, Preprocess, StandardAugment
from graft.store import Store

JOB_IMAGES = 2048
"""A job has at most as many images: what it has done is kept when the next one is killed."""


@dataclass(frozen=True)
class Naming:
    """What the keys of one model's activations have in common."""

    chain: TrunkChain
    augment: NoAugment | StandardAugment
    dtype: Dtype
    backend: str

    def key(self, depth: int, view: int, dtype: Dtype | None = None) -> Key:
        """Return the key of a depth and a view."""
        return Key(
            self.chain.digests[depth],
            view_name(self.augment, view),
            dtype or self.dtype,
            self.backend,
        )


@dataclass(frozen=True)
class Wanted:
    """Activations that somebody asks for."""

    split: str
    view: int
    depth: int
    """At least 1: before the first stage there is nothing to keep."""


@dataclass(frozen=True)
class Job:
    """Images of one split and view, to be computed in one pass for all `targets`."""

    split: str
    view: int
    images: tuple[Image, ...]
    targets: dict[int, Key]
    """By depth."""
    start: tuple[int, Key, tuple[Part, ...]] | None
    """Depth, key and parts of activations to go on from."""


@dataclass
class Filled:
    """What `fill` came to."""

    activations: dict[Wanted, Activations] = field(default_factory=dict)
    """All that was wanted."""
    images: int = 0
    """Rows written: images times depths."""
    decoded: int = 0
    """Images decoded."""
    trunk_forwards: int = 0
    """Images that went through stages of the trunk."""
    nbytes: int = 0
    """Bytes of activations written."""


Done = Callable[[Job, Computed], None]
Runner = Callable[[Sequence[Job], Done], None]
"""Runs jobs and tells of each that is done, from the thread that called it."""


def fill(
    store: Store,
    dataset: DatasetVersion,
    naming: Naming,
    wanted: Iterable[Wanted],
    run: Runner,
    *,
    job_images: int = JOB_IMAGES,
    lease_s: float = LEASE_S,
    waiting: Callable[[str], object] = lambda holder: None,
    pause: Callable[[float], object] = time.sleep,
) -> Filled:
    """Return all that is wanted, computing what nobody has yet.

    Of several processes that want activations of one network and dataset at once, one
    computes and the others wait, `waiting` being told for whom; a dead one's work is taken
    over after `lease_s`, from the jobs it had finished. `pause` is called to wait, in seconds.

    Raises:
        StoreError: no space left, or the store cannot be used; only whole jobs are kept.
    """
    wanted = list(dict.fromkeys(wanted))
    filled = Filled()
    if _find_all(store, dataset, naming, wanted, filled):
        return filled
    # Every deeper digest follows from the first stage's: one claim covers all depths and
    # views of a network, so that whoever comes second finds shallower activations to go on from.
    claim = f"activations/claims/{naming.chain.digests[1][:16]}-{dataset.manifest.name}.json"
    with claimed(store, claim, lease_s, waiting, pause):
        left = [item for item in wanted if not _find_all(store, dataset, naming, [item], filled)]
        jobs, ready = plan_jobs(store, dataset, naming, left, job_images)
        of_split = {(item.split, item.view, item.depth): item for item in left}

        def done(job: Job, computed: Computed) -> None:
            filled.decoded += computed.decoded
            filled.trunk_forwards += computed.trunk_forwards
            filled.nbytes += computed.nbytes
            for depth, parts in computed.parts.items():
                item = of_split[job.split, job.view, depth]
                filled.images += len(job.images)
                ready[item] += parts
                if len(jobs) > 1:
                    note_parts(store, dataset, job.split, job.targets[depth], parts)

        if jobs:
            run(jobs, done)
        for item in left:
            key = naming.key(item.depth, item.view)
            filled.activations[item] = commit(store, dataset, item.split, key, ready[item])
            _forget_notes(store, key, filled.activations[item].parts)
    return filled


def plan_jobs(
    store: Store,
    dataset: DatasetVersion,
    naming: Naming,
    wanted: Sequence[Wanted],
    job_images: int = JOB_IMAGES,
) -> tuple[list[Job], dict[Wanted, list[Part]]]:
    """Return the jobs that compute what is missing, and for all that is wanted the parts
    that are there."""
    ready: dict[Wanted, list[Part]] = {}
    jobs: list[Job] = []
    depths_of: dict[tuple[str, int], list[int]] = {}
    for item in wanted:
        if not 1 <= item.depth < len(naming.chain.digests):
            raise ValueError(f"depth {item.depth} of a trunk of {len(naming.chain.tensors)} stages")
        depths_of.setdefault((item.split, item.view), []).append(item.depth)
    for (split, view), depths in depths_of.items():
        lacking: dict[str, list[int]] = {}
        for depth in sorted(depths):
            parts, absent = missing(store, dataset, split, naming.key(depth, view))
            ready[Wanted(split, view, depth)] = parts
            for digest in absent:
                lacking.setdefault(digest, []).append(depth)
        groups: dict[tuple[int, ...], list[Image]] = {}
        for image in dataset.images(split):  # in whose order they come to lie in shards
            if depths_lacking := lacking.pop(image.sha256, None):
                groups.setdefault(tuple(depths_lacking), []).append(image)
        for targets, group in groups.items():
            keys = {depth: naming.key(depth, view) for depth in targets}
            for start, images in _starts(store, naming, view, targets[0], group):
                jobs += [
                    Job(split, view, tuple(images[i : i + job_images]), keys, start)
                    for i in range(0, len(images), job_images)
                ]
    return jobs, ready


def run_here(
    store: Store,
    model: TransferModel,
    loader: ImageLoader,
    preprocess: Preprocess,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Runner:
    """Return what runs jobs one after another in this process."""

    def run(jobs: Sequence[Job], done: Done) -> None:
        for job in jobs:
            done(job, run_job(store, model, loader, preprocess, job, batch_size, device, progress))

    return run


def run_job(
    store: Store,
    model: TransferModel,
    loader: ImageLoader,
    preprocess: Preprocess,
    job: Job,
    batch_size: int = BATCH_SIZE,
    device: torch.device | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Computed:
    """Compute and put what a job asks for; committing it is the caller's."""
    start = None
    if job.start:
        depth, key, parts = job.start
        start = Start(depth, Activations(store, key, parts))
    return compute_part(
        store,
        model,
        loader,
        preprocess,
        job.images,
        job.view,
        job.targets,
        start=start,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )


def _find_all(
    store: Store,
    dataset: DatasetVersion,
    naming: Naming,
    wanted: Sequence[Wanted],
    filled: Filled,
) -> bool:
    """Add what is committed to `filled`; whether that is all."""
    for item in wanted:
        if item not in filled.activations:
            key = naming.key(item.depth, item.view)
            if (found := find(store, dataset, item.split, key)) is None:
                return False
            filled.activations[item] = found
    return True


def _starts(
    store: Store, naming: Naming, view: int, below: int, images: Sequence[Image]
) -> Iterator[tuple[tuple[int, Key, tuple[Part, ...]] | None, list[Image]]]:
    """Divide images by the deepest activations, shallower than `below`, to go on from.

    Only float32 ones will do: rounded ones would make the numbers hang on what happened to
    be there.
    """
    left = list(images)
    for depth in range(below - 1, 0, -1):
        key = naming.key(depth, view, "float32")
        parts, absent = covering(store, key, [image.sha256 for image in left])
        if parts:
            without = set(absent)
            yield (depth, key, tuple(parts)), [i for i in left if i.sha256 not in without]
            left = [image for image in left if image.sha256 in without]
        if not left:
            return
    yield None, left


def _forget_notes(store: Store, key: Key, parts: Iterable[Part]) -> None:
    """Remove notes of finished jobs that say nothing beyond an index."""
    shards = {part.shard.name for part in parts}
    for where, _ in list(store.scan(f"{key.folder}/parts/")):
        with contextlib.suppress(ObjectNotFound):
            note: Index = read_index(store, where)
            if all(part.shard.name in shards for part in note.parts):
                store.delete(where)
