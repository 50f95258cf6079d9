"""Running a recorded run and showing it, for `graft train` and `graft runs resume`."""

from collections.abc import Callable
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from graft.cli.output import console, emit

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from graft.spec import Finetune
    from graft.store import Store
    from graft.training.events import Event, Started
    from graft.training.runs import Result, StagePlan

CLASSES_SHOWN = 12
"""In a table; --json has all."""


class TrainingProgress:
    """A bar over all steps of a run, and one line for each finished epoch."""

    def __init__(self, run: str, spec: "Finetune"):
        self._epochs = spec.train.epochs
        self._workers = spec.scaling.workers
        console.print(f"run {run}", highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        workers = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        self._task = self._progress.add_task(f"starting {workers}", total=None, numbers="")

    def __enter__(self) -> Callable[["Event"], None]:
        self._progress.start()
        return self._show

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def _show(self, event: "Event") -> None:
        """Show what happened."""
        from graft.training.events import Keeping, Stalled, Started, Stepped, Untrained

        if isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Stepped):
            done = (event.epoch - 1) * event.steps + event.step
            self._progress.update(
                self._task,
                description=f"epoch {event.epoch}/{self._epochs}",
                completed=done,
                total=self._epochs * event.steps,
                numbers=f"step {event.step}/{event.steps}  loss {event.loss:.3f}  "
                f"accuracy {event.accuracy:.3f}  "
                f"{event.images_per_second:.0f} images/s",
            )
        elif isinstance(event, Keeping):
            if event.total:
                self._progress.update(
                    self._task,
                    description=event.text,
                    completed=event.images,
                    total=event.total,
                    numbers=f"{event.images:,}/{event.total:,} images",
                )
            else:
                console.print(event.text, highlight=False, soft_wrap=True)
        elif isinstance(event, Untrained):
            console.print(
                f"before training: val loss {event.val['loss']:.4f} "
                f"accuracy {event.val['accuracy']:.3f}",
                highlight=False,
                soft_wrap=True,
            )
        elif isinstance(event, Stalled):
            console.print(
                f"worker {event.rank} made no step for {event.seconds:g} s "
                "(scaling.stall_timeout_s) and ends",
                highlight=False,
                soft_wrap=True,
            )
        else:
            console.print(
                f"epoch {event.epoch}/{self._epochs}  "
                f"train loss {event.train['loss']:.4f} accuracy {event.train['accuracy']:.3f}  "
                f"val loss {event.val['loss']:.4f} accuracy {event.val['accuracy']:.3f}  "
                f"{event.images_per_second:.0f} images/s",
                highlight=False,
                soft_wrap=True,
            )

    def _started(self, event: "Started") -> None:
        after = f", going on after epoch {event.epoch}" if event.epoch else ""
        parameters = sum(stage.parameters for stage in event.plan if stage.trained_from)
        console.print(
            f"attempt {event.attempt}: {parameters:,} parameters trained, "
            f"trunk {event.trunk_digest[:12]}{after}",
            *plan_lines(event.plan),
            sep="\n  ",
            highlight=False,
            soft_wrap=True,
        )


def plan_lines(plan: "tuple[StagePlan, ...]") -> list[str]:
    """Say what is trained when and how fast, a line for neighbours that share it."""

    def fate(stage: "StagePlan") -> tuple[int | None, float | None]:
        return stage.trained_from, stage.lr

    lines = []
    for (first, lr), group in groupby(plan, key=fate):
        stages = list(group)
        names = " .. ".join(dict.fromkeys((stages[0].stage, stages[-1].stage)))
        since = f" from epoch {first}" if first and first > 1 else ""
        lines.append(f"{names}: " + (f"lr {lr:g}{since}" if first else "frozen"))
    return lines


def run_and_show(store: "Store", run: str, json: bool) -> "Result":
    """Run, or go on with, a recorded run; show its progress and then its result; return it."""
    from graft.cluster.local import ray_session
    from graft.training.runs import read_result, read_spec

    spec, result = read_spec(store, run), read_result(store, run)
    if result:
        console.print(f"{run} has finished already; nothing was trained", highlight=False)
    else:
        with ray_session(), TrainingProgress(run, spec) as show:
            from graft.training.worker import run_finetune

            result = run_finetune(store, run, show)

    emit(result.model_dump(mode="json"), json, lambda: result_table(result, spec))
    return result


def result_table(result: "Result", spec: "Finetune") -> "Group":
    """Return what a person wants to know of a finished run; old results lack some of it."""
    from rich.console import Group
    from rich.table import Table

    val, initial = result.metrics["val"], result.metrics.get("initial")
    table = Table(show_header=False, title=result.run, title_justify="left")
    table.add_row("model", result.model or "not registered (the spec has no `register`)")
    table.add_row("weights", f"{result.weights}, of epoch {result.epoch}/{spec.train.epochs}")
    table.add_row("val accuracy", f"{val['accuracy']:.4f}")
    table.add_row("val loss", f"{val['loss']:.4f}")
    if initial:
        accuracy, loss = initial["accuracy"], initial["loss"]
        table.add_row("before training", f"accuracy {accuracy:.4f}, loss {loss:.4f}")
    if "top5_accuracy" in val:
        table.add_row("val top-5 accuracy", f"{val['top5_accuracy']:.4f}")
    table.add_row("val macro-F1", f"{val['macro_f1']:.4f}")
    if "ece" in val:
        table.add_row("val calibration error", f"{val['ece']:.4f}")
    table.add_row("trunk", f"{result.trunk_digest[:12]} ({result.freeze} stages frozen)")
    table.add_row("dataset", result.dataset)
    table.add_row("time", f"{result.seconds:.0f} s, {result.images_per_second:.0f} images/s")

    return Group(table, _class_table(val))


def _class_table(val: dict[str, Any]) -> "Table":
    """Recall and precision of the first classes."""
    from rich.markup import escape
    from rich.table import Table

    nulls = {"recall": "no images", "precision": "never predicted"}
    found = {name: val[name] for name in nulls if name in val}
    classes = list(val["recall"])
    more = len(classes) - CLASSES_SHOWN
    table = Table("class", *found, caption=f"{more} more classes: --json" if more > 0 else None)
    for name in classes[:CLASSES_SHOWN]:
        shares = {metric: values[name] for metric, values in found.items()}
        cells = [nulls[m] if share is None else f"{share:.4f}" for m, share in shares.items()]
        table.add_row(escape(name), *cells)
    return table
