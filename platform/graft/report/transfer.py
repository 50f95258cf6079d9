"""A transfer report: its trainings as two sweeps, its predictions, its answers, its page.

reports/<report>/spec.yaml     what was asked; makes the report begun
sweeps/<report>-rates          the first seed at every rate
sweeps/<report>-seeds          the other seeds at the rates that were chosen
reports/<report>/report.json   the answers; makes the report finished

Who comes back goes on with the same sweeps: what is trained is not trained again.
"""

import json
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from graft.data.budget import choose_images
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.manifest import DatasetVersion, Image, open_dataset
from graft.data.views import evaluation_view
from graft.errors import RunFailed
from graft.report.answers import Measured, answer
from graft.report.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from graft.report.design import (
    METRIC,
    MODE,
    Budget,
    Cell,
    arm_of,
    changes_of,
    chosen_rates,
    first_cells,
    other_cells,
)
from graft.report.predictions import Pixels, prepared
from graft.report.reports import Report, has_report, publish_report, read_report, read_transfer
from graft.report.transfer_page import transfer_files
from graft.report.verdicts import tell_versions
from graft.spec import (
    Contract,
    Finetune,
    ListSearch,
    NoScheduler,
    Pretrained,
    StandardAugment,
    Sweep,
    TransferReport,
    dump_job,
    trial_spec,
)
from graft.store import Store
from graft.sweep.finish import kept_model
from graft.sweep.plan import TWO_CORES
from graft.sweep.resolve import prepare_sweep
from graft.sweep.results import SweepResult, TrialRecord, best_epoch, create_sweep
from graft.training.attempt import training_data
from graft.training.kept import costs_of
from graft.training.prepare import assemble, resolve

Change = Callable[[Pixels, str], Pixels]
"""From what a model would see of an image, and the image's name, to what it sees."""
RunSweep = Callable[[str], SweepResult]
"""Runs a recorded sweep to its end, or goes on with it."""


def create_transfer(store: Store, spec: TransferReport, report: str | None = None) -> str:
    """Record a report's spec, its base with nothing left open, under an id; return that.

    Raises:
        InputError: whatever would make a training fail before its first step, at any budget.
    """
    base = resolve(store, spec.base)
    others = tuple(_resolved(store, spec, other) for other in spec.other_backbones)
    recorded = spec.model_copy(update={"base": base, "other_backbones": others})
    dataset = _dataset(store, base)
    for cell in first_cells(recorded):  # also: is there an image of each class at every budget?
        one = trial_spec(base, changes_of(recorded, cell, _holds_out(dataset)), "the report")
        choose_images(dataset, one.dataset)
    new = f"{spec.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    report = report or new
    store.create(f"reports/{report}/spec.yaml", dump_job(recorded).encode())
    return report


def _resolved(store: Store, spec: TransferReport, other: Pretrained) -> Pretrained:
    """Return a backbone beside the base's with nothing left open."""
    own = {name: getattr(other, name) for name in ("arch", "weights", "weights_sha256")}
    update: dict[str, object] = {"backbone": spec.base.backbone.model_copy(update=own)}
    if other.preprocess:
        update["preprocess"] = other.preprocess
    found = resolve(store, spec.base.model_copy(update=update))
    return Pretrained(
        arch=other.arch,
        weights=found.backbone.weights,
        weights_sha256=found.backbone.weights_sha256,
        preprocess=found.preprocess,
    )


def run_transfer(
    store: Store, report: str, run_sweep: RunSweep, progress: Callable[[int, int], object]
) -> Report:
    """Run, or go on with, a recorded report; return it.

    Args:
        store: where it is recorded.
        report: its id.
        run_sweep: runs its trainings.
        progress: told how many of how many trained models have been tested.

    Raises:
        RunFailed: at some budget no training gave a finite loss.
    """
    if has_report(store, report):
        return read_report(store, report)
    spec = read_transfer(store, report)
    dataset = _dataset(store, spec.base)
    first = first_cells(spec)
    trained = _train(store, spec, f"{report}-rates", first, run_sweep)
    rates = chosen_rates(trained.items())
    others = other_cells(spec, rates)
    if others:
        trained |= _train(store, spec, f"{report}-seeds", others, run_sweep)
    chosen = [cell for cell in first if cell.rate == rates[cell.backbone, cell.budget]]
    cells = chosen + others
    for cell in cells:
        if trained[cell].checkpoint is None:
            arm, labels = cell.budget.arm, cell.budget.labels
            raise RunFailed(
                f"{report}: {spec.backbones[cell.backbone].arch}, {arm} at labels {labels:g}, seed "
                f"{cell.seed}, gave no model: {trained[cell].error or trained[cell].state}; lower "
                f"arms.{arm}.rates"
            )
    measured, views = [], _Views(dataset, spec.base.loader.decoded_cache_mb << 20)
    torch.set_num_threads(1)  # the same figures on any machine; many images at once, instead
    for number, cell in enumerate(cells, 1):
        measured.append(_measure(store, spec, dataset, views, cell, trained[cell]))
        progress(number, len(cells))
    cold_s = [_cold(store, spec, dataset, place) for place in range(len(spec.backbones))]
    answers = answer(report, spec, dataset.manifest.ref, test_split(dataset), measured, cold_s)
    made = publish_report(store, report, "transfer", answers, transfer_files(answers, spec))
    tell_versions(store, made)
    return made


def test_split(dataset: DatasetVersion) -> str:
    """Return the split that models are judged on, which nothing was tuned on."""
    return "val" if _holds_out(dataset) else "test"


