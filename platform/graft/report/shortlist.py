"""Which backbone suits a dataset, by what its frozen features give: a table, not a training.

Two estimates over the same features of the training images, view 0: the cross-validated accuracy
of a regularised linear probe, and LogME (You et al. 2021, arXiv:2102.11005), the evidence that
the features give for the labels.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from graft.activations.cache import Activations
from graft.activations.fill import Wanted, fill, run_here
from graft.activations.measure import measure
from graft.backbones.trunk import trunk_chain
from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.report.ranking import DepthCost, Ranked
from graft.spec import Backbone, Dataset, Finetune, NoAugment
from graft.store import Store
from graft.training.attempt import training_data
from graft.training.kept import costs_of, naming_of
from graft.training.prepare import Assembly, assemble, resolve

FOLDS = 5
ALPHAS = tuple(10.0**power for power in range(-1, 6))
"""Strengths of the probe's regularisation, of which it chooses by leaving one out."""
CHUNK = 256
"""Images whose activations are in memory at once."""
BACKWARD = 2
"""What a backward pass costs, in forward passes."""


def candidate(store: Store, dataset: DatasetVersion, backbone: Backbone) -> Finetune:
    """Return a head-only job on a backbone, with nothing left open; its weights are in the store.

    Raises:
        InputError: the weights are not to be had, or do not fit.
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


def folds_of(dataset: DatasetVersion) -> int:
    """Return in how many parts cross-validation divides the training images.

    Raises:
        InputError: a class has one image, which cannot both train and validate.
    """
    counts = dataset.manifest.counts["train"]
    fewest = min(counts, key=lambda name: counts[name])
    if counts[fewest] < 2:
        raise InputError(
            f"{dataset.manifest.ref} has {counts[fewest]} training image of class '{fewest}'; "
            "cross-validation needs two"
        )
    return min(FOLDS, counts[fewest])


def rank_one(
    store: Store, spec: Finetune, folds: int, progress: Callable[[int, int], object]
) -> Ranked:
    """Measure one candidate.

    Args:
        store: where its activations are kept, or will be.
        spec: from `candidate`.
        folds: of cross-validation.
        progress: told how many images of how many have gone through the trunk.
    """
    assembly = assemble(store, spec)
    data = training_data(assembly, spec)
    chain = trunk_chain(assembly.model, assembly.contract)
    naming = naming_of(spec, chain, "cpu")
    wanted = Wanted("train", 0, assembly.model.depth)
    done = 0

    def told(images: int) -> None:
        nonlocal done
        done += images
        progress(done, len(data.train))

    run = run_here(store, assembly.model, data.loader, data.preprocess, progress=told)
    filled = fill(store, data.dataset, naming, [wanted], run)
    features = pooled(filled.activations[wanted])
    labels = np.array([image.label for image in data.train], np.int64)
    accuracies = probe(features, labels, folds)
    decode_s = costs_of(assembly.model, data, naming.dtype)[assembly.model.depth].decode_s
    stages, head_s = _seconds(assembly)
    return Ranked(
        arch=spec.backbone.arch,
        weights=spec.backbone.weights,
        accuracy=float(np.mean(accuracies)),
        deviation=float(np.std(accuracies, ddof=1)),
        logme=logme(features, labels),
        features=features.shape[1],
        parameters=sum(p.numel() for p in assembly.model.network.parameters()),
        images_per_second=1 / (sum(stages) + head_s),
        costs=_costs(assembly, stages, head_s, decode_s, len(data.train)),
        computed=filled.trunk_forwards,
    )


def pooled(activations: Activations) -> NDArray[np.float64]:
    """Return what a linear head would see: maps and tokens averaged, (N, D)."""
    images = activations.images
    rows = []
    for start in range(0, len(images), CHUNK):
        taken = activations.take(images[start : start + CHUNK])
        if taken.dim() == 4:  # (b, C, H, W)
            taken = taken.mean(dim=(2, 3))
        elif taken.dim() == 3:  # (b, tokens, D)
            taken = taken.mean(dim=1)
        rows.append(taken.double().numpy())
    return np.concatenate(rows)


def probe(features: NDArray[np.float64], labels: NDArray[np.int64], folds: int) -> list[float]:
    """Return the accuracy of a linear probe in each fold: features (N, D), labels (N,)."""
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS))
    return [float(found) for found in cross_val_score(model, features, labels, cv=parts)]


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
            kept = float((squares / (squares + t)).sum())
            weight = float((squares * along / (squares + t) ** 2).sum())
            error = float((along / (1 + squares / t) ** 2).sum()) + outside
            a, b = kept / max(weight, 1e-12), (count - kept) / max(error, 1e-12)
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


def _seconds(assembly: Assembly, images: int = 4) -> tuple[list[float], float]:
    """Return the forward seconds of each stage and of the head, for one image, here and now."""
    model, crop = assembly.model, assembly.contract.crop
    ends = [cost.seconds for cost in measure(model, crop, images)]
    stages = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    x = torch.zeros(images, crop, crop, 3).permute(0, 3, 1, 2)
    whole = 0.0
    with torch.inference_mode():
        for _ in range(2):  # the first one warms up
            before = time.perf_counter()
            model.eval()(x)
            whole = (time.perf_counter() - before) / images
    return stages, max(whole - ends[-1], 0.0)


def _costs(
    assembly: Assembly, stages: Sequence[float], head_s: float, decode_s: float, images: int
) -> tuple[DepthCost, ...]:
    """Return what an epoch costs at each freeze depth, the deepest first."""
    costs = []
    for depth in range(len(stages), -1, -1):
        trunk, tail = sum(stages[:depth]), sum(stages[depth:]) + head_s
        names = assembly.model.stages.names
        costs.append(
            DepthCost(
                depth=depth,
                through=names[depth - 1] if depth else None,
                epoch_s=images * (decode_s + trunk + (1 + BACKWARD) * tail),
                cached_s=images * (1 + BACKWARD) * tail if depth else None,
            )
        )
    return tuple(costs)
