"""What the rows share: sizes, images, networks, and the loop run on one device or another."""

import copy
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gpu.sizes import Sizes
from graft.activations.lookup import NO_ACTIVATIONS, ActivationLookup
from graft.backbones.process_setup import set_up_process
from graft.backbones.stage_map import freeze_depth
from graft.backbones.transfer_model import TransferModel, build
from graft.backbones.trunk import trunk_chain
from graft.data.importing import import_dataset
from graft.data.loader import ImageLoader, evaluation_slices, to_tensor
from graft.data.manifest import DatasetVersion, open_dataset
from graft.spec import SGD, AdamW, Backbone, Contract, LinearHead, Loader, StandardAugment, Train
from graft.store import Store
from graft.training.events import Untrained
from graft.training.loop import EpochDone, TrainingData, finetune
from graft.training.training_plan import TrainingPlan, make_training_plan
from graft.training.worker_group import Ranks

CPU = torch.device("cpu")
TINTS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@dataclass(frozen=True)
class Trained:
    """What the loop came to."""

    losses: tuple[float, ...]
    """Validation before any training, then training and validation of each epoch in turn."""
    tail: dict[str, Tensor]
    """On the CPU."""
    before: tuple[str, ...]
    """The trunk's digests, before training."""
    after: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lab:
    """Images, networks and the device that is tested."""

    device: torch.device
    sizes: Sizes
    folder: Path
    dataset: DatasetVersion
    contract: Contract
    augment: StandardAugment
    """One augmented view of each image: every epoch trains on the same."""

    @classmethod
    def make(cls, device: torch.device, sizes: Sizes, folder: Path) -> "Lab":
        """Draw the images and import them; a GPU computes as it does for an attempt."""
        set_up_process(torch.get_num_threads(), gpus=int(device.type == "cuda"))
        draw(folder / "images", sizes)
        store = Store.open(str(folder / "store"))
        import_dataset(store, str(folder / "images"), "photos")
        contract = Contract(resize=sizes.crop * 8 // 7, crop=sizes.crop, max_side=512)
        dataset = open_dataset(store, "photos")
        return cls(device, sizes, folder, dataset, contract, StandardAugment(views=1))

    def new_store(self, name: str) -> Store:
        """Return an empty store."""
        return Store.open(str(self.folder / name))

    def loader(self, contract: Contract, threads: int = 2) -> ImageLoader:
        """Return what decodes the images, and keeps none of them."""
        settings = Loader(threads=threads, decoded_cache_mb=0)
        return ImageLoader(self.dataset, contract, self.augment, settings)

    def data(self, cached: ActivationLookup = NO_ACTIVATIONS) -> TrainingData:
        """Return what the loop is given where numbers are compared."""
        return TrainingData(
            self.dataset,
            self.loader(self.contract),
            self.dataset.images("train"),
            self.dataset.images("val"),
            "val",
            self.dataset.manifest.classes,
            self.contract,
            self.augment,
            cached,
        )

    def model(self, freeze: int | str, smoothed: bool = True) -> TransferModel:
        """Return the network on the CPU; its weights are the same every time."""
        model = copy.deepcopy(self._model(smoothed))
        return model.cut(freeze_depth(freeze, model.stages))

    @functools.cache  # noqa: B019
    def _model(self, smoothed: bool) -> TransferModel:
        model = new_model(self.sizes.arch, self.sizes.crop)
        if smoothed:
            smooth(model.network)
        images = self.dataset.images("train")
        share = evaluation_slices(len(images), self.sizes.batch, 0, 1)[:1]
        (batch,) = self.loader(self.contract).batches(images, share, view=1)
        settle(model.network, to_tensor(batch.images, self.contract))
        return model

    def recipe(self, freeze: int | str, precision: str = "fp32", compiled: bool = False) -> Train:
        """Two epochs: SGD for the whole network, AdamW for the head alone."""
        whole = freeze == 0
        return Train(
            epochs=2,
            batch_size=self.sizes.batch,
            optimizer=SGD(kind="sgd", lr=2e-3) if whole else AdamW(kind="adamw", lr=1e-3),
            precision="bf16" if precision == "bf16" else "fp32",
            compile=compiled,
        )

    @functools.cache  # noqa: B019
    def trained(
        self,
        freeze: int | str,
        device: torch.device,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> Trained:
        """Return what the loop comes to on a device, run once for all rows that ask."""
        recipe = self.recipe(freeze, precision, compiled)
        return self.train(self.model(freeze).to(device), freeze, device, recipe, self.data())

    def train(
        self,
        model: TransferModel,
        freeze: int | str,
        device: torch.device,
        recipe: Train,
        data: TrainingData,
    ) -> Trained:
        """Run the loop with a model that is on a device."""
        before = trunk_chain(model, self.contract).digests
        plan = plan_of(model, freeze, recipe)
        losses: list[float] = []
        tail: dict[str, Tensor] = {}
        for event in finetune(model, data, recipe, plan, Ranks.alone(device), None):
            if isinstance(event, Untrained):
                losses.append(event.val["loss"])
            elif isinstance(event, EpochDone):
                losses += [event.train["loss"], event.val["loss"]]
                tail = event.state.tail
        tail = {name: tensor.detach().cpu() for name, tensor in tail.items()}
        return Trained(tuple(losses), tail, before, trunk_chain(model, self.contract).digests)


def new_model(arch: str, crop: int) -> TransferModel:
    """Return one of Graft's networks as it is built, none of it frozen."""
    torch.manual_seed(0)
    backbone = Backbone(arch=arch, weights="none", freeze=0)
    return build(backbone, LinearHead(), len(TINTS), crop)


def plan_of(model: TransferModel, freeze: int | str, recipe: Train) -> TrainingPlan:
    """Return what a recipe means for a model."""
    backbone = Backbone(arch=model.stages.arch, weights="none", freeze=freeze)
    return make_training_plan(model, backbone, recipe)


def smooth(network: nn.Module) -> None:
    """Take the kinks out of a network, so that who rounds otherwise differs by rounding alone.

    ReLU next to 0, and max pooling next to a tie, pass a gradient on or not: in a new ResNet-18
    that alone puts the gradients of two ways to compute them 1e-2 apart, without it 1e-5.
    """
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU):
            network.set_submodule(path, nn.SiLU())
        elif isinstance(module, nn.MaxPool2d):
            network.set_submodule(path, _averaging(module))


def _averaging(pool: nn.MaxPool2d) -> nn.AvgPool2d:
    return nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)


def settle(network: nn.Module, x: Tensor) -> None:
    """Give BatchNorm the statistics of x, (B, 3, H, W), as if trained.

    With a new network's each block doubles the activations, and rounding with them.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(x)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()


def draw(folder: Path, sizes: Sizes) -> None:
    """Write JPEGs of blobs in three tints: to train on, to validate with, to decode (`test`)."""
    noise = np.random.default_rng(0)
    counts = {"train": sizes.images, "val": max(4, sizes.images // 3), "test": sizes.photos}
    for split, count in counts.items():
        for number in range(count):
            label = list(TINTS)[number % len(TINTS)]
            path = folder / split / label / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            blobs = noise.normal(TINTS[label], 60, (12, 16, 3)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(blobs).resize(sizes.photo, Image.Resampling.BICUBIC)
            image.save(path, quality=90)