def _dataset(store: Store, base: Finetune) -> DatasetVersion:
    return open_dataset(store, base.dataset.name, base.dataset.version)


def _holds_out(dataset: DatasetVersion) -> bool:
    """Whether tuning needs a part of the labels: there are no images but the validation ones."""
    return not dataset.images("test")


def _train(
    store: Store, spec: TransferReport, sweep_id: str, cells: Sequence[Cell], run_sweep: RunSweep
) -> dict[Cell, TrialRecord]:
    """Train cells as a sweep; return what each came to."""
    holds_out = _holds_out(_dataset(store, spec.base))
    by_changes = {_name(changes_of(spec, cell, holds_out)): cell for cell in cells}
    if not store.exists(f"sweeps/{sweep_id}/spec.yaml"):
        search = ListSearch(
            kind="list",
            trials=tuple(changes_of(spec, cell, holds_out) for cell in cells),
            metric=METRIC,
            mode=MODE,
        )
        sweep = Sweep(
            kind="sweep",
            name=spec.name,
            base=spec.base,
            search=search,
            scheduler=NoScheduler(kind="none"),
        )
        create_sweep(store, *prepare_sweep(store, sweep, TWO_CORES), sweep_id)
    result = run_sweep(sweep_id)
    return {by_changes[_name(record.changes)]: record for record in result.trials}


def _name(changes: object) -> str:
    return json.dumps(changes, sort_keys=True)


class _Views:
    """Images as models see them: each is decoded once, as far as the memory for them lasts."""

    def __init__(self, dataset: DatasetVersion, bytes_free: int) -> None:
        self._dataset = dataset
        self._free = bytes_free
        self._kept: dict[tuple[str, Contract], Pixels] = {}

    def view(self, image: Image, contract: Contract) -> Pixels:
        """Return an image's evaluation view: (crop, crop, 3)."""
        known = self._kept.get((image.sha256, contract))
        if known is not None:
            return known
        view = evaluation_view(decode(self._dataset.read(image)), contract)
        if view.nbytes <= self._free:
            self._free -= view.nbytes
            self._kept[image.sha256, contract] = view
        return view


def _measure(
    store: Store,
    spec: TransferReport,
    dataset: DatasetVersion,
    views: _Views,
    cell: Cell,
    record: TrialRecord,
) -> Measured:
    """Try a trained model on the test images; at the largest budget also on others."""
    differs = changes_of(spec, cell, _holds_out(dataset))
    trained = resolve(store, trial_spec(spec.base, differs, "a cell"))
    epoch = best_epoch(record, METRIC, MODE)
    assembly, _ = kept_model(store, trained, record, epoch.epoch if epoch else 1)
    model, contract = assembly.model.eval(), assembly.contract
    test = dataset.images(test_split(dataset))
    labels = np.array([image.label for image in test], np.int64)

    @torch.inference_mode()
    def logits(images: Sequence[Image], change: Change) -> NDArray[np.float32]:
        def prepare(image: Image) -> Pixels:
            return change(views.view(image, contract), image.sha256)

        batches = prepared(prepare, images, 1)
        found = [model(to_tensor(np.stack(batch), contract)) for batch in batches]
        return np.asarray(torch.cat(found).float())

    corrupted: dict[str, NDArray[np.float64]] = {}
    train_accuracy, own = None, choose_images(dataset, trained.dataset).train
    if cell.budget.labels == spec.labels[-1]:
        kinds = [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = pool.map(lambda kind: logits(test, partial(_corrupted, *kind)), kinds)
            hits = [logit.argmax(1) == labels for logit in found]
        for number, name in enumerate(CORRUPTIONS):
            own_hits = hits[number * len(STRENGTHS) : (number + 1) * len(STRENGTHS)]
            corrupted[name] = np.stack(own_hits).astype(np.float64)
        learned = logits(own, _unchanged).argmax(1) == [image.label for image in own]
        train_accuracy = float(np.mean(learned))
    return Measured(
        cell=cell,
        images=len(own),
        record=record,
        labels=labels,
        logits=logits(test, _unchanged),
        train_accuracy=train_accuracy,
        corrupted=corrupted,
    )


def _cold(
    store: Store, spec: TransferReport, dataset: DatasetVersion, backbone: int
) -> dict[str, float]:
    """Return the seconds that each arm's activations take to compute, measured here and now.

    Those of the training images, in as many views as are kept; none where views are endless.
    """
    seconds: dict[str, float] = {}
    augment = spec.base.augment
    views = augment.views if isinstance(augment, StandardAugment) else 1
    for name in ("features", "partial"):
        arm = arm_of(spec, name)
        cell = Cell(backbone, Budget(name, spec.labels[-1]), 0, arm.rates[0])
        trained = trial_spec(spec.base, changes_of(spec, cell, _holds_out(dataset)), "a cell")
        assembly = assemble(store, trained)
        data = training_data(assembly, trained)
        if views != "live" and assembly.model.depth:
            cost = costs_of(assembly.model, data, "float32")[assembly.model.depth]
            images = len(data.train) * min(views, arm.epochs)
            seconds[name] = images * (cost.decode_s + cost.trunk_s)
    return seconds


def _unchanged(pixels: Pixels, image: str) -> Pixels:
    return pixels


def _corrupted(name: str, strength: int, pixels: Pixels, image: str) -> Pixels:
    return corrupt(pixels, name, strength, image)
