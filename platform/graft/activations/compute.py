"""From images to shards: one decode and one pass through the trunk for all depths of a task."""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.activations.activation_shards import ActivationWriter, memory_order, stored
from graft.activations.cache import Activations
from graft.activations.division import SHARD_BYTES
from graft.activations.index import Indexed, Part, PartRows
from graft.activations.key import BYTES, Key
from graft.activations.rows import ShardRows
from graft.backbones.transfer_model import TransferModel, Trunk
from graft.data.digests import Digests
from graft.data.index import Images
from graft.data.loader import BatchSlice, ImageLoader, to_tensor
from graft.spec import Preprocess
from graft.store import Store
from graft.store.backend import explained
from graft.store.node_cache import cache_folder, remove_leftovers

BATCH_SIZE = 32
"""Images in every batch of the trunk, on every machine; the last batch is filled up. At one batch
size and layout an image's activations have the same bits, whichever images are beside it."""

PENDING = 4
"""Full shards of a depth that may wait for the store."""


@dataclass(frozen=True)
class TrunkSetup:
    """A frozen trunk, and how images get to it."""

    model: TransferModel
    """Frozen at least as deep as the deepest activations, on the device that computes them."""
    loader: ImageLoader
    """Renders the images' views."""
    preprocess: Preprocess
    """How pixels become the trunk's input."""
    batch_size: int = BATCH_SIZE
    """Images in every batch; the last one is filled up by repeating an image."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.network.parameters()).device


@dataclass(frozen=True)
class Start:
    """Activations at a shallower depth, to start from instead of from the images."""

    depth: int
    key: Key
    parts: tuple[PartRows, ...]


@dataclass(frozen=True)
class FillTask:
    """Images of one split and view, to be computed in one pass for all target depths."""

    split: str
    view: int
    images: Images
    """Distinct images of one dataset version; shards hold a row each, in this order."""
    targets: dict[int, Key]
    """By freeze depth, the key of its activations."""
    start: Start | None
    """Shallower than each target, and with all of the images; None: start from the images."""


def compute_task(
    store: Store,
    setup: TrunkSetup,
    task: FillTask,
    *,
    progress: Callable[[int], object] = lambda images: None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[int, list[PartRows]]:
    """Compute a task's activations; return by depth the shards, in the store but not committed.

    Args:
        store: gets the shards; committing them is left to the caller.
        setup: the trunk.
        task: what to compute.
        progress: called after each batch with the number of the task's images that are done.
        shard_bytes: largest size of a shard.

    Raises:
        StoreError: no space left, or the store cannot be used; nothing was committed.
    """
    depths = sorted(task.targets)
    begin = task.start.depth if task.start else 0
    if not begin < depths[0] <= depths[-1] <= setup.model.depth:
        raise ValueError(f"depths {depths} of a trunk of {setup.model.depth} stages, from {begin}")
    stages = setup.model.stages.stages
    passes = [
        Trunk(setup.model.network, [step for stage in stages[first:end] for step in stage.steps])
        for first, end in pairwise([begin, *depths])
    ]
    scratch = cache_folder()
    with explained(f"the node-local cache {scratch}"):
        scratch.mkdir(parents=True, exist_ok=True)
        remove_leftovers(scratch)
        temporary = tempfile.TemporaryDirectory(dir=scratch, prefix=".tmp-activations-")
    with temporary, ThreadPoolExecutor(2, thread_name_prefix="put") as pool:
        outputs = {
            depth: _Output(
                _Shelf(store, key, setup.batch_size, pool),
                Path(temporary.name, str(depth)),
                task.images,
                shard_bytes,
            )
            for depth, key in task.targets.items()
        }
        done = 0
        try:
            inputs = _from_images(setup, task)
            if task.start:
                inputs = _from_activations(store, setup, task, task.start)
            for count, x in inputs:
                for depth, through in zip(depths, passes, strict=True):
                    x = through(x)
                    outputs[depth].append(x[:count])
                done += count
                progress(done)
            return {depth: output.finish() for depth, output in outputs.items()}
        finally:
            for output in outputs.values():
                output.abandon()


def _from_images(setup: TrunkSetup, task: FillTask) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of images in a batch, and the batch: (batch_size, 3, crop, crop)."""
    slices = [
        BatchSlice(np.arange(first, end), np.ones(end - first, np.float32), len(task.images))
        for first, end in _bounds(setup, task)
    ]
    for batch in setup.loader.batches(task.images, slices, task.view):
        count = len(batch.images)
        filling = np.repeat(batch.images[-1:], setup.batch_size - count, axis=0)
        pixels = np.concatenate([batch.images, filling]) if len(filling) else batch.images
        yield count, to_tensor(pixels, setup.preprocess, setup.device)


