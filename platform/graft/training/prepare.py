"""From a spec to all that a run trains, and the checks that come before anything starts."""

from dataclasses import dataclass

import torch
from torch import nn

from graft.backbones.model import TransferModel, build, check_input
from graft.backbones.weights import Weights, load_weights, resolve_weights
from graft.data.budget import choose_images
from graft.data.manifest import DatasetVersion, open_dataset
from graft.errors import DataError, SpecError
from graft.spec import Contract, Finetune, Preprocess
from graft.store import Store
from graft.training.objective import class_weights
from graft.training.plan import Plan, make_plan


@dataclass(frozen=True)
class Assembly:
    """What a recorded spec stands for, in memory."""

    dataset: DatasetVersion
    contract: Contract
    weights: Weights
    model: TransferModel
    """With its initial weights."""
    plan: Plan


def resolve(store: Store, spec: Finetune) -> Finetune:
    """Return the spec with nothing left open: version, weights, preprocessing, defaults.

    Raises:
        InputError: whatever would make the run fail before its first step.
    """
    dataset = open_dataset(store, spec.dataset.name, spec.dataset.version)
    weights = resolve_weights(store, spec.backbone)
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
    _check(assemble(store, recorded), recorded)
    return recorded


def assemble(store: Store, spec: Finetune, freeze: int | None = None) -> Assembly:
    """Open the dataset and build the model of a recorded spec, the same on every worker.

    `freeze` cuts it elsewhere than `backbone.freeze` does.
    """
    dataset = open_dataset(store, spec.dataset.name, spec.dataset.version)
    preprocess = spec.preprocess or Preprocess()
    contract = Contract(max_side=dataset.manifest.settings.max_side, **preprocess.model_dump())
    weights = resolve_weights(store, spec.backbone)
    classes = dataset.manifest.classes
    torch.manual_seed(spec.train.seed)
    sync = spec.train.batch_norm == "sync"
    model = build(spec.backbone, spec.head, len(classes), contract.crop, sync_batch_norm=sync)
    same = weights.model and (weights.model.classes, weights.model.head) == (classes, spec.head)
    load_weights(store, weights, model, keep_head=bool(same))
    plan = make_plan(model, spec.backbone, spec.train)
    if freeze is not None:
        model = model.cut(freeze)
    return Assembly(dataset, contract, weights, model, plan)


def _check(assembly: Assembly, spec: Finetune) -> None:
    training = choose_images(assembly.dataset, spec.dataset).train
    images = len(training)
    labels = [image.label for image in training]
    class_weights(spec.train, labels, assembly.dataset.manifest.classes)
    workers = spec.scaling.workers
    if images < workers:
        raise DataError(
            f"dataset '{spec.dataset.name}' has {images} training images, fewer than "
            f"scaling.workers ({workers}); use at most {images}"
        )
    normed = any(isinstance(m, nn.SyncBatchNorm) for m in assembly.model.tail.modules())
    if spec.train.batch_norm == "sync" and not normed:
        raise SpecError("train.batch_norm: sync has no effect: the tail has no BatchNorm layer")
