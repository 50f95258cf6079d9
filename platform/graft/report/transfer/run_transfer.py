"""Running a transfer report: two sweeps train its cells, then each model is tested.

reports/<report>/spec.yaml     the recorded spec; makes the report begun
sweeps/<report>-rates          the first seed at every rate
sweeps/<report>-seeds          the other seeds at the chosen rates
reports/<report>/cells/        what each cell gave, as `cell_result` says
reports/<report>/head.json     its current attempt, as `training.attempt_pointer` says
reports/<report>/report.json   the answers; makes the report finished

A report that is resumed goes on with the same sweeps and cells: no finished training is repeated,
and no test.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from graft.data.manifest import DatasetVersion, open_dataset
from graft.data.subset import choose_subset
from graft.errors import InputError, RunFailed
from graft.registry import Fence
from graft.report.publishing import Report, has_report, publish_report, read_report, read_transfer
from graft.report.transfer.answers import answer
from graft.report.transfer.cell_result import TrainedCell, read_result, tested_cells
from graft.report.transfer.design import (
    METRIC,
    MODE,
    Cell,
    changes_of,
    chosen_rates,
    first_cells,
    label_budget,
    other_cells,
)
from graft.report.transfer.judging_images import holds_out, judging_images
from graft.report.transfer.page import transfer_files
from graft.report.transfer.record_verdicts import record_to_versions
from graft.report.uses import part_that_judges, record_use
from graft.spec import (
    Finetune,
    ListSearch,
    NoScheduler,
    Pretrained,
    Sweep,
    TransferReport,
    dump_job,
    trial_spec,
)
from graft.store import Store
from graft.sweep.prepare_sweep import prepare_sweep
from graft.sweep.sweep_plan import TWO_CORES
from graft.sweep.sweep_records import SweepResult, create_sweep, read_plan
from graft.sweep.tails import remove_tails
from graft.training.attempt_pointer import hold_attempt
from graft.training.prepare_run import resolve


@dataclass(frozen=True)
class Runners:
    """Who does the work of a report."""

    train: Callable[[str], SweepResult]
    """Runs a recorded sweep to its end, or resumes it; takes its id."""
    test: Callable[[str, TransferReport, Sequence[TrainedCell]], Iterator[object]]
    """Tests cells of a report as `measure_cell` does; yields whenever one is done."""


def create_transfer(store: Store, spec: TransferReport, report: str | None = None) -> str:
    """Record a report's resolved spec, by default under a new id; return the id.

    Raises:
        InputError: anything that would make a training fail before its first step, at any budget.
    """
    base = resolve(store, spec.base)
    others = tuple(_resolved(store, spec, other) for other in spec.other_backbones)
    recorded = spec.model_copy(update={"base": base, "other_backbones": others})
    dataset = _dataset(store, base)
    judging = judging_images(store, recorded, dataset)
    if not judging.images:
        raise InputError(
            f"{dataset.manifest.ref} has no image in split '{judging.split}' that judges"
            + "".join(f"; {line}" for line in judging.left_out)
            + "; import more"
            + (" that no model has seen, or start from other weights" * bool(judging.left_out))
        )
    for cell in first_cells(recorded):  # has each class an image at every budget?
        trial = trial_spec(base, changes_of(recorded, cell, holds_out(dataset)), "the report")
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
    runners: Runners,
    progress: Callable[[int, int], object],
    say: Callable[[str], object] = lambda text: None,
    take_over: bool = False,
) -> Report:
    """Run a recorded report to its end, or resume it; return it.

    Args:
        store: where it is recorded.
        report: its id.
        runners: train and test.
        progress: called with the number of models tested, and of all models.
        say: called with a line where another process is, or was, at work on it.
        take_over: as `hold_attempt` has it.

    Raises:
        InputError: another process is at work on it.
        RunFailed: an arm gave no usable model at some budget and seed, or a newer attempt at the
            report has taken over.
    """
    if not has_report(store, report):
        spec = read_transfer(store, report)
        with hold_attempt(store, f"reports/{report}", say, take_over) as fence:
            trained = _train_all(store, report, spec, runners)
            _test_all(store, report, spec, trained, runners, progress)
            _conclude(store, report, spec, trained, fence)
    for sweep_id in (f"{report}-rates", f"{report}-seeds"):
        remove_tails(store, sweep_id)  # each has been tested
    return read_report(store, report)


def _train_all(
    store: Store, report: str, spec: TransferReport, runners: Runners
) -> list[TrainedCell]:
    """Train what is left of a report; return its cells, of each condition those of one rate."""
    first = first_cells(spec)
    by_rate = _train(store, spec, f"{report}-rates", first, runners)
    rates = chosen_rates((trained.cell, trained.record) for trained in by_rate)
    chosen = [t for t in by_rate if t.cell.rate == rates[t.cell.backbone, t.cell.condition]]
    others = other_cells(spec, rates)
    trained = chosen + (_train(store, spec, f"{report}-seeds", others, runners) if others else [])
    for cell, record in ((t.cell, t.record) for t in trained):
        if record.checkpoint is None:
            arm, labels = cell.condition.arm, cell.condition.labels
            raise RunFailed(
                f"{report}: {spec.backbones[cell.backbone].arch}, {arm} at "
                f"{label_budget(labels)} of the labels, seed "
                f"{cell.seed}, gave no model: {record.error or record.state}; lower "
                f"arms.{arm}.rates"
            )
    return trained


def _test_all(
    store: Store,
    report: str,
    spec: TransferReport,
    trained: Sequence[TrainedCell],
    runners: Runners,
    progress: Callable[[int, int], object],
) -> None:
    """Test the cells that have not been, each on the hardware that trained it."""
    tested = tested_cells(store, report)
    remaining = [each for each in trained if each.name not in tested]
    done = len(trained) - len(remaining)
    if remaining:
        for _ in runners.test(report, spec, remaining):
            done += 1
            progress(done, len(trained))


def _conclude(
    store: Store, report: str, spec: TransferReport, trained: Sequence[TrainedCell], fence: Fence
) -> None:
    """Publish what the tests of all cells say."""
    dataset = _dataset(store, spec.base)
    judging = judging_images(store, spec, dataset)
    labels = judging.images.labels.astype(np.int64)
    results = [read_result(store, report, each, labels) for each in trained]
    judged = judging.images.sha256
    used = record_use(store, dataset, judging.split, judged, report)
    answers = answer(report, spec, dataset.manifest.ref, judging.split, results).model_copy(
        update={
            "part": part_that_judges(judging.split),
            "left_out": judging.left_out,
            "used_before": used,
        }
    )
    fence()
    made = publish_report(store, report, "transfer", answers, transfer_files(answers, spec))
    record_to_versions(store, made)


def _dataset(store: Store, base: Finetune) -> DatasetVersion:
    return open_dataset(store, base.dataset.name, base.dataset.version)


def _train(
    store: Store, spec: TransferReport, sweep_id: str, cells: Sequence[Cell], runners: Runners
) -> list[TrainedCell]:
    """Train cells as a sweep; return what each gave."""
    apart = holds_out(_dataset(store, spec.base))
    by_changes = {_as_key(changes_of(spec, cell, apart)): cell for cell in cells}
    if not store.exists(f"sweeps/{sweep_id}/spec.yaml"):
        search = ListSearch(
            kind="list",
            trials=tuple(changes_of(spec, cell, apart) for cell in cells),
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
    result, plan = runners.train(sweep_id), read_plan(store, sweep_id)
    return [
        TrainedCell(by_changes[_as_key(record.changes)], record, plan.trial(record.number).spec)
        for record in result.trials
    ]


def _as_key(changes: object) -> str:
    return json.dumps(changes, sort_keys=True)
