"""Calibration on images that were not fitted on: never worse by more than noise, or refused.

Each seed draws another split and trains another head of SqueezeNet 1.1 on ImageNet's frozen stages:
at a usual rate, and at a high one, at which heads are too sure of themselves and some never answer
with a class (SqueezeNet's logits end in a ReLU). Test is divided by hashes, as `graft models
calibrate` divides it: one half fits a calibration, which cross-validation on that half chooses or
refuses; the other half judges. Noise is 1.96 standard errors, by resampling the images that judge,
of the difference of after and before.

By chance 2.5 % of seeds would be worse by more, were the errors unbiased. With ten images in a bin
they are not: so labels are drawn from the calibrated probabilities, which are right then, and it is
counted how often the same test calls them worse. Seeds share images, so that standard errors over
them are a little too small.

    bench_calibration.py --quick      2 seeds, to try the bench itself
    bench_calibration.py --test 0.1   as many test images as an import sets apart by default
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lab import SHARED
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

from graft.activations.trunk_batches import ActivationBatch
from graft.backbones.process_setup import set_up_process
from graft.data.copies import distinct_images
from graft.data.importing import import_dataset
from graft.data.index import Images
from graft.data.loader import evaluation_slices, to_tensor
from graft.data.splits import SPLITS, make_splits
from graft.decisions.calibration import NONE, Calibration, cross_fitted, fit_calibration
from graft.decisions.choose import Labelled
from graft.demo.images import write_digits
from graft.report.decision.held_out import folds_of
from graft.report.decision.measured import Measured
from graft.report.uses import part_of
from graft.spec import Finetune, parse_job
from graft.store import Store
from graft.training.attempt import training_data
from graft.training.loop import Learner, train_step
from graft.training.metrics import BINS, Tally, confidence_bins
from graft.training.prepare_run import assemble, resolve
from graft.training.worker_group import Ranks
from report import record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ARCH = "squeezenet1_1"
WEIGHTS = SHARED / "weights" / f"{ARCH}-imagenet.safetensors"
CPU = torch.device("cpu")
SEEDS = 20
TEST = 0.4
BATCH = 32
EPOCHS = 60
RATES = (3e-3, 1e-2)
RESAMPLES = 500
DRAWS = 200
"""Of labels, by which calibrated probabilities are right."""
NOISE = 1.96
"""Standard errors, which an unbiased difference exceeds upwards in `NOMINAL` of draws."""
NOMINAL = 0.025
EXPLAINED = 0.95
"""Chance explains so many seeds that are worse as it gives at most in such a share of draws."""

RMS = "debiased RMS"
"""The product's calibration error."""
ECE = f"ECE, {BINS} bins"
LOSS = "log loss"
MEASURES = (RMS, ECE, LOSS)
JUDGED = (RMS, ECE)
"""Which may not become worse."""


@dataclass(frozen=True)
class Source:
    """A dataset, and how it is used."""

    name: str
    folder: Path
    side: int
    """Of the square that the backbone sees, in pixels."""
    idle: float
    """Share of each class that does nothing; what that and test leave is trained on."""


@dataclass(frozen=True)
class Frozen:
    """All images of a dataset behind the frozen stages."""

    source: Source
    store: Store
    spec: Finetune
    classes: tuple[str, ...]
    images: Images
    """Without copies."""
    activations: torch.Tensor
    """(N, channels, height, width)."""

    def at(self, rate: float) -> "Frozen":
        """Return the same with heads to be trained at another rate."""
        train = self.spec.train
        optimizer = train.optimizer.model_copy(update={"lr": rate})
        train = train.model_copy(update={"optimizer": optimizer})
        return replace(self, spec=self.spec.model_copy(update={"train": train}))

    @property
    def labels(self) -> Ints:
        return self.images.labels.astype(np.int64)

    def splits(self, seed: int, test: float) -> dict[str, Ints]:
        """Return the places of each split's images, as an import with the seed draws them."""
        labelled = [(image.sha256, self.classes[image.label]) for image in self.images]
        split_of = make_splits(labelled, self.source.idle, test, seed)
        of_each = np.array([split_of[image.sha256] for image in self.images])
        return {split: np.flatnonzero(of_each == split) for split in SPLITS}


