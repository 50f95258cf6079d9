"""What `graft evaluate` and `graft models compare` share: which images, progress, tables."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

    from graft.data.manifest import DatasetVersion
    from graft.registry import ModelVersion
    from graft.report.comparison import Comparison
    from graft.report.scores import Scores
    from graft.store import Store

SHOWN = 12
"""Classes and images in a table; --json has all."""


def images_of(
    store: "Store", version: "ModelVersion", dataset: str | None, split: str | None
) -> "tuple[DatasetVersion, str]":
    """Return the images that a person means: by default those that the model was trained for.

    Raises:
        NotFoundError: no such dataset version.
        InputError: no such split, or no images of the model's classes in it.
    """
    from graft.data.manifest import LATEST, open_dataset
    from graft.data.splits import SPLITS
    from graft.errors import InputError
    from graft.report.classes import labels_for

    if split not in (None, *SPLITS):
        raise InputError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    lineage = version.lineage
    name, _, number = (dataset or f"{lineage.dataset}@{lineage.dataset_version}").partition("@")
    opened = open_dataset(store, name, number or LATEST)
    split = split or ("test" if opened.images("test") else "val")
    labels_for(version, opened, split)
    return opened, split


def threads() -> int:
    """Return how many threads this process has processors for."""
    return len(os.sched_getaffinity(0))


def scores_page(scores: "Scores") -> "Group":
    """Return an evaluation's figures for people to read."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    low, high = scores.accuracy_interval.low, scores.accuracy_interval.high
    title = f"{scores.model} on {scores.dataset}, {scores.split}"
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_row("images", f"{scores.images:,}")
    table.add_row("accuracy", f"{scores.accuracy:.4f} (95 %: {low:.4f} to {high:.4f})")
    if scores.top5_accuracy is not None:
        table.add_row("top-5 accuracy", f"{scores.top5_accuracy:.4f}")
    table.add_row("macro-F1", f"{scores.macro_f1:.4f}")
    table.add_row("loss", f"{scores.loss:.4f}")
    table.add_row("calibration error", f"{scores.ece:.4f}")
    more = len(scores.classes) - SHOWN
    classes = Table(
        "class",
        *("images", "recall", "precision", "F1"),
        caption=f"{more} more classes: --json" if more > 0 else None,
    )
    for one in scores.classes[:SHOWN]:
        values = (one.recall, one.precision, one.f1)
        cells = ["–" if value is None else f"{value:.4f}" for value in values]
        classes.add_row(escape(one.name), f"{one.images:,}", *cells)
    return Group(table, classes)


def comparison_page(found: "Comparison") -> "Group":
    """Return a comparison for people to read."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Column, Table

    verdict = {
        "better": f"{found.second} is better",
        "worse": f"{found.second} is worse",
        "not shown": "not shown: neither is better than chance would have it",
    }[found.outcome]
    interval = found.difference_interval
    title = f"{found.images:,} images of {found.dataset}, {found.split}"
    table = Table(show_header=False, title=title, title_justify="left")
    for name, accuracy, only in (
        (found.first, found.accuracies[0], found.only_first),
        (found.second, found.accuracies[1], found.only_second),
    ):
        table.add_row(name, f"accuracy {accuracy:.4f}, alone right on {only:,}")
    table.add_row("both", f"right on {found.both_right:,}, wrong on {found.both_wrong:,}")
    table.add_row(
        "difference",
        f"{found.difference:+.4f} (95 %: {interval.low:+.4f} to {interval.high:+.4f})",
    )
    table.add_row("McNemar's p", f"{found.p_value:.3g}")
    table.add_row("verdict", verdict)
    if not found.changed:
        return Group(table)
    more = len(found.changed) - SHOWN
    changed = Table(
        Column("changed sides", overflow="fold"),
        *("label", found.first, found.second),
        caption=f"{more} more images: --json" if more > 0 else None,
    )
    for image in found.changed[:SHOWN]:
        changed.add_row(*map(escape, (image.path, image.label, image.first, image.second)))
    return Group(table, changed)
