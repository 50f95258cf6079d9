"""Drawing a sweep: its plan, its progress, its result."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from graft.cli.show.output import console, note
from graft.cli.show.tables import facts, numbers, rows_left_out
from graft.units import duration, size

if TYPE_CHECKING:
    from graft.spec import Sweep
    from graft.sweep.sweep_events import SweepEvent, TrialAdvanced
    from graft.sweep.sweep_plan import SweepPlan
    from graft.sweep.sweep_records import SweepResult, TrialRecord
    from graft.training.events import TrunkComputing

SHOWN = 40
"""Trials in a table; --json has all."""


def plan_page(sweep: "Sweep", plan: "SweepPlan") -> Group:
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


def result_page(result: "SweepResult") -> Group:
    """Return what a person wants to know of a finished sweep, the best trials first."""
    best = result.best
    if best:
        rows = {"best": f"trial {best.number}, epoch {best.epoch}"}
        rows |= {f"  {key}": value for key, value in _labels(best.changes).items()}
        rows[result.metric] = f"{best.value:.4f}"
    else:
        rows = {"best": f"none: no trial gave a finite {result.metric}"}
    if result.run:
        rows["run"] = result.run
    rows["model"] = result.model or "not registered (the spec has no `register`)"
    states = [f"{count} {state}" for state, count in sorted(result.states.items())]
    rows["trials"] = ", ".join(states) or "none"
    rows["trunk"] = f"{result.trunk_images:,} images computed, {result.cached_images:,} cached"
    rows["time"] = duration(result.seconds)
    trials = trial_table(result.trials, result.metric, result.mode)
    return Group(facts(result.sweep, rows), trials)


def trial_table(trials: "tuple[TrialRecord, ...]", metric: str, mode: str) -> Table:
    """Return a table of trials that are done, the best first."""
    from graft.sweep.best_trial import ranked

    keys = list(dict.fromkeys(key for trial in trials for key in trial.changes))
    table = Table(
        *numbers("trial"),
        *keys,
        *numbers(metric, "epochs", "s, training"),
        "state",
        caption=rows_left_out(len(trials), SHOWN, "trials"),
    )
    for record, epoch in ranked(trials, metric, mode)[:SHOWN]:
        labels = _labels(record.changes)
        value = "" if epoch is None else f"{epoch.val[metric.removeprefix('val.')]:.4f}"
        state = f"{record.state}: {record.error}" if record.error else record.state
        table.add_row(
            str(record.number),
            *(escape(labels.get(key, "")) for key in keys),
            value,
            str(len(record.epochs)),
            f"{record.seconds:.1f}",
            escape(state),
        )
    return table


@contextmanager
def sweep_progress(
    sweep_id: str, sweep: "Sweep", trials: int
) -> Iterator[Callable[["SweepEvent"], None]]:
    """Yield a function that shows a sweep's events as they come."""
    progress = _SweepProgress(sweep_id, sweep, trials)
    with progress.live:
        yield progress.show