@dataclass(frozen=True)
class Outcome:
    """What became of one seed's model."""

    calibration: Calibration | None
    """None: refused."""
    fitted_on: int
    judged_by: int
    accuracy: float
    silent: bool
    """Whether there is a class that the head never answers with."""
    before: Mapping[str, float]
    """By measure."""
    after: Mapping[str, float]
    worse: Mapping[str, bool]
    """By more than noise."""
    by_chance: Mapping[str, float]
    """How often it would seem worse, were the calibrated probabilities right."""


class Judge:
    """Measures of the same images' probabilities, for many draws of these images at once."""

    def __init__(self, probabilities: Floats, weights: Floats):
        """Take (N, classes), and how often each draw has each image: (R, N)."""
        self._p = probabilities
        self._weights = weights
        self._top = probabilities.max(axis=1)
        self._bins = np.eye(BINS)[confidence_bins(torch.from_numpy(self._top)).numpy()]
        self._images = weights @ self._bins

    def measures(self, labels: Ints) -> dict[str, Floats]:
        """Return each measure, by draw: (R,)."""
        away = ((self._p.argmax(axis=1) == labels) - self._top)[:, None]
        distances = self._weights @ (self._bins * away)
        squares = self._weights @ (self._bins * away**2)
        count = self._images.sum(axis=1)
        # As `graft.training.metrics: calibration_error` has it.
        several = self._images > 1
        pairs = np.where(several, distances**2 - squares, 0) / np.maximum(self._images - 1, 1)
        losses = -np.log(np.maximum(self._p[np.arange(len(labels)), labels], 1e-300))
        return {
            RMS: np.sqrt(np.maximum(pairs.sum(axis=1) / count, 0)),
            ECE: np.abs(distances).sum(axis=1) / count,
            LOSS: self._weights @ losses / count,
        }


