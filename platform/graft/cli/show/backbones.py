"""Drawing backbones: their list, their stages, their checks, their ranks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from graft.cli.show.tables import numbers

if TYPE_CHECKING:
    from graft.backbones.describe import Description, Summary
    from graft.backbones.verify_architecture import Check
    from graft.report.shortlist.candidates import Candidate


def summary_table(rows: "Sequence[Summary]") -> Table:
    """Return the list of architectures."""
    table = Table(caption="`graft backbones show NAME` names the weights", caption_justify="left")
    for name in ("name", "stages", "parameters", "GFLOPs", "input", "top-1 %"):
        table.add_column(name, no_wrap=True, justify="left" if name == "name" else "right")
    for row in rows:
        table.add_row(
            row.name,
            str(row.stages),
            f"{row.parameters / 1e6:.1f} M",
            f"{row.gflops:.2f}",
            f"{row.crop} × {row.crop}",
            f"{row.accuracy:.1f}",
        )
    return table


def stages_page(description: "Description") -> Group:
    """Return an architecture's stages, and the head, one a row."""
    table = Table(
        *numbers("freeze"),
        Column("stage", no_wrap=True),
        Column("modules", overflow="fold"),
        Column("parameters", justify="right", no_wrap=True),
        Column("GFLOPs", justify="right", no_wrap=True),
        Column("activations", no_wrap=True),
        Column("float32", justify="right", no_wrap=True),
        title=f"{description.arch}, images of {description.crop} × {description.crop}",
        title_justify="left",
    )
    for depth, part in enumerate(description.parts, 1):
        table.add_row(
            str(depth) if depth < len(description.parts) else "",
            part.name,
            ", ".join(_runs(part.modules)),
            f"{part.parameters:,}",
            f"{part.gflops:.3f}",
            "×".join(map(str, part.shape)),
            f"{part.bytes / 1e3:,.0f} kB",
        )
    lines = [f"weights: {', '.join(description.weights) or 'none published'}"]
    if description.left_out:
        lines.append(description.left_out)
    return Group(table, *lines)


def verdict(checks: "list[Check]") -> str:
    """Say whether an architecture passes its checks, or which it fails."""
    failed = [f"{check.name} FAILS: {check.found}" for check in checks if not check.passed]
    return "; ".join(failed) or "holds"


def checks_table(checks: "dict[str, list[Check]]") -> Table | str:
    """Return each check of a single architecture, or how many architectures pass theirs."""
    if len(checks) > 1:
        held = sum(all(check.passed for check in results) for results in checks.values())
        return f"{held} of {len(checks)} architectures hold"
    ((arch, results),) = checks.items()
    table = Table("check", "holds", "found", title=arch, title_justify="left")
    for check in results:
        table.add_row(check.name, "yes" if check.passed else "NO", escape(check.found))
    return table


def ranking_table(candidates: "Sequence[Candidate]", folds: int) -> Table:
    """Return candidates in their order: accuracy and LogME, forecasts of costs, size."""
    table = Table(
        Column("backbone", overflow="fold"),
        *(
            Column(name, justify="right", no_wrap=True)
            for name in ("accuracy %", "LogME", "head s", "cached s", "whole s", "MB", "img/s")
        ),
        caption=f"accuracy: of a linear probe, {folds} folds; head: an epoch that trains the head "
        "alone, cached: the same over cached activations, whole: an epoch of the whole network; "
        "forecasts for this machine as busy as it is now; img/s: served, without decoding",
    )
    for backbone in candidates:
        head, whole = backbone.costs[0], backbone.costs[-1]
        table.add_row(
            f"{backbone.arch}\n{backbone.weights.rpartition('/')[2].rpartition('_Weights.')[2]}",
            f"{100 * backbone.accuracy:.1f} ±{100 * backbone.deviation:.1f}",
            f"{backbone.logme:.2f}",
            *(_seconds(spent) for spent in (head.epoch_s, head.cached_s or 0, whole.epoch_s)),
            f"{backbone.parameters * 4 / 1e6:.0f}",
            f"{backbone.images_per_second:.0f}",
        )
    return table


def _seconds(spent: float) -> str:
    return f"{spent:.1f}" if spent >= 0.05 else "<0.1"


def _runs(modules: tuple[str, ...]) -> Iterator[str]:
    """Yield names, with neighbours that count up shortened: a.0, a.1, a.2 to a.0 .. a.2."""
    start = 0
    for end in range(1, len(modules) + 1):
        if end == len(modules) or not _follows(modules[end - 1], modules[end]):
            ends = modules[start], modules[end - 1]
            yield " .. ".join(dict.fromkeys(ends))
            start = end


def _follows(path: str, next_path: str) -> bool:
    parent, _, number = path.rpartition(".")
    next_parent, _, next_number = next_path.rpartition(".")
    if parent != next_parent or not (number.isdigit() and next_number.isdigit()):
        return False
    return int(next_number) == int(number) + 1
