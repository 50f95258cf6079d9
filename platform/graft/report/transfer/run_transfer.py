"""Running a transfer report: two sweeps train its cells, then each model is tested.

reports/<report>/spec.yaml     the recorded spec; makes the report begun
sweeps/<report>-rates          the first seed at every rate
sweeps/<report>-seeds          the other seeds at the chosen rates
reports/<report>/head.json     its current attempt, as `training.attempt_pointer` says
reports/<report>/report.json   the answers; makes the report finished

A report that is resumed goes on with the same sweeps: no finished training is repeated.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from graft.activations.cache_decision import measure_costs
from graft.activations.compute import TrunkSetup
from graft.backbones.process_setup import set_up_process
from graft.backbones.trunk import trunk_chain
from graft.data.image import decode
from graft.data.loader import to_tensor
from graft.data.manifest import DatasetVersion, Image, open_dataset
from graft.data.subset import choose_subset
from graft.data.views import evaluation_view
from graft.errors import InputError, RunFailed
from graft.registry import Fence
from graft.report.evaluation.compute_scores import expected_calibration_error
from graft.report.evaluation.predictions import Pixels, pixel_batches
from graft.report.publishing import Report, has_report, publish_report, read_report, read_transfer
from graft.report.transfer.answers import answer
from graft.report.transfer.cell_result import CellResult
from graft.report.transfer.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from graft.report.transfer.design import (
    ARMS,
    METRIC,
    MODE,
    Cell,
    Condition,
    Way,
    arm_of,
    changes_of,
    chosen_epoch,
    chosen_rates,
    first_cells,
    other_cells,
)
from graft.report.transfer.page import transfer_files
from graft.report.transfer.record_verdicts import record_to_versions
from graft.report.uses import images_that_judge, part_that_judges, record_use
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
from graft.sweep.finishing import load_trial_model
from graft.sweep.prepare_sweep import prepare_sweep
from graft.sweep.sweep_plan import TWO_CORES
from graft.sweep.sweep_records import SweepResult, TrialRecord, create_sweep, read_plan
from graft.training.attempt import training_data
from graft.training.attempt_pointer import hold_attempt
from graft.training.prepare_run import assemble, resolve

Change = Callable[[Pixels, str], Pixels]
"""From what a model would see of an image, and the image's SHA-256, to what it sees instead."""
RunSweep = Callable[[str], SweepResult]
"""Runs a recorded sweep to its end, or resumes it; takes its id."""


@dataclass(frozen=True)
class Trained:
    """A cell after its training."""

    record: TrialRecord
    spec: Finetune
    """As the sweep's plan has it, with nothing left open: it is never resolved again."""


def create_transfer(store: Store, spec: TransferReport, report: str | None = None) -> str:
    """Record a report's resolved spec, by default under a new id; return the id.

    Raises:
        InputError: anything that would make a training fail before its first step, at any budget.
    """
    base = resolve(store, spec.base)
    others = tuple(_resolved(store, spec, other) for other in spec.other_backbones)
    recorded = spec.model_copy(update={"base": base, "other_backbones": others})
    dataset = _dataset(store, base)
    if not _tested_images(dataset):
        raise InputError(
            f"{dataset.manifest.ref} has no image in split '{test_split(dataset)}' that judges; "
            "import more"
        )
    for cell in first_cells(recorded):  # has each class an image at every budget?
        trial = trial_spec(base, changes_of(recorded, cell, _holds_out(dataset)), "the report")
        choose_subset(dataset, trial.dataset)
    new = f"{spec.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    report = report or new
    store.create(f"reports/{report}/spec.yaml", dump_job(recorded).encode())
    return report


def _resolved(store: Store, spec: TransferReport, other: Pretrained) -> Pretrained:
    """Return one of the other backbones, resolved."""
    pretrained = {name: getattr(other, name) for name in ("arch", "weights", "weights_sha256")}
    update: dict[str, object] = {"backbone": spec.base.backbone.model_copy(update=pretrained)}
    if other.preprocess:
        update["preprocess"] = other.preprocess
    resolved = resolve(store, spec.base.model_copy(update=update))
    return Pretrained(
        arch=other.arch,
        weights=resolved.backbone.weights,
        weights_sha256=resolved.backbone.weights_sha256,
        preprocess=resolved.preprocess,
    )


