"""What `graft train` shows on stderr while it works."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from graft.cli.output import console

if TYPE_CHECKING:
    from graft.spec import Finetune
    from graft.training.events import Event, Started


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
        from graft.training.events import Started, Stepped

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
                f"{event.images_per_second:.0f} images/s",
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
        frozen = event.frozen_stages
        stages = (
            f"{len(frozen)} stages frozen ({frozen[0]} .. {frozen[-1]})"
            if frozen
            else "nothing frozen"
        )
        after = f", going on after epoch {event.epoch}" if event.epoch else ""
        console.print(
            f"attempt {event.attempt}: {stages}, {event.trained_parameters:,} parameters trained, "
            f"trunk {event.trunk_digest[:12]}{after}",
            highlight=False,
            soft_wrap=True,
        )
