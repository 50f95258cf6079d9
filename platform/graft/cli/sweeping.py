"""Showing sweeps: plans, progress, results."""

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from graft.cli.output import console, emit

if TYPE_CHECKING:
    from graft.spec import Sweep
    from graft.store import Store
    from graft.sweep.events import Advanced, Computing, SweepEvent
    from graft.sweep.plan import Plan
    from graft.sweep.results import SweepResult, TrialRecord

SHOWN = 40
"""Trials in a table; --json has all."""


def plan_document(sweep: "Sweep", plan: "Plan") -> dict[str, Any]:
    """Return the document of ``graft sweep --plan --json``."""
    document = plan.model_dump(mode="json", by_alias=True)
    return {
        "sweep": sweep.name,
        "search": sweep.search.kind,
        "scheduler": sweep.scheduler.kind,
        "known": bool(plan.trials),
        **document,
        "bytes": plan.bytes,
    }


def plan_table(sweep: "Sweep", plan: "Plan") -> Group:
    """Return a plan as a person reads it: trials in order, trunks, bytes, forecast."""
    parts: list[Table | Text] = []
    if plan.trials:
        parts.append(_trials_in_order(sweep, plan))
    else:
        parts.append(
            Text(
                f"{plan.count} trials, which {sweep.search.kind} chooses as it goes; the trunks "
                "are all that the space can reach, bytes and seconds are upper bounds"
            )
        )
    parts += [_trunk_table(plan), Text("\n".join(_forecast(sweep, plan)))]
    return Group(*parts)


def sweep_table(result: "SweepResult") -> Group:
    """Return what a person wants to know of a finished sweep, the best trials first."""
    table = Table(show_header=False, title=result.sweep, title_justify="left")
    best = result.best
    if best:
        table.add_row("best", Text(f"trial {best.number}, epoch {best.epoch}"))
        for key, value in _labels(best.changes).items():
            table.add_row(f"  {key}", Text(value))
        table.add_row(result.metric, f"{best.value:.4f}")
    else:
        table.add_row("best", "none: no trial gave a finite " + result.metric)
    if result.run:
        table.add_row("run", result.run)
    table.add_row("model", result.model or "not registered (the spec has no `register`)")
    counts = [f"{count} {state}" for state, count in sorted(result.states.items())]
    table.add_row("trials", ", ".join(counts) or "none")
    table.add_row(
        "trunk", f"{result.trunk_images:,} images computed, {result.cached_images:,} kept"
    )
    table.add_row("time", f"{result.seconds:.0f} s")
    return Group(table, trial_table(result.trials, result.metric, result.mode))


def trial_table(trials: "tuple[TrialRecord, ...]", metric: str, mode: str) -> Table:
    """Return a table of trials that are done, the best first."""
    from graft.sweep.results import ranked

    keys = list(dict.fromkeys(key for trial in trials for key in trial.changes))
    more = len(trials) - SHOWN
    table = Table(
        Column("trial", justify="right"),
        *keys,
        Column(metric, justify="right"),
        Column("epochs", justify="right"),
        Column("s", justify="right"),
        "state",
        caption=f"{more} more trials: --json" if more > 0 else None,
    )
    for record, epoch in ranked(trials, metric, mode)[:SHOWN]:
        value = "" if epoch is None else f"{epoch.val[metric.removeprefix('val.')]:.4f}"
        state = f"{record.state}: {record.error}" if record.error else record.state
        table.add_row(
            str(record.number),
            *(escape(_labels(record.changes).get(key, "")) for key in keys),
            value,
            str(len(record.epochs)),
            f"{record.seconds:.1f}",
            escape(state),
        )
    return table


