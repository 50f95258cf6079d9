"""Drawing a run: its progress and its result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from graft.cli.show.output import note, progress_bar
from graft.cli.show.tables import facts, rows_left_out
from graft.units import duration

if TYPE_CHECKING:
    from graft.spec import Finetune
    from graft.training.events import Event, Started
    from graft.training.run_records import Result, StagePlan

CLASSES_SHOWN = 12
"""In a table; --json has all."""


@contextmanager
def training_progress(run: str, spec: "Finetune") -> Iterator[Callable[["Event"], None]]:
    """Yield a function that shows a run's events as they come."""
    progress = _TrainingProgress(run, spec)
    with progress.bar:
        yield progress.show


class _TrainingProgress:
    """A bar over all steps of a run, and one line for each finished epoch."""

    def __init__(self, run: str, spec: "Finetune"):
        self._epochs, workers = spec.train.epochs, spec.scaling.workers
        note(f"run {run}")
        if spec.dataset.labels_in_words:
            note(spec.dataset.labels_in_words)
        self.bar = progress_bar()
        starting = "starting 1 worker" if workers == 1 else f"starting {workers} workers"
        self._task = self.bar.add_task(starting, total=None, numbers="")

    def show(self, event: "Event") -> None:
        """Show what happened."""
        from graft.training.events import (
            Note,
            Saved,
            Stalled,
            Started,
            Stepped,
            TrunkComputing,
            Untrained,
        )

        if isinstance(event, Started):
            _show_start(event)
        elif isinstance(event, Stepped):
            self.bar.update(
                self._task,
                description=f"epoch {event.epoch}/{self._epochs}",
                completed=(event.epoch - 1) * event.steps + event.step,
                total=self._epochs * event.steps,
                numbers=f"step {event.step}/{event.steps}  loss {event.loss:.3f}  "
                f"accuracy {event.accuracy:.3f}  "
                f"{event.images_per_second:.0f} images/s",
            )
        elif isinstance(event, Note):
            note(event.text)
        elif isinstance(event, Saved):
            note(f"checkpoint in epoch {event.epoch} after step {event.step}/{event.steps}")
        elif isinstance(event, TrunkComputing):
            self.bar.update(
                self._task,
                description="computing activations",
                completed=event.images,
                total=event.total,
                numbers=f"{event.images:,}/{event.total:,} images",
            )
        elif isinstance(event, Untrained):
            note(f"before training: {_loss_and_accuracy('val', event.val)}")
        elif isinstance(event, Stalled):
            note(
                f"worker {event.rank} made no step for {event.seconds:g} s "
                "(scaling.stall_timeout_s) and ends; graft runs show --json has what its threads "
                "were doing"
            )
        else:
            note(
                f"epoch {event.epoch}/{self._epochs}  {_loss_and_accuracy('train', event.train)}  "
                f"{_loss_and_accuracy('val', event.val)}  {event.images_per_second:.0f} images/s"
            )


def _show_start(event: "Started") -> None:
    after = f", going on after epoch {event.epoch}" if event.epoch else ""
    if event.step:
        after = f", going on in epoch {event.epoch + 1} after step {event.step}/{event.steps}"
    parameters = sum(stage.parameters for stage in event.plan if stage.trained_from)
    attempt = (
        f"attempt {event.attempt}: {parameters:,} parameters trained, "
        f"trunk {event.trunk_digest[:12]}{after}"
    )
    note("\n  ".join([attempt, *_plan_lines(event.plan)]))


def _loss_and_accuracy(split: str, metrics: dict[str, Any]) -> str:
    return f"{split} loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.3f}"


def _plan_lines(plan: "tuple[StagePlan, ...]") -> list[str]:
    """Say what is trained when and how fast, on one line for neighbours that are trained alike."""

    def training(stage: "StagePlan") -> tuple[int | None, float | None]:
        return stage.trained_from, stage.lr

    lines = []
    for (first, lr), group in groupby(plan, key=training):
        stages = list(group)
        names = " .. ".join(dict.fromkeys((stages[0].stage, stages[-1].stage)))
        since = f" from epoch {first}" if first and first > 1 else ""
        lines.append(f"{names}: " + (f"lr {lr:g}{since}" if first else "frozen"))
    return lines


def result_page(result: "Result", spec: "Finetune") -> Group:
    """Return what a person wants to know of a finished run; old results lack some of it."""
    val, initial = result.metrics["val"], result.metrics.get("initial")
    rows = {
        "model": result.model or "not registered (the spec has no `register`)",
        "weights": f"{result.weights}, of epoch {result.epoch}/{spec.train.epochs}",
        "val accuracy": f"{val['accuracy']:.4f}",
        "val loss": f"{val['loss']:.4f}",
    }
    if initial:
        accuracy, loss = initial["accuracy"], initial["loss"]
        rows["before training"] = f"accuracy {accuracy:.4f}, loss {loss:.4f}"
    if "top5_accuracy" in val:
        rows["val top-5 accuracy"] = f"{val['top5_accuracy']:.4f}"
    rows["val macro-F1"] = f"{val['macro_f1']:.4f}"
    if "ece" in val:
        rows["val calibration error"] = f"{val['ece']:.4f}"
    rows["trunk"] = f"{result.trunk_digest[:12]} ({result.freeze} stages frozen)"
    rows["dataset"] = result.dataset
    rows["time"] = f"{duration(result.seconds)}, {result.images_per_second:.0f} images/s"
    return Group(facts(result.run, rows), _class_table(val))


def _class_table(val: dict[str, Any]) -> Table:
    """Return the first classes' recall and, where the run recorded it, precision."""
    nulls = {"recall": "no images", "precision": "never predicted"}
    metrics = {name: val[name] for name in nulls if name in val}
    classes = list(val["recall"])
    caption = rows_left_out(len(classes), CLASSES_SHOWN, "classes")
    table = Table("class", *metrics, caption=caption)
    for label in classes[:CLASSES_SHOWN]:
        shares = {name: values[label] for name, values in metrics.items()}
        cells = [nulls[n] if share is None else f"{share:.4f}" for n, share in shares.items()]
        table.add_row(escape(label), *cells)
    return table
