"""Drawing a dataset: its import's progress, and a version of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from graft.cli.show.output import console, emit, note
from graft.units import size

if TYPE_CHECKING:
    from graft.data.copies import Copies
    from graft.data.manifest import DatasetVersion, Manifest

CLASSES_SHOWN = 50
FILES_SHOWN = 10


@contextmanager
def import_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows a bar for each step: its name, how much is done, of how much."""
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total, rate="")
            per_second = f"{done / (time.perf_counter() - start):,.0f} images/s"
            bars.update(
                tasks[step],
                completed=done,
                total=total,  # a listing's grows
                rate=per_second if step == "reading" else "",
            )

        yield show


def show_import(
    dataset: "DatasetVersion", written: bool, other_shards: int, json: bool, seconds: float
) -> None:
    """Show the version of an import, how long it took, and whether it was there before.

    `other_shards`: see `graft.data.import_draft.Imported`.
    """
    manifest = dataset.manifest
    if not written:
        note(f"{manifest.ref} holds these images already; nothing was written")
    if other_shards:
        note(
            f"{other_shards:,} of its shards have other bytes than this import would have written: "
            "its files came in another order, or were shrunk by another build of Pillow"
        )
    speed = {
        "written": written,
        "other_shards": other_shards,
        "seconds": round(seconds, 3),
        "images_per_second": round(manifest.images / seconds, 1),
    }
    emit(document(dataset) | speed, json, lambda: description(dataset))


def copies_of(dataset: "DatasetVersion") -> list["Copies"]:
    """Return the copies within one class and split, in all splits."""
    from graft.data.copies import find_copies
    from graft.data.splits import SPLITS

    distinct = dataset.manifest.distinct
    if distinct and sum(distinct.values()) == dataset.manifest.images:
        return []  # without reading the index
    return [copies for split in SPLITS for copies in find_copies(dataset.images(split))]


def document(dataset: "DatasetVersion") -> dict[str, object]:
    """Return a dataset version as JSON."""
    copies = [
        {"class": dataset.manifest.classes[same.label], "split": same.split, "paths": same.paths}
        for same in copies_of(dataset)
    ]
    manifest = dataset.manifest
    return {
        **manifest.model_dump(mode="json"),
        "own_bytes": manifest.own_bytes,
        "copies": copies,
    }


def description(dataset: "DatasetVersion") -> Group:
    """Return what a person wants to know of a dataset version."""
    manifest, copies = dataset.manifest, copies_of(dataset)
    splits = _splits(manifest)
    facts = Table.grid(padding=(0, 2))
    added = f"added to {manifest.name}@{manifest.parent}: " if manifest.parent else ""
    brought = f"; {size(manifest.own_bytes)} by this version" if manifest.parent else ""
    for name, value in (
        ("dataset", manifest.ref),
        ("source", f"{added}{manifest.source}"),
        ("created", manifest.created[:19].replace("T", " ") + " UTC"),
        ("images", f"{manifest.images:,} in {len(manifest.classes)} classes"),
        ("stored", f"{size(manifest.bytes)}, sides up to {manifest.settings.max_side}{brought}"),
        ("splits", splits),
        *(
            (side, f"{spread.min} to {spread.max} pixels, median {spread.median}")
            for side, spread in (("width", manifest.width), ("height", manifest.height))
        ),
    ):
        facts.add_row(name, Text(value))

    table = Table("class", *manifest.counts)
    for label in manifest.classes[:CLASSES_SHOWN]:
        table.add_row(Text(label), *(str(counts[label]) for counts in manifest.counts.values()))
    if len(manifest.classes) > CLASSES_SHOWN:
        table.add_row(f"and {len(manifest.classes) - CLASSES_SHOWN} more")
    table.add_section()
    table.add_row("all", *(str(sum(counts.values())) for counts in manifest.counts.values()))
    if copies and manifest.distinct:
        table.add_row("distinct", *(str(manifest.distinct[split]) for split in manifest.counts))

    return Group(
        facts,
        table,
        *(Text(note) for note in manifest.notes),
        *_first("left out", [f"{file.path}: {file.reason}" for file in manifest.skipped]),
        *_first(
            f"copies within one class and split, {sum(len(same.paths) - 1 for same in copies):,} "
            "more than count in an interval, by image",
            [_few(same.paths) for same in copies],
        ),
        *_first(
            "in several splits (leakage)",
            [f"{', '.join(leak.paths)}: {', '.join(leak.splits)}" for leak in manifest.leakage],
        ),
        *_first(
            "the same image under different labels",
            [", ".join(conflict.paths) for conflict in manifest.conflicts],
        ),
    )


def _splits(manifest: "Manifest") -> str:
    """Say which splits import made, and out of what."""
    from graft.data.splits import made_fractions

    made = manifest.settings.made
    fractions = made_fractions(made)
    parts = ", ".join(f"{split} {part:g}" for split, part in fractions.items() if part)
    none = "" if "test" in manifest.counts else "; no test split, so that nothing can be shown"
    if not made:
        return f"as in the source{none}"
    rest = "" if made.val_fraction else "; val as in the source"
    return f"{parts} of train, seed {made.seed}{rest}{none}"


def _few(paths: tuple[str, ...], most: int = 4) -> str:
    times = Counter(paths)  # a table may name a file twice
    named = [f"{path}, {count:,} times" if count > 1 else path for path, count in times.items()]
    more = f" and {len(named) - most:,} more" if len(named) > most else ""
    return ", ".join(named[:most]) + more


def _first(title: str, lines: list[str]) -> list[Text]:
    """Name the first of what import found, and how many there are; nothing, if none."""
    if not lines:
        return []
    shown = [f"{title}: {len(lines)}", *(f"  {line}" for line in lines[:FILES_SHOWN])]
    if len(lines) > FILES_SHOWN:
        shown.append(f"  and {len(lines) - FILES_SHOWN} more; --json lists all")
    return [Text("\n".join(shown))]
