"""From images to shards: one decode and one pass through the trunk for all depths asked for."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.activations.cache import Activations
from graft.activations.index import Part
from graft.activations.key import BYTES, Key
from graft.activations.shards import SHARD_BYTES, ShardWriter, memory_order, stored
from graft.backbones.model import TransferModel, Trunk
from graft.backend import explained
from graft.data.loader import ImageLoader, Share, to_tensor
from graft.data.manifest import Image
from graft.spec import Preprocess
from graft.store import Store, cache_folder, remove_leftovers

BATCH_SIZE = 32
"""Images in every batch of the trunk, the last one too, whoever computes them: at one size
and layout, an image's activations are the same bits in any company and position."""

PENDING = 4
"""Full shards of a depth that may wait for the store."""


@dataclass(frozen=True)
class Computed:
    """What a pass through the trunk gave."""

    parts: dict[int, list[Part]]
    """By depth: what is written, and not committed yet."""
    decoded: int
    """Images that were decoded."""
    trunk_forwards: int
    """Images that went through stages of the trunk."""
    nbytes: int
    """Of all shards written."""


@dataclass(frozen=True)
class Start:
    """Activations at a shallower depth, to go on from instead of from the images."""

    depth: int
    activations: Activations


def compute_part(
    store: Store,
    model: TransferModel,
    loader: ImageLoader,
    preprocess: Preprocess,
    images: Sequence[Image],
    view: int,
    targets: Mapping[int, Key],
    *,
    start: Start | None = None,
    batch_size: int = BATCH_SIZE,
    device: torch.device | None = None,
    progress: Callable[[int], object] = lambda images: None,
    shard_bytes: int = SHARD_BYTES,
) -> Computed:
    """Compute activations of images and put them into the store as shards.

    Args:
        store: gets the shards; committing them is the caller's.
        model: frozen at least as deep as the deepest of `targets`.
        loader: gives the images' views.
        preprocess: how pixels become the trunk's input.
        images: all of one dataset version; a row each, in this order.
        view: number of the view.
        targets: by depth, the key under which its activations are put.
        start: holds all of `images`; its depth is below each of `targets`.
        batch_size: images in every batch; the last one is filled up by repeating.
        device: where the model is.
        progress: told after each batch how many images it had.
        shard_bytes: a shard has at most about as many.

    Raises:
        StoreError: no space left, or the store cannot be used; nothing was committed.
    """
    device = device or torch.device("cpu")
    depths = sorted(targets)
    if not (start.depth if start else 0) < depths[0] <= depths[-1] <= model.depth:
        raise ValueError(f"depths {depths} of a trunk of {model.depth} stages, from {start}")
    stages = model.stages.stages
    passes = [
        Trunk(model.network, [step for stage in stages[begin:end] for step in stage.steps])
        for begin, end in pairwise([start.depth if start else 0, *depths])
    ]
    scratch = cache_folder()
    with explained(f"the node-local cache {scratch}"):
        scratch.mkdir(parents=True, exist_ok=True)
        remove_leftovers(scratch)
        temporary = tempfile.TemporaryDirectory(dir=scratch, prefix=".tmp-activations-")
    with temporary, ThreadPoolExecutor(2, thread_name_prefix="put") as pool:
        outputs = {
            depth: _Output(
                store, key, Path(temporary.name, str(depth)), images, batch_size, shard_bytes, pool
            )
            for depth, key in targets.items()
        }
        try:
            if start:
                inputs = _from_activations(start.activations, images, batch_size, device)
            else:
                inputs = _from_images(loader, preprocess, images, view, batch_size, device)
            for count, x in inputs:
                for depth, through in zip(depths, passes, strict=True):
                    x = through(x)
                    outputs[depth].append(x[:count])
                progress(count)
            parts = {depth: output.finish() for depth, output in outputs.items()}
        finally:
            for output in outputs.values():
                output.abandon()
    return Computed(
        parts,
        decoded=0 if start else len(images),
        trunk_forwards=len(images),
        nbytes=sum(part.shard.size for found in parts.values() for part in found),
    )