class _SweepProgress:
    """A live table of running trials on a terminal, and one line for each that is done."""

    def __init__(self, sweep_id: str, sweep: "Sweep", trials: int):
        self._metric, self._mode = sweep.search.metric, sweep.search.mode
        self._trials = trials
        self._running: dict[int, TrialAdvanced] = {}
        self._states: Counter[str] = Counter()
        self._best: tuple[float, int] | None = None
        """Value and number of the best trial so far."""
        self._computing: TrunkComputing | None = None
        note(f"sweep {sweep_id}: {trials} trials")
        if sweep.base.dataset.labels_in_words:
            note(sweep.base.dataset.labels_in_words)
        self.live = Live(console=console, transient=True, get_renderable=self._table)

    def show(self, event: "SweepEvent") -> None:
        """Show what happened."""
        from graft.sweep.sweep_events import TrialAdvanced, TrialEnded
        from graft.training.events import TrunkComputing

        self._computing = None
        if isinstance(event, TrunkComputing):
            self._computing = event
        elif isinstance(event, TrialAdvanced):
            self._running[event.number] = event
        elif isinstance(event, TrialEnded):
            self._show_ended(event.record)
        else:
            note(event.text)

    def _show_ended(self, record: "TrialRecord") -> None:
        from graft.sweep.best_trial import best_epoch
        from graft.sweep.space import changes_text

        self._running.pop(record.number, None)
        self._states[record.state] += 1
        epoch = best_epoch(record, self._metric, self._mode)
        outcome = record.error or record.state
        if epoch:
            value = epoch.val[self._metric.removeprefix("val.")]
            sign = 1 if self._mode == "max" else -1
            if self._best is None or sign * value > sign * self._best[0]:
                self._best = (value, record.number)
            outcome = f"{self._metric} {value:.4f}"
            if record.state == "stopped":
                outcome += f", stopped after epoch {len(record.epochs)}"
        note(f"trial {record.number}/{self._trials}  {changes_text(record.changes)}  {outcome}")

    def _table(self) -> Table | Text:
        from graft.sweep.space import changes_text

        if trunk := self._computing:
            return Text(f"computing activations: {trunk.images:,} of {trunk.total:,} images")
        best = f"best {self._best[0]:.4f} (trial {self._best[1]})" if self._best else ""
        states = ", ".join(f"{n} {state}" for state, n in sorted(self._states.items()))
        done = f"{self._states.total()}/{self._trials} done"
        table = Table(
            *numbers("running"),
            "changes",
            *numbers("epoch", self._metric),
            caption=f"{done}{f' ({states})' if states else ''}  {best}",
        )
        for number, trial in sorted(self._running.items()):
            table.add_row(
                str(number),
                escape(changes_text(trial.changes)),
                f"{trial.epoch}/{trial.epochs}",
                "" if trial.value is None else f"{trial.value:.4f}",
            )
        return table


def _trials_in_order(sweep: "Sweep", plan: "SweepPlan") -> Table:
    batch = {number: place for place, batch in enumerate(plan.batches, 1) for number in batch}
    table = Table(
        *numbers("trial"),
        *sweep.varied,
        *numbers("trunk", *(["together"] if batch else [])),
        title="trials in running order",
        title_justify="left",
        caption=rows_left_out(plan.count, SHOWN, "trials"),
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


def _trunk_table(plan: "SweepPlan") -> Table | Text:
    if not plan.trunks:
        return Text("no trunk's activations are cached: nothing is frozen, or `cache` is off")
    weights = {(trunk.arch, trunk.weights) for trunk in plan.trunks}
    several = len(weights) > len({arch for arch, _ in weights})
    table = Table(
        *numbers("trunk"),
        "frozen through",
        "from",
        *numbers("trials", "images", "bytes", "compute"),
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
            size(trunk.bytes),
            duration(trunk.seconds),
        )
    return table


def _forecast(sweep: "Sweep", plan: "SweepPlan") -> list[str]:
    most = "" if plan.trials else "at most "
    speed = plan.throughput
    bucket = f", {size(round(speed.bucket_bytes))}/s of the store" if speed.bucket_bytes else ""
    lines = [
        f"activations: {most}{size(plan.bytes)}{_requests(plan)}",
        f"forecast: {most}{duration(plan.cached_s)} with each trunk computed once, "
        f"{most}{duration(plan.uncached_s)} without "
        f"(at {speed.gflops:.3g} GFLOP/s{bucket} and {speed.images:.3g} images/s decoded, "
        "measured here)",
    ]
    together = sum(len(batch) for batch in plan.batches)
    scheduled = sweep.base.scaling.workers == 1 and together < plan.count
    if sweep.scheduler.kind not in ("none", "pbt") and scheduled:
        lines.append(f"{sweep.scheduler.kind} stops trials early: less, how much is not known")
    if sweep.budget.wall_time_s:
        lines.append(f"budget: {duration(sweep.budget.wall_time_s)}, whatever is done by then")
    return lines


def _requests(plan: "SweepPlan") -> str:
    """Return how many requests to a bucket it takes to cache what a plan caches."""
    requests = plan.requests
    if not requests.writes:
        return ""
    return f", in {requests.writes:,} requests that write or list and {requests.reads:,} that read"


def _labels(changes: dict[str, Any]) -> dict[str, str]:
    from graft.sweep.space import value_text

    return {key: value_text(value) for key, value in changes.items()}
