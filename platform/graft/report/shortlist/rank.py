"""Which backbone suits a dataset, judged by its frozen features, without training.

Two estimates from the features of the training images (view 0): the cross-validated accuracy of a
regularised linear probe, and LogME (You et al. 2021, arXiv:2102.11005), the evidence that the
features give for the labels. Copies of an image count once, so that no fold validates on what it
has trained on.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from graft.activations.cache import ActivationCache, Activations
from graft.activations.cache_decision import measure_costs
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import fill, run_here
from graft.activations.key import CacheEntry, key_scheme
from graft.activations.lease import LeaseTerms
from graft.activations.time_trunk import time_depths
from graft.backbones.trunk import trunk_chain
from graft.data.copies import distinct_images
from graft.data.index import Images
from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.report.shortlist.candidates import Candidate, EpochCost
from graft.spec import Backbone, Dataset, Finetune, NoAugment
from graft.store import Store
from graft.sweep.sweep_plan import BACKWARD
from graft.training.attempt import training_data
from graft.training.prepare_run import PreparedRun, assemble, resolve

FOLDS = 5
ALPHAS = tuple(10.0**power for power in range(-1, 6))
"""Strengths of regularisation among which the probe chooses, by leave-one-out validation."""
CHUNK = 256
"""Images whose activations are in memory at once."""


def candidate_spec(store: Store, dataset: DatasetVersion, backbone: Backbone) -> Finetune:
    """Return the resolved spec of a head-only run on a backbone, whose weights are then stored.

    Raises:
        InputError: the weights are not available, or do not fit.
    """
    manifest = dataset.manifest
    spec = Finetune(
        kind="finetune",
        name="rank",
        dataset=Dataset(name=manifest.name, version=manifest.version),
        backbone=backbone,
        augment=NoAugment(kind="none"),
    )
    return resolve(store, spec)


def count_folds(dataset: DatasetVersion) -> int:
    """Return the number of folds into which cross-validation divides the training images.

    Raises:
        InputError: a class has one image, or copies of one, which cannot both train and validate.
    """
    counts = Counter(distinct_images(dataset.images("train")).labels.tolist())
    smallest, images = min(counts.items(), key=lambda item: item[1])
    if images < 2:
        raise InputError(
            f"{dataset.manifest.ref} has {images} training image of class "
            f"'{dataset.manifest.classes[smallest]}', of copies one; cross-validation needs two"
        )
    return min(FOLDS, images)


def measure_candidate(
    store: Store,
    spec: Finetune,
    folds: int,
    progress: Callable[[int, int], object],
    waiting: Callable[[str], object],
) -> Candidate:
    """Measure one candidate.

    Args:
        store: where its activations are cached.
        spec: from `candidate_spec`.
        folds: number of folds of cross-validation.
        progress: called with the number of images that have gone through the trunk, and of all.
        waiting: called with which other process computes the same now, and is waited for.
    """
    prepared = assemble(store, spec)
    data = training_data(prepared, spec)
    chain = trunk_chain(prepared.model, prepared.contract)
    cache = ActivationCache(store, data.dataset, key_scheme(spec, chain, "cpu"))
    setup = TrunkSetup(prepared.model, data.loader, data.preprocess)
    entry = CacheEntry("train", 0, prepared.model.depth)
    filled = fill(cache, [entry], run_here(store, setup, progress), LeaseTerms(waiting=waiting))
    images = distinct_images(data.train)
    features = pooled(filled.activations[entry], images)
    labels = images.labels.astype(np.int64)
    accuracies = linear_probe(features, labels, folds)
    decode_s = measure_costs(setup, data.train, cache.keys.dtype)[entry.depth].decode_s
    stages, head_s = _forward_seconds(prepared)
    return Candidate(
        arch=spec.backbone.arch,
        weights=spec.backbone.weights,
        accuracy=float(np.mean(accuracies)),
        deviation=float(np.std(accuracies, ddof=1)),
        logme=logme(features, labels),
        features=features.shape[1],
        parameters=sum(p.numel() for p in prepared.model.network.parameters()),
        images_per_second=1 / (sum(stages) + head_s),
        costs=_costs(prepared, stages, head_s, decode_s, len(data.train)),
        computed=filled.trunk_forwards,
    )


def pooled(activations: Activations, images: Images) -> NDArray[np.float64]:
    """Return the features that a linear head would see: maps and tokens averaged, (N, D)."""
    rows = []
    for start in range(0, len(images), CHUNK):
        chunk = activations.take(images[start : start + CHUNK].digests)
        if chunk.dim() == 4:  # (b, C, H, W)
            chunk = chunk.mean(dim=(2, 3))
        elif chunk.dim() == 3:  # (b, tokens, D)
            chunk = chunk.mean(dim=1)
        rows.append(chunk.double().numpy())
    return np.concatenate(rows)


def linear_probe(
    features: NDArray[np.float64], labels: NDArray[np.int64], folds: int
) -> list[float]:
    """Return the accuracy of a linear probe in each fold: features (N, D), labels (N,)."""
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS))
    accuracies = cross_val_score(probe, features, labels, cv=splitter)
    return [float(accuracy) for accuracy in accuracies]


def logme(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean log evidence per image of the best Bayesian linear model, over classes.

    Features F: (N, D) and, for each class, y: (N,) of 0 and 1. With w ~ N(0, I / a) and
    y ~ N(F w, I / b), a and b are found by fixed-point iteration, over one singular value
    decomposition of F for all classes (You et al. 2021, arXiv:2110.10545).
    """
    count = len(features)
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    squares = singular**2
    evidences: list[float] = []
    for label in np.unique(labels):
        y = (labels == label).astype(np.float64)
        along = (left.T @ y) ** 2
        outside = max(float(y @ y - along.sum()), 0.0)
        a, b = 1.0, 1.0
        for _ in range(100):
            t = a / b
            effective = float((squares / (squares + t)).sum())  # number of parameters
            weight = float((squares * along / (squares + t) ** 2).sum())
            error = float((along / (1 + squares / t) ** 2).sum()) + outside
            a = effective / max(weight, 1e-12)
            b = (count - effective) / max(error, 1e-12)
            if abs(a / b - t) <= 1e-5 * t:
                break
        t = a / b
        weight = float((squares * along / (squares + t) ** 2).sum())
        error = float((along / (1 + squares / t) ** 2).sum()) + outside
        evidences.append(
            float(
                len(squares) / 2 * np.log(a)
                + count / 2 * np.log(b)
                - np.log(a + b * squares).sum() / 2
                - b * error / 2
                - a * weight / 2
                - count / 2 * np.log(2 * np.pi)
            )
        )
    return sum(evidences) / len(evidences) / count


