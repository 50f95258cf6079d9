"""Images whose trunk is kept: their activations are read, and the tail alone is computed."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch

from graft.activations.cache import Activations
from graft.activations.index import find_index
from graft.activations.key import Key, backend_name
from graft.backbones.parts import load_tail_model
from graft.backbones.transfer_model import Steps
from graft.data.digests import from_hexadecimal
from graft.data.manifest import DatasetVersion
from graft.prediction.embedding import Computed, HeadInput
from graft.prediction.part import NOTHING_KEPT, Kept
from graft.registry import ModelVersion
from graft.store import Store


class KeptTrunk:
    """Activations of a dataset's images in a version's trunk, as far as they are in the store."""

    def __init__(
        self,
        splits: Sequence[Activations],
        tail: Steps,
        device: torch.device | None,
        head_input: HeadInput | None,
    ):
        self._splits = splits
        self._tail = tail
        self._device = device
        self._head_input = head_input

    @classmethod
    def find(
        cls,
        store: Store,
        dataset: DatasetVersion,
        version: ModelVersion,
        device: torch.device | None,
        embedding: bool,
    ) -> Kept:
        """Return what the store keeps of a version's trunk for a dataset.

        `embedding`: whether it is asked for, too.

        Raises:
            StoreError: it keeps some, but no longer whole.
        """
        if not version.freeze:
            return NOTHING_KEPT
        backend = backend_name(device or "cpu", version.arch)
        key = Key(version.trunk_digest, "v0", "float32", backend)
        splits = [
            Activations(store, key, indexed, dataset.images(split))
            for split in dataset.manifest.counts
            if dataset.images(split) and (indexed := find_index(store, dataset, split, key))
        ]
        if not splits:
            return NOTHING_KEPT
        model = load_tail_model(store, version, device)
        return cls(splits, model.tail, device, HeadInput(model) if embedding else None)

    def __contains__(self, digest: object) -> bool:
        image = from_hexadecimal([str(digest)])
        return any(split.has(image)[0] for split in self._splits)

    @torch.inference_mode()
    def compute(self, digests: Sequence[str]) -> Computed:
        """See `Kept`."""
        logits, embeddings = [], []
        for split, group in groupby(digests, self._split_of):
            activations = split.take(from_hexadecimal(list(group)))
            if self._device is not None:
                activations = activations.to(self._device)
            logits.append(self._tail(activations).float().cpu().numpy())
            if self._head_input:
                embeddings.append(self._head_input.rows())
        embedding = np.concatenate(embeddings) if embeddings else None
        return Computed(np.concatenate(logits), embedding)

    def _split_of(self, digest: str) -> Activations:
        image = from_hexadecimal([digest])
        return next(split for split in self._splits if split.has(image)[0])