def options(words: list[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--test", type=float, default=TEST, help="share of test images")
    parser.add_argument("--quick", action="store_true", help="to try the bench itself")
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.seeds = 2
    return chosen


def sources(folder: Path) -> Iterator[Source]:
    """Yield the datasets that there are here."""
    photographs = SHARED / "ants-bees"
    if photographs.is_dir():
        yield Source("ants-bees", photographs, side=224, idle=0.1)
    else:
        print(f"skips ants-bees: there is no {photographs}")
    write_digits(folder / "digits", folder / "rest", train_per_class=15, val_per_class=1000)
    yield Source("digits", folder / "digits", side=128, idle=0.5)


def freeze(store: Store, source: Source) -> Frozen:
    """Import a dataset, and send all its images through the frozen stages once."""
    import_dataset(store, str(source.folder), source.name)
    document = {
        "kind": "finetune",
        "name": source.name,
        "dataset": {"name": source.name},
        "backbone": {"arch": ARCH, "weights": str(WEIGHTS), "freeze": "all"},
        "preprocess": {"resize": source.side * 8 // 7, "crop": source.side},
        "augment": {"kind": "none"},
        "train": {"epochs": EPOCHS, "batch_size": BATCH, "optimizer": {"kind": "adamw"}},
    }
    spec = resolve(store, parse_job(document, "bench"))
    prepared = assemble(store, spec)
    data = training_data(prepared, spec)
    images = distinct_images(
        Images.of(image for split in SPLITS for image in data.dataset.images(split))
    )
    slices = evaluation_slices(len(images), BATCH, 0, 1)
    outputs = [
        prepared.model.trunk(to_tensor(batch.images, data.preprocess))
        for batch in data.loader.batches(images, slices, view=0)
    ]
    return Frozen(source, store, spec, data.classes, images, torch.cat(outputs))


def logits_of_head(frozen: Frozen, seed: int, train: Ints, test: Ints) -> NDArray[np.float32]:
    """Train a head, with the seed, by the product's steps; return its logits for test images."""
    recipe = frozen.spec.train.model_copy(update={"seed": seed})
    spec = frozen.spec.model_copy(update={"train": recipe})
    prepared = assemble(frozen.store, spec)
    data = replace(training_data(prepared, spec), train=frozen.images.at(train))
    torch.manual_seed(seed * 1_000_003)
    model = prepared.model
    learner = Learner.of(model, prepared.plan, data, recipe, Ranks.alone(CPU), slots={})
    model.train()
    tally = Tally.empty(len(frozen.classes), CPU)
    labels = frozen.labels
    for epoch in range(recipe.epochs):
        for part in data.training_slices(recipe, epoch):
            places = train[part.indices]
            batch = ActivationBatch(frozen.activations[places], labels[places], part)
            train_step(learner, batch, 1.0, tally)
    model.eval()
    with torch.inference_mode():
        parts = [model.tail(frozen.activations[places]) for places in batches(test)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def batches(places: Ints) -> Iterator[Ints]:
    for first in range(0, len(places), BATCH):
        yield places[first : first + BATCH]


def calibrated(fitting: Labelled, digests: tuple[str, ...]) -> Calibration | None:
    """Return what `graft models calibrate` would record; None where it is not shown to help.

    All that it goes by are images that calibrate: each is looked at with what was fitted without
    its fold.
    """
    logits, labels, folds = fitting.logits, fitting.labels, folds_of(digests)
    calibration = fit_calibration(logits, labels, folds)
    if calibration.method == "none":
        return None
    crossed = cross_fitted(logits, labels, folds)
    return None if Measured(labels, NONE.apply(logits), crossed).is_worse else calibration


def outcome(frozen: Frozen, seed: int, test: float) -> Outcome:
    """Train one seed's head, calibrate it, and judge it before and after."""
    splits = frozen.splits(seed, test)
    places = splits["test"]
    logits, labels = logits_of_head(frozen, seed, splits["train"], places), frozen.labels[places]
    digests = np.array([frozen.images[place].sha256 for place in places])
    judges = np.array([part_of(digest) == "judge" for digest in digests])
    fitting = Labelled(logits[~judges], labels[~judges])
    calibration = calibrated(fitting, tuple(digests[~judges].tolist()))
    true, applied = labels[judges], calibration or NONE
    p = Measured(true, NONE.apply(logits[judges]), applied.apply(logits[judges]))
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(len(true), np.full(len(true), 1 / len(true)), size=1 + RESAMPLES)
    weights[0] = 1  # the images themselves
    before, after = (Judge(some, weights.astype(np.float64)) for some in (p.before, p.after))
    values = [
        {name: float(some[0]) for name, some in on.measures(true).items()} for on in (before, after)
    ]
    products = [p.error_before, p.error_after]
    np.testing.assert_allclose([measured[RMS] for measured in values], products, atol=1e-6)
    return Outcome(
        calibration=calibration,
        fitted_on=len(fitting),
        judged_by=len(true),
        accuracy=float(p.right(p.before).mean()),
        silent=len(np.unique(logits.argmax(axis=1))) < len(frozen.classes),
        before=values[0],
        after=values[1],
        worse=worse(before, after, true),
        by_chance=worse_by_chance(before, after, p.after, draw) if calibration else {},
    )


def worse(before: Judge, after: Judge, labels: Ints) -> dict[str, bool]:
    """Return of each measure whether it is worse after by more than noise."""
    earlier, later = before.measures(labels), after.measures(labels)
    changes = {name: later[name] - earlier[name] for name in MEASURES}
    return {name: bool(some[0] > NOISE * some[1:].std()) for name, some in changes.items()}


def worse_by_chance(
    before: Judge, after: Judge, right: Floats, draw: np.random.Generator
) -> dict[str, float]:
    """Return how often each is worse where labels have the probabilities (N, classes)."""
    bounds, times = right.cumsum(axis=1), dict.fromkeys(MEASURES, 0)
    for _ in range(DRAWS):
        labels = (bounds > draw.random((len(bounds), 1)) * bounds[:, -1:]).argmax(axis=1)
        for name, is_worse in worse(before, after, labels).items():
            times[name] += is_worse
    return {name: count / DRAWS for name, count in times.items()}


def mean(values: Iterable[float], sign: str = "") -> str:
    """Return a mean and its standard error over seeds, in words."""
    some = np.array(list(values))
    error = some.std(ddof=1) / len(some) ** 0.5 if len(some) > 1 else np.nan
    return f"{some.mean():{sign}.3f} ±{error:.3f}"


def show(name: str, outcomes: Sequence[Outcome]) -> None:
    """Print what came of a dataset's seeds, and append it to bench.jsonl."""
    done = [one for one in outcomes if one.calibration]
    refused = [one for one in outcomes if not one.calibration]
    vector = sum(one.calibration.method == "vector" for one in done if one.calibration)
    fit, judge = (
        round(float(np.mean(counts)))
        for counts in zip(*((one.fitted_on, one.judged_by) for one in outcomes), strict=True)
    )
    print(
        f"\n{name}: {len(outcomes)} seeds, {len(done)} calibrated ({vector} by vector scaling), "
        f"{len(refused)} refused\nabout {fit} images fit, {judge} judge; accuracy "
        f"{mean(one.accuracy for one in outcomes)};\n"
        f"{sum(one.silent for one in outcomes)} heads never answer with some class"
    )
    table = Table("calibrated", "before", "after", "change", "worse", "chance", box=box.SIMPLE)
    for measure in MEASURES if done else ():
        table.add_row(
            measure,
            mean(one.before[measure] for one in done),
            mean(one.after[measure] for one in done),
            mean((one.after[measure] - one.before[measure] for one in done), "+"),
            str(sum(one.worse[measure] for one in done)),
            f"{sum(one.by_chance[measure] for one in done):.1f}",
        )
    if done:
        Console(width=80).print(table)
    if refused:
        errors = (f"{measure} {mean(one.before[measure] for one in refused)}" for measure in JUDGED)
        print(f"  refused: {', '.join(errors)}")
    before, after = (
        float(np.mean([values[ECE] for values in some]))
        for some in ([one.before for one in outcomes], [one.after for one in outcomes])
    )
    record(f"calibration, {name}, {ECE}", after, before, "error", higher_is_better=False)
    verdict(name, done)


def verdict(name: str, done: Sequence[Outcome]) -> None:
    """Say whether more seeds became worse than chance explains."""
    for measure in JUDGED:
        count = sum(one.worse[measure] for one in done)
        rate = float(np.mean([one.by_chance[measure] for one in done])) if done else 0.0
        explained = int(binom.ppf(EXPLAINED, len(done), rate)) if done else 0
        print(
            f"{name}, {measure}: worse by more than noise in {count} of {len(done)};\n"
            f"  {NOMINAL * len(done):.1f} were it unbiased, chance explains {explained}"
            f"{'  NOT REACHED' if count > explained else ''}"
        )


def main(chosen: argparse.Namespace, folder: Path) -> None:
    """Measure, print, append to bench.jsonl."""
    if not WEIGHTS.is_file():
        print(f"skips all: there is no {WEIGHTS}")
        return
    set_up_process(torch.get_num_threads())  # as OMP_NUM_THREADS says
    store = Store.open(str(folder / "store"))
    for source in sources(folder):
        began = time.monotonic()
        frozen = freeze(store, source)
        for rate in RATES:
            heads, seeds = frozen.at(rate), range(chosen.seeds)
            show(
                f"{source.name} at lr {rate}", [outcome(heads, seed, chosen.test) for seed in seeds]
            )
        print(f"it took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        main(options(sys.argv[1:]), Path(temporary))