def _forward_seconds(prepared: PreparedRun, images: int = 4) -> tuple[list[float], float]:
    """Return the forward seconds of each stage and of the head, for one image, here and now."""
    model, crop = prepared.model, prepared.contract.crop
    ends = [timing.seconds for timing in time_depths(model, crop, images)]
    stages = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    x = torch.zeros(images, crop, crop, 3).permute(0, 3, 1, 2)
    whole = 0.0
    with torch.inference_mode():
        for _ in range(2):  # the first pass warms up
            before = time.perf_counter()
            model.eval()(x)
            whole = (time.perf_counter() - before) / images
    return stages, max(whole - ends[-1], 0.0)


def _costs(
    prepared: PreparedRun, stages: Sequence[float], head_s: float, decode_s: float, images: int
) -> tuple[EpochCost, ...]:
    """Return the cost of an epoch at each freeze depth, the deepest first."""
    costs, names = [], prepared.model.stages.names
    for depth in range(len(stages), -1, -1):
        trunk, tail = sum(stages[:depth]), sum(stages[depth:]) + head_s
        costs.append(
            EpochCost(
                depth=depth,
                through=names[depth - 1] if depth else None,
                epoch_s=images * (decode_s + trunk + (1 + BACKWARD) * tail),
                cached_s=images * (1 + BACKWARD) * tail if depth else None,
            )
        )
    return tuple(costs)
