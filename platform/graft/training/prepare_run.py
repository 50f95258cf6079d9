"""From a spec to all that a run trains, and the checks that come before anything starts.

`Resolver` is the only place where a spec's open ends are decided: a run's by its command, a trial's
by `sweep.prepare_sweep`. Whoever trains or measures later reads the recorded spec and calls
`assemble`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.backbones.fit_weights import fitted_state
from graft.backbones.transfer_model import TransferModel, build, build_on_meta, check_input
from graft.backbones.weights import Weights, load_weights, resolve_weights
from graft.data.manifest import DatasetVersion, Manifest, open_dataset
from graft.data.subset import choose_subset
from graft.errors import DataError, SpecError
from graft.spec import Contract, Finetune, Preprocess
from graft.store import Store
from graft.training.loss import class_weights
from graft.training.metrics import TOP
from graft.training.training_plan import TrainingPlan, make_training_plan


@dataclass(frozen=True)
class PreparedRun:
    """What a recorded spec stands for, in memory, before its first step."""

    dataset: DatasetVersion
    contract: Contract
    weights: Weights
    model: TransferModel
    """With its initial weights."""
    plan: TrainingPlan


def resolve(store: Store, spec: Finetune) -> Finetune:
    """Resolve one spec, see `Resolver.resolve`."""
    return Resolver(store).resolve(spec)


class Resolver:
    """Resolves specs on one store; what several of them share is read once."""

    def __init__(self, store: Store):
        self._store = store
        self._datasets: dict[tuple[str, str], DatasetVersion] = {}
        """Opened, by name and version as a spec has them."""
        self._fitting: set[str] = set()
        """What decides whether weights fit a model, of the specs whose weights do."""

    def dataset(self, spec: Finetune) -> DatasetVersion:
        """Return the dataset of a spec, open for reading.

        Raises:
            NotFoundError: no such dataset or version.
        """
        ref = spec.dataset.name, spec.dataset.version
        if ref not in self._datasets:
            self._datasets[ref] = open_dataset(self._store, *ref)
        return self._datasets[ref]

    def resolve(self, spec: Finetune) -> Finetune:
        """Return the spec with nothing left open: version, weights, preprocessing, defaults.

        Raises:
            InputError: whatever would make the run fail before its first step.
        """
        dataset = self.dataset(spec)
        classes = len(dataset.manifest.classes)

        def check_fit(state: Mapping[str, Tensor], source: str, trained: Preprocess) -> None:
            crop = (spec.preprocess or trained).crop
            fitted_state(
                build_on_meta(spec.backbone, spec.head, classes, crop), state, False, source
            )

        weights = resolve_weights(self._store, spec.backbone, check_fit)
        preprocess = spec.preprocess or weights.preprocess
        recorded = spec.model_copy(
            update={
                "dataset": spec.dataset.model_copy(update={"version": dataset.manifest.version}),
                "backbone": spec.backbone.model_copy(
                    update={"weights": weights.source, "weights_sha256": weights.sha256}
                ),
                "preprocess": preprocess,
            }
        )
        check_input(spec.backbone, spec.head, preprocess.crop)
        _check(dataset, recorded, preprocess.crop)
        self._check_weights(recorded, preprocess.crop)
        return recorded

    def _check_weights(self, spec: Finetune, crop: int) -> None:
        """Refuse weights that do not fit the model; with `assemble`, as those who train do."""
        backbone, dataset = spec.backbone, spec.dataset
        head = spec.head.model_dump(exclude={"dropout"})
        model = [dataset.name, dataset.version, backbone.arch, backbone.weights_sha256, head, crop]
        key = f"{model} {backbone.weights}"
        if key not in self._fitting:
            assemble(self._store, spec)
            self._fitting.add(key)


def assemble(store: Store, spec: Finetune, freeze: int | None = None) -> PreparedRun:
    """Open the dataset and build the model of a recorded spec, the same on every worker.

    `freeze` is the depth to cut the model at; None: as `backbone.freeze` says.
    """
    dataset = open_dataset(store, spec.dataset.name, spec.dataset.version)
    preprocess = spec.preprocess or Preprocess()
    contract = Contract(max_side=dataset.manifest.settings.max_side, **preprocess.model_dump())
    weights = resolve_weights(store, spec.backbone)
    classes = dataset.manifest.classes
    torch.manual_seed(spec.train.seed)
    sync = spec.train.batch_norm == "sync"
    model = build(spec.backbone, spec.head, len(classes), contract.crop, sync_batch_norm=sync)
    registered = weights.model
    head_fits = bool(registered and (registered.classes, registered.head) == (classes, spec.head))
    load_weights(store, weights, model, keep_head=head_fits)
    plan = make_training_plan(model, spec.backbone, spec.train)
    if freeze is not None:
        model = model.cut(freeze)
    return PreparedRun(dataset, contract, weights, model, plan)


def enlargement(manifest: Manifest, preprocess: Preprocess) -> str | None:
    """Say that large images are enlarged again after import shrank them; None: they are not.

    No error, since serving shrinks and enlarges in the same way; but detail is lost for nothing.
    """
    max_side, resize = manifest.settings.max_side, preprocess.resize
    longest = max(manifest.width.max, manifest.height.max)
    if longest <= max_side or resize <= max_side:
        return None
    return (
        f"images of {manifest.ref} are stored with sides up to {max_side} pixels, and "
        f"preprocess.resize makes their shorter side {resize}: what import shrank is "
        f"enlarged again; import with --max-side {2 * resize} to keep its detail"
    )


def _check(dataset: DatasetVersion, spec: Finetune, crop: int) -> None:
    """Refuse a spec that could not train, or a setting without effect."""
    classes = dataset.manifest.classes
    sync = spec.train.batch_norm == "sync"
    model = build_on_meta(spec.backbone, spec.head, len(classes), crop, sync_batch_norm=sync)
    plan = make_training_plan(model, spec.backbone, spec.train)
    labels = choose_subset(dataset, spec.dataset).train.labels
    images = len(labels)
    class_weights(spec.train, labels, classes)
    workers = spec.scaling.workers
    if images < workers:
        raise DataError(
            f"dataset '{spec.dataset.name}' has {images} training images, fewer than "
            f"scaling.workers ({workers}); use at most {images}"
        )
    if spec.train.metric == "val.top5_accuracy" and len(classes) <= TOP:
        raise SpecError(
            f"train.metric: val.top5_accuracy needs more than {TOP} classes; "
            f"'{spec.dataset.name}' has {len(classes)}"
        )
    if sync and not any(isinstance(m, nn.SyncBatchNorm) for m in model.tail.modules()):
        raise SpecError("train.batch_norm: sync has no effect: the tail has no BatchNorm layer")
    _check_batch_statistics(model.cut(plan.always_frozen), spec, images, crop)


def _check_batch_statistics(model: TransferModel, spec: Finetune, images: int, crop: int) -> None:
    """Refuse a pass of one image through a trained BatchNorm layer that sees one pixel of it.

    A single value has no variance; torch would raise ValueError, of the last batch of an epoch.
    """
    train, workers = spec.train, spec.scaling.workers
    if train.batch_norm == "sync" and workers > 1:
        return  # its statistics are over all workers
    if min(_smallest_pass(total, spec) for total in _batch_sizes(images, train.batch_size)) > 1:
        return
    model.eval()
    for module in model.tail.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    try:
        model(torch.empty(1, 3, crop, crop, device="meta"))
    except ValueError as error:
        raise SpecError(
            f"train.batch_size: {train.batch_size} sends a single image of {images} through a "
            "trained BatchNorm layer whose map is one pixel, which has no statistics; choose "
            f"another train.batch_size, with which neither scaling.workers ({workers}) nor "
            f"train.accumulate ({train.accumulate}) leaves one image of an epoch's last batch "
            "alone, or a larger preprocess.crop"
        ) from error


def _batch_sizes(images: int, batch_size: int) -> set[int]:
    """Return how many images an epoch's batches have: the whole ones, and the last."""
    last = images % batch_size or batch_size
    return {min(batch_size, images), min(last, images)}


def _smallest_pass(batch: int, spec: Finetune) -> int:
    """Return the fewest images of a batch that pass through a worker's model at once."""
    smallest_slice = max(1, batch // spec.scaling.workers)
    return smallest_slice // min(spec.train.accumulate, smallest_slice)
