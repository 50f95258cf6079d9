"""Drawing what an evaluation and a comparison of models found."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from graft.cli.show.tables import facts, rows_left_out
from graft.report.uses import used_already

if TYPE_CHECKING:
    from graft.report.evaluation.comparison import Comparison
    from graft.report.evaluation.scores import Scores

SHOWN = 12
"""Classes and images in a table; --json has all."""


def _images(distinct: int, copies: int) -> str:
    return f"{distinct:,}" + (f" (without {copies:,} copies)" if copies else "")


def scores_page(scores: "Scores") -> Group:
    """Return an evaluation's figures for people to read."""
    interval = scores.accuracy_interval
    rows = {
        "images": _images(scores.images, scores.copies),
        "accuracy": f"{scores.accuracy:.4f} (95 %: {interval.low:.4f} to {interval.high:.4f})",
    }
    if scores.top5_accuracy is not None:
        rows["top-5 accuracy"] = f"{scores.top5_accuracy:.4f}"
    rows["macro-F1"] = f"{scores.macro_f1:.4f}"
    rows["loss"] = f"{scores.loss:.4f}"
    rows["calibration error"] = f"{scores.ece:.4f}"
    caption = rows_left_out(len(scores.classes), SHOWN, "classes")
    classes = Table("class", "images", "recall", "precision", "F1", caption=caption)
    for label in scores.classes[:SHOWN]:
        metrics = (label.recall, label.precision, label.f1)
        cells = ["–" if metric is None else f"{metric:.4f}" for metric in metrics]
        classes.add_row(escape(label.name), f"{label.images:,}", *cells)
    title = f"{scores.model} on {scores.dataset}, {_images_of(scores.split, scores.part)}"
    note = "left out" if scores.left_out else "not on new images"
    lines = [Text(f"{note}: {line}") for line in scores.seen]
    return Group(facts(title + used_already(scores.used_before), rows), *lines, classes)


def _images_of(split: str, part: str | None) -> str:
    return f"{split} ({part})" if part else split


def comparison_page(comparison: "Comparison") -> Group:
    """Return a comparison for people to read."""
    first, second = comparison.first, comparison.second
    verdict = {
        "better": f"{second} is better",
        "worse": f"{second} is worse",
        "not shown": "not shown: neither is better than chance would have it",
    }[comparison.outcome]
    if not comparison.verdict:
        verdict = "none: no image is left that neither has seen"
    interval, right = comparison.difference_interval, comparison.both_right
    count = _images(comparison.images, comparison.copies)
    table = facts(
        f"{count} images of {comparison.dataset}, {_images_of(comparison.split, comparison.part)}",
        {
            first: f"accuracy {comparison.accuracies[0]:.4f}, "
            f"alone right on {comparison.only_first:,}",
            second: f"accuracy {comparison.accuracies[1]:.4f}, "
            f"alone right on {comparison.only_second:,}",
            "both": f"right on {right:,}, wrong on {comparison.both_wrong:,}",
            "difference": f"{comparison.difference:+.4f} "
            f"(95 %: {interval.low:+.4f} to {interval.high:+.4f})",
            "McNemar's p": f"{comparison.p_value:.3g}",
            "verdict": verdict + used_already(comparison.used_before),
        },
    )
    lines = [Text(f"not judged on: {line}") for line in comparison.left_out]
    if not comparison.changed:
        return Group(table, *lines)
    changed = Table(
        Column("changed sides", overflow="fold"),
        *("label", first, second),
        caption=rows_left_out(len(comparison.changed), SHOWN, "images"),
    )
    for image in comparison.changed[:SHOWN]:
        changed.add_row(*map(escape, (image.path, image.label, image.first, image.second)))
    return Group(table, *lines, changed)
