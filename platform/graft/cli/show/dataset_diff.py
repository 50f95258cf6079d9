"""Drawing what two dataset versions differ in."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from graft.data.diff import ChangedImage, DatasetDiff, Difference


def description(diff: "DatasetDiff") -> Group:
    """Return what a person wants to know of a difference."""
    table = Table("images", "number", "in", title=f"{diff.before} → {diff.after}")
    table.title_justify = "left"
    for kind, difference in diff.by_kind.items():
        splits = ", ".join(f"{split} {count:,}" for split, count in difference.splits.items())
        table.add_row(kind, f"{difference.images:,}", splits)
    settings = [
        f"{name}: {' → '.join('none' if value is None else str(value) for value in values)}"
        for name, values in diff.settings.items()
    ]
    classes = {"classes added": diff.classes_added, "classes removed": diff.classes_removed}
    return Group(
        table,
        *(Text(f"{what}: {', '.join(names)}") for what, names in classes.items() if names),
        *(Text(line) for line in settings),
        *(
            Text("\n".join(_lines(kind, difference)))
            for kind, difference in diff.by_kind.items()
            if difference.first
        ),
    )


def _lines(kind: str, difference: "Difference") -> list[str]:
    lines = [f"{kind}:", *(f"  {_line(image)}" for image in difference.first)]
    if more := difference.images - len(difference.first):
        lines.append(f"  and {more:,} more; --limit names more")
    return lines


def _line(image: "ChangedImage") -> str:
    places = (", ".join(places) for places in (image.before, image.after) if places)
    return f"{image.path}: {' → '.join(places)}"