def run_transfer(
    store: Store,
    report: str,
    run_sweep: RunSweep,
    progress: Callable[[int, int], object],
    say: Callable[[str], object] = lambda text: None,
    take_over: bool = False,
) -> Report:
    """Run a recorded report to its end, or resume it; return it.

    Args:
        store: where it is recorded.
        report: its id.
        run_sweep: runs its trainings.
        progress: called with the number of models tested, and of all models.
        say: called with a line where another process is, or was, at work on it.
        take_over: as `hold_attempt` has it.

    Raises:
        InputError: another process is at work on it.
        RunFailed: an arm gave no usable model at some budget and seed, or a newer attempt at the
            report has taken over.
    """
    if has_report(store, report):
        return read_report(store, report)
    spec = read_transfer(store, report)
    with hold_attempt(store, f"reports/{report}", say, take_over) as fence:
        return _make(store, report, spec, run_sweep, progress, fence)


def _make(
    store: Store,
    report: str,
    spec: TransferReport,
    run_sweep: RunSweep,
    progress: Callable[[int, int], object],
    fence: Fence,
) -> Report:
    """Train and test what is left of a report, and publish it."""
    dataset = _dataset(store, spec.base)
    first = first_cells(spec)
    trained = _train(store, spec, f"{report}-rates", first, run_sweep)
    rates = chosen_rates((cell, training.record) for cell, training in trained.items())
    others = other_cells(spec, rates)
    if others:
        trained |= _train(store, spec, f"{report}-seeds", others, run_sweep)
    chosen = [cell for cell in first if cell.rate == rates[cell.backbone, cell.condition]]
    cells = chosen + others
    for cell in cells:
        record = trained[cell].record
        if record.checkpoint is None:
            arm, labels = cell.condition.arm, cell.condition.labels
            raise RunFailed(
                f"{report}: {spec.backbones[cell.backbone].arch}, {arm} at labels {labels:g}, seed "
                f"{cell.seed}, gave no model: {record.error or record.state}; lower "
                f"arms.{arm}.rates"
            )
    results, views = [], _Views(dataset, spec.base.loader.decoded_cache_mb << 20)
    set_up_process(cpus=1)  # any machine then gives the same figures; images go in parallel
    for number, cell in enumerate(cells, 1):
        results.append(_measure(store, spec, dataset, views, cell, trained[cell]))
        progress(number, len(cells))
    cold_s = [_cold(store, spec, trained, backbone) for backbone in range(len(spec.backbones))]
    split = test_split(dataset)
    used = record_use(store, dataset.manifest, split, len(_tested_images(dataset)), report)
    ways = [_ways(store, spec, trained, backbone) for backbone in range(len(spec.backbones))]
    answers = answer(report, spec, dataset.manifest.ref, split, ways, results, cold_s).model_copy(
        update={"part": part_that_judges(split), "used_before": used}
    )
    fence()
    made = publish_report(store, report, "transfer", answers, transfer_files(answers, spec))
    record_to_versions(store, made)
    return made


def test_split(dataset: DatasetVersion) -> str:
    """Return the split that models are judged on; nothing is tuned on it."""
    return "val" if _holds_out(dataset) else "test"


def _tested_images(dataset: DatasetVersion) -> list[Image]:
    """Return the images that models are judged on, of copies the first."""
    split = test_split(dataset)
    return images_that_judge(dataset.images(split), split)


def _dataset(store: Store, base: Finetune) -> DatasetVersion:
    return open_dataset(store, base.dataset.name, base.dataset.version)


def _holds_out(dataset: DatasetVersion) -> bool:
    """Whether models are judged on the validation images, and tuned on a part of the labels."""
    return not dataset.images("test")


def _train(
    store: Store, spec: TransferReport, sweep_id: str, cells: Sequence[Cell], run_sweep: RunSweep
) -> dict[Cell, Trained]:
    """Train cells as a sweep; return what each gave."""
    holds_out = _holds_out(_dataset(store, spec.base))
    by_changes = {_as_key(changes_of(spec, cell, holds_out)): cell for cell in cells}
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
    result, plan = run_sweep(sweep_id), read_plan(store, sweep_id)
    return {
        by_changes[_as_key(record.changes)]: Trained(record, plan.trial(record.number).spec)
        for record in result.trials
    }


def _as_key(changes: object) -> str:
    return json.dumps(changes, sort_keys=True)


class _Views:
    """The evaluation views of a dataset's images, decoded once while the memory for them lasts."""

    def __init__(self, dataset: DatasetVersion, bytes_free: int) -> None:
        self._dataset = dataset
        self._free = bytes_free
        self._cached: dict[tuple[str, Contract], Pixels] = {}

    def view(self, image: Image, contract: Contract) -> Pixels:
        """Return an image's evaluation view: (crop, crop, 3) uint8."""
        cached = self._cached.get((image.sha256, contract))
        if cached is not None:
            return cached
        view = evaluation_view(decode(self._dataset.read(image)), contract)
        if view.nbytes <= self._free:
            self._free -= view.nbytes
            self._cached[image.sha256, contract] = view
        return view


