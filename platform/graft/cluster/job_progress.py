"""How far a running job is, on a line, from what it has in the store under its id."""

from graft.errors import NotFoundError
from graft.store import Store
from graft.training.run_records import latest_epoch, read_spec
from graft.training.step_checkpoint import latest_step_checkpoint


def job_progress(store: Store, job: str, kind: str) -> str | None:
    """Return how far a job with a spec of this kind is, None before there is anything to say."""
    readers = {
        "finetune": _run_progress,
        "sweep": _sweep_progress,
        "transfer-report": _report_progress,
        "prediction": _prediction_progress,
        "import": _import_progress,
    }
    return readers[kind](store, job) if kind in readers else None


def _run_progress(store: Store, run: str) -> str | None:
    epoch = latest_epoch(store, run)
    inside = latest_step_checkpoint(store, run, epoch.epoch if epoch else 0)
    parts = []
    if epoch:
        accuracy, loss = epoch.val["accuracy"], epoch.val["loss"]
        parts += [
            f"epoch {epoch.epoch}/{read_spec(store, run).train.epochs}",
            f"val accuracy {accuracy:.4f} loss {loss:.4f}",
        ]
    if inside:
        parts.append(f"checkpoint {inside.place}")
    return ", ".join(parts) or None


def _sweep_progress(store: Store, sweep_id: str) -> str | None:
    from graft.sweep.best_trial import best_trial
    from graft.sweep.sweep_records import read_plan, read_sweep, read_trials

    try:
        sweep = read_sweep(store, sweep_id)
    except NotFoundError:
        return None
    trials = read_trials(store, sweep_id)
    done = f"{len(trials)} of {read_plan(store, sweep_id).count} trials done"
    best = best_trial(trials, sweep.search.metric, sweep.search.mode)
    return f"{done}, best {sweep.search.metric} {best.value:.4f}" if best else done


def _report_progress(store: Store, report: str) -> str | None:
    for part in ("seeds", "rates"):  # the later one first
        if done := _sweep_progress(store, f"{report}-{part}"):
            return f"{part}: {done}"
    return None


def _prediction_progress(store: Store, prediction: str) -> str | None:
    from graft.prediction.records import read_pace

    pace = read_pace(store, prediction)
    return str(pace) if pace else None


def _import_progress(store: Store, import_id: str) -> str | None:
    from graft.import_job.records import read_pace

    pace = read_pace(store, import_id)
    return str(pace) if pace else None
