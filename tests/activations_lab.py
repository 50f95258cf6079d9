"""A network over a small dataset, and what is needed to compute its activations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graft.activations.cache import ActivationCache, Activations
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import FillResult, fill, run_here
from graft.activations.key import CacheEntry, Dtype, KeyScheme, backend_name
from graft.activations.lease import DEFAULT_TERMS
from graft.backbones.transfer_model import TransferModel, build
from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.data.digests import Digests
from graft.data.loader import BatchSlice, ImageLoader, to_tensor
from graft.data.manifest import DatasetVersion
from graft.spec import Backbone, Contract, LinearHead, Loader, StandardAugment
from graft.store import Store

BATCH = 8
CROP = 32


@dataclass
class Lab:
    """A store with a dataset, a network, and its activations."""

    store: Store
    dataset: DatasetVersion
    model: TransferModel
    chain: TrunkChain
    contract: Contract
    augment: StandardAugment
    loader: ImageLoader

    @property
    def setup(self) -> TrunkSetup:
        return TrunkSetup(self.model, self.loader, self.contract, BATCH)

    def cache(self, dtype: Dtype = "float32") -> ActivationCache:
        keys = KeyScheme(
            self.chain, self.augment, dtype, backend_name("cpu", self.model.stages.arch)
        )
        return ActivationCache(self.store, self.dataset, keys)

    def fill(
        self,
        *entries: CacheEntry,
        dtype: Dtype = "float32",
        progress: Callable[[int, int], object] = lambda done, total: None,
        **options: Any,
    ) -> FillResult:
        run = run_here(self.store, self.setup, progress)
        return fill(self.cache(dtype), entries, run, options.pop("terms", DEFAULT_TERMS), **options)

    def get(self, entry: CacheEntry, **options: Any) -> Activations:
        return self.fill(entry, **options).activations[entry]

    def direct(self, entry: CacheEntry, rows: Sequence[int]) -> Tensor:
        """What the trunk makes of images, without a cache."""
        images = self.dataset.images(entry.split)
        batch_slice = BatchSlice(np.array(rows), np.ones(len(rows), np.float32), len(images))
        (batch,) = self.loader.batches(images, [batch_slice], entry.view)
        deepest = self.model.depth
        model = self.model.cut(entry.depth)
        trunk = model.trunk(to_tensor(batch.images, self.contract))
        self.model = model.cut(deepest)
        return trunk

    def digests(self, split: str, rows: Sequence[int]) -> Digests:
        return self.dataset.images(split).digests[list(rows)]

    def another(self, dataset: DatasetVersion) -> "Lab":
        """The same network over another dataset version."""
        return make_lab(self.store, dataset, self.model.stages.arch)


def make_lab(store: Store, dataset: DatasetVersion, arch: str = "squeezenet1_1") -> Lab:
    torch.manual_seed(0)
    backbone = Backbone(arch=arch, weights="none", freeze="all")
    model = build(backbone, LinearHead(), 3, CROP).eval()
    for module in model.network.modules():  # as if trained: statistics that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    contract = Contract(max_side=512, resize=36, crop=CROP)
    augment = StandardAugment(views=3)
    loader = ImageLoader(dataset, contract, augment, Loader(threads=1))
    return Lab(store, dataset, model, trunk_chain(model, contract), contract, augment, loader)


def objects(store: Store, prefix: str = "activations/") -> dict[str, bytes]:
    """Every object below a prefix, and what it holds."""
    return {key: store.read(key).data for key, _ in store.scan(prefix)}