def _from_activations(
    store: Store, setup: TrunkSetup, task: FillTask, start: Start
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of images in a batch, and the batch: (batch_size, ...)."""
    activations = Activations(store, start.key, Indexed.of(start.parts))
    for first, end in _bounds(setup, task):
        digests = task.images[first:end].digests
        filling = np.repeat(digests[-1:], setup.batch_size - len(digests))
        yield len(digests), activations.take(np.concatenate([digests, filling])).to(setup.device)


def _bounds(setup: TrunkSetup, task: FillTask) -> Iterator[tuple[int, int]]:
    for first in range(0, len(task.images), setup.batch_size):
        yield first, min(first + setup.batch_size, len(task.images))


@dataclass(frozen=True)
class _OpenShard:
    """A shard that is being written."""

    writer: ActivationWriter
    digests: Digests
    """SHA-256 of the image of each row that it will have."""


class _Output:
    """Cuts a stream of batches at one depth into shards, and puts each once it is full.

    The writer of the open shard counts that shard's rows; nothing else does.
    """

    def __init__(self, shelf: "_Shelf", folder: Path, images: Images, shard_bytes: int):
        self._shelf = shelf
        self._folder = folder
        self._digests = images.digests
        self._assigned = 0
        """Images that shards have been opened for."""
        self._shard_bytes = shard_bytes
        self._open: _OpenShard | None = None
        self._parts: list[Future[PartRows]] = []

    def append(self, batch: Tensor) -> None:
        """Append activations: (b, ...) on any device."""
        order = memory_order(batch)
        rows = stored(batch.float().cpu(), order)
        while len(rows):
            shard = self._open = self._open or self._begin(tuple(rows.shape[1:]))
            fitting = rows[: shard.writer.rows_left]
            shard.writer.append(fitting)
            rows = rows[len(fitting) :]
            if not shard.writer.rows_left:
                shard.writer.close()
                self._open = None
                self._parts.append(self._shelf.put(shard, tuple(batch.shape[1:]), order))
                if len(self._parts) > PENDING:  # no faster than the store takes them
                    self._parts[-PENDING - 1].result()

    def finish(self) -> list[PartRows]:
        """Wait until all is in the store; return what is there."""
        return [part.result() for part in self._parts]

    def abandon(self) -> None:
        """Close what an error left open."""
        if self._open:
            self._open.writer.abandon()

    def _begin(self, row_shape: tuple[int, ...]) -> _OpenShard:
        dtype = self._shelf.key.dtype
        rows = max(1, self._shard_bytes // (torch.Size(row_shape).numel() * BYTES[dtype]))
        digests = self._digests[self._assigned : self._assigned + rows]
        self._assigned += len(digests)
        with explained(f"the node-local cache {self._folder}"):
            self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{len(self._parts)}.safetensors"
        return _OpenShard(ActivationWriter(path, len(digests), row_shape, dtype), digests)


@dataclass(frozen=True)
class _Shelf:
    """Where the shards of one key go."""

    store: Store
    key: Key
    batch_size: int
    """Images in a batch of the trunk, as the shards' parts record it."""
    pool: ThreadPoolExecutor

    def put(
        self, shard: _OpenShard, shape: tuple[int, ...], order: tuple[int, ...]
    ) -> Future[PartRows]:
        """Put a full shard into the store, in another thread."""
        path, threads = shard.writer.path, torch.get_num_threads()

        def put() -> PartRows:
            ref = self.store.put(self.key.folder, "part.safetensors", path)
            self.store.cache_file(ref, path)
            part = Part(
                shard=ref,
                shape=shape,
                order=order,
                rows=len(shard.digests),
                batch_size=self.batch_size,
                threads=threads,
            )
            return PartRows(part, ShardRows.all_of(shard.digests))

        return self.pool.submit(put)
