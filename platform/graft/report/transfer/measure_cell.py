"""Testing a trained cell, in a process with the hardware that trained it; plain torch, no Ray."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.activations.cache import ActivationCache
from graft.activations.cache_decision import measure_costs
from graft.activations.compute import TrunkSetup
from graft.activations.key import key_scheme
from graft.activations.lookup import SharedActivations
from graft.backbones.trunk import TrunkChain
from graft.data.copies import distinct_images
from graft.data.image import decode
from graft.data.index import Image, Images
from graft.data.loader import to_tensor
from graft.data.subset import choose_subset
from graft.data.views import evaluation_view
from graft.report.evaluation.compute_scores import expected_calibration_error
from graft.report.evaluation.predictions import BATCH_SIZE, Pixels, pixel_batches
from graft.report.transfer.cell_result import (
    RIGHT,
    CellFigures,
    TrainedCell,
    keep_figures,
    put_hits,
)
from graft.report.transfer.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from graft.report.transfer.design import Way, chosen_epoch
from graft.report.transfer.judging_images import judging_images
from graft.spec import Finetune, StandardAugment, TransferReport
from graft.store import Store
from graft.sweep.finishing import load_trial_model
from graft.training.attempt import training_data
from graft.training.loop import EpochDone, TrainingData, finetune
from graft.training.prepare_run import PreparedRun
from graft.training.worker_group import Ranks

TIMED_EPOCH = 2
"""The epoch that is timed, once the one before has opened what there is to open."""

Kind = tuple[str, int]
"""A corruption and its strength."""


@dataclass(frozen=True)
class LoadedCell:
    """A trained cell's model."""

    spec: Finetune
    """Its training's."""
    prepared: PreparedRun
    """With the trained weights, in evaluation mode, on the device."""
    chain: TrunkChain
    device: torch.device


def measure_cell(
    store: Store, report: str, spec: TransferReport, trained: TrainedCell, device: torch.device
) -> None:
    """Test a trained cell and keep its figures.

    At the largest budget it is tried on corrupted and on training images, too; of the first seed
    there it is also measured what an epoch takes.
    """
    cell, epoch = trained.cell, chosen_epoch(trained.record)
    number = epoch.epoch if epoch else 1
    prepared, chain = load_trial_model(store, trained.spec, trained.record, number)
    prepared.model.to(device).eval()
    loaded = LoadedCell(trained.spec, prepared, chain, device)
    subset = choose_subset(prepared.dataset, trained.spec.dataset)
    train = distinct_images(subset.train)
    largest = cell.condition.labels == spec.labels[-1]
    kinds = [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS if largest]
    judging = judging_images(store, spec, prepared.dataset).images
    hits, confidence = predict(loaded, judging, kinds)
    by_kind = dict(zip(kinds, hits[1:], strict=True))
    arrays = {
        name: np.stack([by_kind[name, strength] for strength in STRENGTHS])
        for name, _ in dict.fromkeys(kinds)
    }
    figures = CellFigures(
        report=report,
        images=len(train),
        tuned=len(np.setdiff1d(subset.val.digests, train.digests)),
        ece=expected_calibration_error(confidence, hits[0]),
        train_accuracy=float(predict(loaded, train, [])[0].mean()) if largest else None,
        hits=put_hits(store, report, {RIGHT: hits[0]} | arrays),
    )
    if largest and cell.seed == 0:
        data = training_data(prepared, trained.spec)
        update = {"way": way_of(cell.condition.arm, loaded), "cold_s": cold_seconds(loaded, data)}
        # Last, for it trains the model on.
        update["epoch_s"] = epoch_seconds(store, loaded, data)
        figures = figures.model_copy(update=update)
    keep_figures(store, trained.name, figures)


def predict(
    loaded: LoadedCell, images: Images, kinds: Sequence[Kind]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which images are predicted right, as they are and corrupted, and with what confidence.

    A batch is of all that a few images are turned into, so that each is decoded once, and logits
    are there of one batch at a time.

    Returns:
        Hits (1 + kinds, N), the first of the images as they are, and of these the confidence (N,).
    """
    contract, dataset = loaded.prepared.contract, loaded.prepared.dataset

    def variants(image: Image) -> Pixels:
        view = evaluation_view(decode(dataset.read(image)), contract)
        return np.stack([view, *(corrupt(view, *kind, image.sha256) for kind in kinds)])

    labels = images.labels
    threads, at_once = loaded.spec.scaling.cpus_per_worker, BATCH_SIZE // (1 + len(kinds))
    predicted, confidence = [], []
    for batch in pixel_batches(variants, images, threads, at_once):
        classes, top = _forward(loaded, np.concatenate(batch))
        predicted.append(classes.reshape(len(batch), -1))
        confidence.append(top.reshape(len(batch), -1)[:, 0])
    hits: NDArray[np.bool_] = labels == np.concatenate(predicted).T
    return hits, np.concatenate(confidence)


@torch.inference_mode()
def _forward(loaded: LoadedCell, pixels: Pixels) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the classes predicted for pixels (B, crop, crop, 3), and their probabilities (B,)."""
    x = to_tensor(pixels, loaded.prepared.contract, loaded.device)
    logits: Tensor = loaded.prepared.model(x).cpu()
    classes: NDArray[np.int64] = logits.numpy().argmax(1)  # of equal ones the first
    top: NDArray[np.float64] = logits.double().softmax(1).amax(1).numpy()
    return classes, top


def way_of(arm: str, loaded: LoadedCell) -> Way | None:
    """Return how an arm trains its backbone; None from scratch."""
    spec, depth = loaded.spec, loaded.prepared.model.depth
    if arm == "scratch":
        return None
    return Way(
        arm=arm,
        freeze=depth,
        trunk_digest=loaded.chain.digests[depth],
        weights=spec.backbone.weights,
        weights_sha256=spec.backbone.weights_sha256,
        head=spec.head,
        rates=spec.train.rates.model_dump(mode="json"),
    )


def cold_seconds(loaded: LoadedCell, data: TrainingData) -> float | None:
    """Return the seconds to compute the activations of the training images that it reads.

    In every view that is cached; live views never are.
    """
    spec, model = loaded.spec, loaded.prepared.model
    views = spec.augment.views if isinstance(spec.augment, StandardAugment) else 1
    if views == "live" or not model.depth:
        return None
    setup = TrunkSetup(model, data.loader, data.preprocess)
    cost = measure_costs(setup, data.train, "float32")[model.depth]
    return len(data.train) * min(views, spec.train.epochs) * (cost.decode_s + cost.trunk_s)


def epoch_seconds(store: Store, loaded: LoadedCell, data: TrainingData) -> float:
    """Return the seconds of an epoch, training and validation; it trains the model on."""
    spec, prepared, device = loaded.spec, loaded.prepared, loaded.device
    if not spec.cache_refusal:
        cache = ActivationCache(store, data.dataset, key_scheme(spec, loaded.chain, device))
        data = replace(data, cached=SharedActivations().lookup(cache))
    ranks, seconds, began = Ranks.alone(device), 0.0, time.perf_counter()
    for event in finetune(prepared.model, data, spec.train, prepared.plan, ranks, None):
        if isinstance(event, EpochDone):
            seconds, began = time.perf_counter() - began, time.perf_counter()
            if event.epoch == TIMED_EPOCH:
                break
    return seconds