def _from_images(
    loader: ImageLoader,
    preprocess: Preprocess,
    images: Sequence[Image],
    view: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of images in a batch, and the batch: (batch_size, 3, crop, crop)."""
    shares = [
        Share(np.arange(first, end), np.ones(end - first, np.float32), len(images))
        for first, end in _batches(len(images), batch_size)
    ]
    for batch in loader.batches(images, shares, view):
        count = len(batch.images)
        filling = np.repeat(batch.images[-1:], batch_size - count, axis=0)
        pixels = np.concatenate([batch.images, filling]) if len(filling) else batch.images
        yield count, to_tensor(pixels, preprocess, device)


def _from_activations(
    start: Activations, images: Sequence[Image], batch_size: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of images in a batch, and the batch: (batch_size, ...)."""
    for first, end in _batches(len(images), batch_size):
        chosen = [image.sha256 for image in images[first:end]]
        filling = chosen[-1:] * (batch_size - len(chosen))
        yield len(chosen), start.take([*chosen, *filling]).to(device)


def _batches(images: int, batch_size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, images, batch_size):
        yield first, min(first + batch_size, images)


class _Output:
    """Cuts a stream of batches at one depth into shards, and puts each once it is full."""

    def __init__(
        self,
        store: Store,
        key: Key,
        folder: Path,
        images: Sequence[Image],
        batch_size: int,
        shard_bytes: int,
        pool: ThreadPoolExecutor,
    ):
        self._store = store
        self._key = key
        self._folder = folder
        self._images = [image.sha256 for image in images]
        self._batch_size = batch_size
        self._shard_bytes = shard_bytes
        self._pool = pool
        self._parts: list[Future[Part]] = []
        self._done = 0
        """Rows of shards that are full."""
        self._writer: ShardWriter | None = None
        self._written = 0
        """Rows of the open shard that are written."""
        self._rows = 0
        """Rows that the open shard will have."""

    def append(self, batch: Tensor) -> None:
        """Append activations: (b, ...) on any device."""
        order = memory_order(batch)
        rows = stored(batch.float().cpu(), order)
        while len(rows):
            writer = self._writer or self._open(tuple(rows.shape[1:]))
            self._writer = writer
            here = rows[: self._rows - self._written]
            writer.append(here)
            self._written += len(here)
            rows = rows[len(here) :]
            if self._written == self._rows:
                writer.close()
                self._writer = None
                self._put(writer.path, tuple(batch.shape[1:]), order)

    def finish(self) -> list[Part]:
        """Wait until all is in the store; return what is there."""
        return [part.result() for part in self._parts]

    def abandon(self) -> None:
        """Close what an error left open."""
        if self._writer:
            self._writer.abandon()

    def _open(self, row_shape: tuple[int, ...]) -> ShardWriter:
        row_bytes = torch.Size(row_shape).numel() * BYTES[self._key.dtype]
        self._rows = min(max(1, self._shard_bytes // row_bytes), len(self._images) - self._done)
        self._written = 0
        with explained(f"the node-local cache {self._folder}"):
            self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{len(self._parts)}.safetensors"
        return ShardWriter(path, self._rows, row_shape, self._key.dtype)

    def _put(self, path: Path, shape: tuple[int, ...], order: tuple[int, ...]) -> None:
        images = tuple(self._images[self._done : self._done + self._rows])
        self._done += self._rows
        threads = torch.get_num_threads()

        def put() -> Part:
            shard = self._store.put(self._key.folder, "part.safetensors", path)
            self._store.keep(shard, path)
            return Part(
                shard=shard,
                shape=shape,
                order=order,
                images=images,
                batch_size=self._batch_size,
                threads=threads,
            )

        self._parts.append(self._pool.submit(put))
        if len(self._parts) > PENDING:  # no faster than the store takes them, and no further
            self._parts[-PENDING - 1].result()