class SweepProgress:
    """A live table of running trials on a terminal, and one line for each that is done."""

    def __init__(self, sweep_id: str, sweep: "Sweep", count: int):
        self._metric, self._mode = sweep.search.metric, sweep.search.mode
        self._count = count
        self._running: dict[int, Advanced] = {}
        self._states: Counter[str] = Counter()
        self._best: tuple[float, int] | None = None
        self._computing: Computing | None = None
        console.print(f"sweep {sweep_id}: {count} trials", highlight=False)
        self._live = Live(console=console, transient=True, get_renderable=self._table)

    def __enter__(self) -> Callable[["SweepEvent"], None]:
        self._live.start()
        return self._show

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _show(self, event: "SweepEvent") -> None:
        """Show what happened."""
        from graft.sweep.events import Advanced, Computing, Done

        self._computing = None
        if isinstance(event, Computing):
            self._computing = event
        elif isinstance(event, Advanced):
            self._running[event.number] = event
        elif isinstance(event, Done):
            self._done(event.record)
        else:
            self._say(event.text)

    def _done(self, record: "TrialRecord") -> None:
        from graft.sweep.results import best_epoch
        from graft.sweep.space import describe

        self._running.pop(record.number, None)
        self._states[record.state] += 1
        epoch = best_epoch(record, self._metric, self._mode)
        value = epoch.val[self._metric.removeprefix("val.")] if epoch else None
        said = record.error or record.state
        if value is not None:
            sign = 1 if self._mode == "max" else -1
            if self._best is None or sign * value > sign * self._best[0]:
                self._best = (value, record.number)
            said = f"{self._metric} {value:.4f}"
            if record.state == "stopped":
                said += f", stopped after epoch {len(record.epochs)}"
        self._say(f"trial {record.number}/{self._count}  {describe(record.changes)}  {said}")

    def _say(self, text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _table(self) -> Table | Text:
        from graft.sweep.space import describe

        if work := self._computing:
            return Text(f"computing activations: {work.images:,} of {work.total:,} images")
        best = f"best {self._best[0]:.4f} (trial {self._best[1]})" if self._best else ""
        done = sum(self._states.values())
        states = ", ".join(f"{n} {state}" for state, n in sorted(self._states.items()))
        table = Table(
            Column("running", justify="right"),
            "changes",
            Column("epoch", justify="right"),
            Column(self._metric, justify="right"),
            caption=f"{done}/{self._count} done{f' ({states})' if states else ''}  {best}",
        )
        for number, running in sorted(self._running.items()):
            table.add_row(
                str(number),
                escape(describe(running.changes)),
                f"{running.epoch}/{running.epochs}",
                "" if running.value is None else f"{running.value:.4f}",
            )
        return table


def run_and_show(store: "Store", sweep_id: str, json: bool) -> "SweepResult":
    """Run, or go on with, a recorded sweep; show its progress and then its result; return it."""
    result = finish_showing(store, sweep_id)
    emit(result_document(result), json, lambda: sweep_table(result))
    return result


def finish_showing(store: "Store", sweep_id: str) -> "SweepResult":
    """Run, or go on with, a recorded sweep; show its progress and return its result."""
    from graft.cluster.local import ray_session
    from graft.sweep.results import read_plan, read_sweep, read_sweep_result

    result = read_sweep_result(store, sweep_id)
    if result:
        console.print(f"{sweep_id} has finished already; nothing was trained", highlight=False)
    else:
        sweep, count = read_sweep(store, sweep_id), read_plan(store, sweep_id).count
        with SweepProgress(sweep_id, sweep, count) as show:
            from graft.sweep.run import run_sweep

            result = run_sweep(store, sweep_id, show, ray_session)
    return result


def result_document(result: "SweepResult") -> dict[str, Any]:
    """Return the document of ``--json`` of a finished sweep."""
    return result.model_dump(mode="json")


def size_text(size: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def time_text(seconds: float) -> str:
    """Return seconds as a person reads a forecast."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 2 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _trials_in_order(sweep: "Sweep", plan: "Plan") -> Table:
    more = plan.count - SHOWN
    batch = {number: place for place, batch in enumerate(plan.batches, 1) for number in batch}
    table = Table(
        Column("trial", justify="right"),
        *sweep.varied,
        Column("trunk", justify="right"),
        *([Column("together", justify="right")] if batch else []),
        title="trials in running order",
        title_justify="left",
        caption=f"{more} more trials: --json" if more > 0 else None,
    )
    trunk = None
    for trial in plan.trials[:SHOWN]:
        labels = _labels(trial.changes)
        if trial.number > 1 and trial.trunk != trunk:
            table.add_section()
        trunk = trial.trunk
        table.add_row(
            str(trial.number),
            *(escape(labels.get(key, "")) for key in sweep.varied),
            "none" if trunk is None else str(trunk),
            *([f"batch {batch[trial.number]}" if trial.number in batch else ""] if batch else []),
        )
    return table


def _trunk_table(plan: "Plan") -> Table | Text:
    if not plan.trunks:
        return Text("no trunk's activations are kept: nothing is frozen, or `cache` is off")
    weights = {(trunk.arch, trunk.weights) for trunk in plan.trunks}
    several = len(weights) > len({arch for arch, _ in weights})
    table = Table(
        Column("trunk", justify="right"),
        "frozen through",
        "from",
        Column("trials", justify="right"),
        Column("images", justify="right"),
        Column("bytes", justify="right"),
        Column("compute", justify="right"),
        title="distinct trunks",
        title_justify="left",
    )
    for trunk in plan.trunks:
        named = f" ({trunk.weights.rpartition('/')[2]})" if several else ""
        table.add_row(
            str(trunk.number),
            escape(f"{trunk.arch} {trunk.through}{named}"),
            f"trunk {trunk.parent}" if trunk.parent else "images",
            str(len(trunk.trials)) if trunk.trials else "?",
            f"{trunk.images:,}",
            size_text(trunk.bytes),
            time_text(trunk.seconds),
        )
    return table


def _forecast(sweep: "Sweep", plan: "Plan") -> list[str]:
    most = "" if plan.trials else "at most "
    speed = plan.throughput
    lines = [
        f"activations: {most}{size_text(plan.bytes)}",
        f"forecast: {most}{time_text(plan.cached_s)} with each trunk computed once, "
        f"{most}{time_text(plan.uncached_s)} without "
        f"(at {speed.gflops:.3g} GFLOP/s and {speed.images:.3g} images/s decoded, measured here)",
    ]
    together = sum(len(batch) for batch in plan.batches)
    scheduled = sweep.base.scaling.workers == 1 and together < plan.count
    if sweep.scheduler.kind not in ("none", "pbt") and scheduled:
        lines.append(f"{sweep.scheduler.kind} stops trials early: less, how much is not known")
    if sweep.budget.wall_time_s:
        lines.append(f"budget: {time_text(sweep.budget.wall_time_s)}, whatever is done by then")
    return lines


def _labels(changes: dict[str, Any]) -> dict[str, str]:
    from graft.sweep.space import label

    return {key: label(value) for key, value in changes.items()}