def _measure(
    store: Store,
    spec: TransferReport,
    dataset: DatasetVersion,
    views: _Views,
    cell: Cell,
    trained: Trained,
) -> CellResult:
    """Test a trained model; at the largest budget also on corrupted and on training images."""
    record = trained.record
    epoch = chosen_epoch(record)
    prepared, _ = load_trial_model(store, trained.spec, record, epoch.epoch if epoch else 1)
    model, contract = prepared.model.eval(), prepared.contract
    test = _tested_images(dataset)
    labels = np.array([image.label for image in test], np.int64)

    @torch.inference_mode()
    def logits(images: Sequence[Image], change: Change) -> NDArray[np.float32]:
        def prepare(image: Image) -> Pixels:
            return change(views.view(image, contract), image.sha256)

        batches = pixel_batches(prepare, images, 1)
        outputs = [model(to_tensor(np.stack(batch), contract)) for batch in batches]
        return np.asarray(torch.cat(outputs).float())

    corrupted: dict[str, NDArray[np.float64]] = {}
    train_accuracy, train = None, choose_subset(dataset, trained.spec.dataset).train
    tested = logits(test, _unchanged).astype(np.float64)
    right = tested.argmax(1) == labels
    if cell.condition.labels == spec.labels[-1]:
        kinds = [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

            def hits_on(kind: tuple[str, int]) -> NDArray[np.bool_]:
                hits: NDArray[np.bool_] = (
                    logits(test, partial(_corrupted, *kind)).argmax(1) == labels
                )
                return hits

            hits = np.stack(list(pool.map(hits_on, kinds)))
        by_kind = hits.astype(np.float64).reshape(len(CORRUPTIONS), len(STRENGTHS), len(test))
        corrupted = dict(zip(CORRUPTIONS, by_kind, strict=True))
        train_hits = logits(train, _unchanged).argmax(1) == [image.label for image in train]
        train_accuracy = float(np.mean(train_hits))
    return CellResult(
        cell=cell,
        images=len(train),
        record=record,
        labels=labels,
        right=right.astype(np.float64),
        ece=expected_calibration_error(softmax(tested, axis=1).max(axis=1), right),
        train_accuracy=train_accuracy,
        corrupted=corrupted,
    )


def _cold(
    store: Store, spec: TransferReport, trained: Mapping[Cell, Trained], backbone: int
) -> dict[str, float]:
    """Return the seconds that it takes to compute each arm's activations, measured here and now.

    These are of the training images, in every view that is cached; live views never are.
    """
    seconds: dict[str, float] = {}
    augment = spec.base.augment
    views = augment.views if isinstance(augment, StandardAugment) else 1
    for name in ("features", "partial"):
        arm = arm_of(spec, name)
        cell = Cell(backbone, Condition(name, spec.labels[-1]), 0, arm.rates[0])
        recorded = trained[cell].spec
        prepared = assemble(store, recorded)
        data = training_data(prepared, recorded)
        if views != "live" and prepared.model.depth:
            setup = TrunkSetup(prepared.model, data.loader, data.preprocess)
            cost = measure_costs(setup, data.train, "float32")[prepared.model.depth]
            images = len(data.train) * min(views, arm.epochs)
            seconds[name] = images * (cost.decode_s + cost.trunk_s)
    return seconds


def _ways(
    store: Store, spec: TransferReport, trained: Mapping[Cell, Trained], backbone: int
) -> list[Way]:
    """Return how each arm but scratch trains a backbone with all labels."""
    ways = []
    for arm in ARMS[1:]:
        cell = Cell(backbone, Condition(arm, spec.labels[-1]), 0, arm_of(spec, arm).rates[0])
        recorded = trained[cell].spec
        prepared = assemble(store, recorded)
        depth = prepared.model.depth
        way = Way(
            arm=arm,
            freeze=depth,
            trunk_digest=trunk_chain(prepared.model, prepared.contract).digests[depth],
            weights=recorded.backbone.weights,
            weights_sha256=recorded.backbone.weights_sha256,
            head=recorded.head,
            rates=recorded.train.rates.model_dump(mode="json"),
        )
        ways.append(way)
    return ways


def _unchanged(pixels: Pixels, image: str) -> Pixels:
    return pixels


def _corrupted(name: str, strength: int, pixels: Pixels, image: str) -> Pixels:
    return corrupt(pixels, name, strength, image)
