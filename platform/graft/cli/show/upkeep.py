"""What `graft gc` and `graft fsck` show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graft.cli.show.tables import numbers
from graft.units import size

if TYPE_CHECKING:
    from graft.upkeep.checking import Checked
    from graft.upkeep.collecting import Collected, Garbage, Survey
    from graft.upkeep.policy import Policy

DAY = 86400.0
AGES = ((7 * DAY, "to 7 d"), (30 * DAY, "to 30 d"), (float("inf"), "older"))
"""Ages up to which bytes are added up."""


def survey_document(surveyed: "Survey") -> dict[str, Any]:
    """Return what nothing needs, as JSON types."""
    from graft.upkeep.collecting import totals

    garbage = surveyed.garbage
    return {
        "objects": surveyed.objects,
        "bytes": surveyed.bytes,
        "garbage": {
            what: {
                "objects": objects,
                "bytes": nbytes,
                "by_age": _by_age([each for each in garbage if each.what == what]),
                "ripe": sum(each.ripe for each in garbage if each.what == what),
            }
            for what, (objects, nbytes) in totals(garbage).items()
        },
        "young": {
            "objects": len(surveyed.young),
            "bytes": sum(entry.size for entry in surveyed.young),
        },
        "unreadable": list(surveyed.unreadable),
    }


def survey_page(surveyed: "Survey", policy: "Policy") -> RenderableType:
    """Return bytes by kind and age, in 80 columns."""
    from graft.upkeep.collecting import totals

    garbage = surveyed.garbage
    ages = [name for _, name in AGES]
    table = Table("what nothing needs", *numbers("objects", "bytes", *ages, "marked"))
    for what, (objects, total) in totals(garbage).items():
        of_kind = [each for each in garbage if each.what == what]
        aged = (size(nbytes) if nbytes else "" for nbytes in _by_age(of_kind).values())
        ripe = sum(each.ripe for each in of_kind)
        table.add_row(what, f"{objects:,}", size(total), *aged, f"{ripe:,}" if ripe else "")
    if garbage:
        table.add_section()
        ripe = sum(each.ripe for each in garbage)
        aged = (size(nbytes) if nbytes else "" for nbytes in _by_age(garbage).values())
        freed = size(sum(each.entry.size for each in garbage))
        table.add_row("all", f"{len(garbage):,}", freed, *aged, f"{ripe:,}" if ripe else "")
    lines = [
        f"of {surveyed.objects:,} objects, {size(surveyed.bytes)}; nothing was changed",
    ]
    if surveyed.young:
        young = size(sum(entry.size for entry in surveyed.young))
        lines.append(f"{len(surveyed.young):,} more, {young}, stay: younger than {policy.grace}")
    if garbage:
        lines.append(f"graft gc --delete marks it, and removes what was marked {policy.grace} ago")
    lines += [f"cannot be read, so that nothing can go: {text}" for text in surveyed.unreadable]
    return Group(*([table] if garbage else []), *lines)


def collected_page(collected: "Collected", policy: "Policy") -> RenderableType:
    """Return what a pass removed."""
    from graft.upkeep.collecting import totals

    lines = []
    if collected.marked:
        lines.append(
            f"{collected.marked:,} objects are marked, and go once they have been for "
            f"{policy.grace}: graft gc --delete"
        )
    if not collected.removed:
        return Group("nothing was removed", *lines)
    table = Table("removed", *numbers("objects", "bytes"))
    for what, (objects, nbytes) in totals(collected.removed).items():
        table.add_row(what, f"{objects:,}", size(nbytes))
    freed = size(sum(each.entry.size for each in collected.removed))
    return Group(table, f"{len(collected.removed):,} objects, {freed}", *lines)


def _by_age(garbage: "Sequence[Garbage]") -> dict[str, int]:
    """Return bytes by age."""
    sizes = dict.fromkeys((name for _, name in AGES), 0)
    for each in garbage:
        name = next(name for most, name in AGES if each.age_s < most)
        sizes[name] += each.entry.size
    return sizes


def checked_page(checked: "Checked", mended: Sequence[str], quick: bool) -> RenderableType:
    """Return what a check found, a paragraph for each damage."""
    how = "by size" if quick else "by size and SHA-256"
    of = f"{checked.documents:,} documents, {checked.payloads:,} files, {size(checked.bytes)}"
    lines = [f"{of}, {how}: " + ("damaged" if checked.damages else "whole")]
    for damage in checked.damages:
        state = "mended" if damage.key in mended else "damaged"
        lines += [
            "",
            f"{damage.key}: {state}",
            f"  found     {damage.found}",
            f"  expected  {damage.expected}",
        ]
        if damage.lost:
            lines.append(f"  lost      {', '.join(damage.lost)}")
        if damage.key not in mended:
            lines.append(f"  do        {damage.remedy}")
    if checked.damages:
        left = len(checked.damages) - len(mended)
        lines += ["", f"{left} damaged" + (f", {len(mended)} mended" if mended else "")]
    return Text("\n".join(lines))
