"""What an import amounts to: splits, index, version and all that the manifest says.

Pure functions of what was read; nothing here reads or writes.
"""

import hashlib
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.data.manifest import (
    Conflict,
    Draft,
    Image,
    Leakage,
    MadeSplits,
    Settings,
    Skipped,
    Spread,
)
from graft.data.shards import Place
from graft.data.source import LAYOUT, Item
from graft.data.splits import SPLITS, make_splits
from graft.errors import DataError

VAL_FRACTION = 0.2
TEST_FRACTION = 0.0
SEED = 0

ORIGINALS = 16
"""How many validation images keep their original file."""
ORIGINAL_BYTES = 8 << 20
"""A larger file is not kept."""
SHOWN = 20
"""How many names an error lists."""


@dataclass(frozen=True)
class Entry:
    """A usable file of the source, and where its bytes lie in the shards."""

    item: Item
    sha256: str
    file_bytes: int
    width: int
    height: int
    changed: bool
    place: Place


def made_splits(
    given: set[str], val_fraction: float | None, test_fraction: float | None, seed: int | None
) -> MadeSplits | None:
    """Fill in defaults, and refuse what has no effect on splits that the source gives."""
    options = {"--val-fraction": val_fraction, "--test-fraction": test_fraction, "--seed": seed}
    inert = {"val": list(options), "test": ["--test-fraction"]}
    for split in sorted(given & inert.keys(), reverse=True):
        for option in inert[split]:
            if options[option] is not None:
                raise DataError(
                    f"{option} {options[option]} has no effect: the source has its own {split} "
                    "split; leave the option out"
                )
    if "val" in given:
        return None
    val = VAL_FRACTION if val_fraction is None else val_fraction
    test = TEST_FRACTION if test_fraction is None else test_fraction
    if not (0 < val < 1 and 0 <= test < 1 - val):
        raise DataError(
            f"--val-fraction {val}, --test-fraction {test}: expected a val above 0, a test of 0 "
            "or more, and less than 1 together"
        )
    return MadeSplits(val_fraction=val, test_fraction=test, seed=SEED if seed is None else seed)


def explain_bad(uri: str, bad: Sequence[Skipped], good: int) -> str:
    """Say which files fail an import; `good`: how many others there are."""
    lines = [f"{uri}: {len(bad)} of {len(bad) + good} files cannot be used"]
    lines += [f"  {file.path}: {file.reason}" for file in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more; after --skip-bad, the manifest lists all")
    return "\n".join([*lines, "repair or remove them, or leave them out with --skip-bad"])


def index_images(
    entries: Iterable[Entry], classes: Sequence[str], made: MadeSplits | None
) -> list[Image]:
    """Give each image its label and split, in an order that follows from content."""
    chosen: dict[str, str] = {}
    if made:
        chosen = make_splits(
            ((e.sha256, e.item.label) for e in entries if e.item.split == "train"),
            made.val_fraction,
            made.test_fraction,
            made.seed,
        )
    labels = {name: label for label, name in enumerate(classes)}
    images = []
    for entry in entries:
        taken = entry.item.split == "train" and chosen.get(entry.sha256)
        images.append(
            Image(
                sha256=entry.sha256,
                path=entry.item.path,
                label=labels[entry.item.label],
                split=taken or entry.item.split,
                shard=entry.place.shard,
                offset=entry.place.offset,
                size=entry.place.size,
                width=entry.width,
                height=entry.height,
            )
        )
    return sorted(images, key=lambda i: (SPLITS.index(i.split), i.label, i.sha256, i.path))


def check(uri: str, classes: Sequence[str], images: Sequence[Image], given: set[str]) -> None:
    """Refuse what cannot be trained on."""
    if len(classes) < 2:
        raise DataError(
            f"{uri}: found {f'one class, {classes[0]!r}' if classes else 'no usable image'}; "
            f"expected at least two: {LAYOUT}"
        )
    for split in ("val", *sorted(given)):
        if not any(image.split == split for image in images):
            raise DataError(
                f"{uri}: {split} has no usable image; it needs one"
                + ("" if given else ", and so a class with two different images")
            )
    trained = {image.label for image in images if image.split == "train"}
    absent = [name for label, name in enumerate(classes) if label not in trained]
    if absent:
        raise DataError(
            f"{uri}: {len(absent)} of {len(classes)} classes have no image in train: "
            f"{', '.join(absent[:SHOWN])}{', ...' if len(absent) > SHOWN else ''}; "
            "add some, or remove the classes from the other splits"
        )


def describe(
    name: str,
    uri: str,
    settings: Settings,
    classes: Sequence[str],
    images: Sequence[Image],
    skipped: Sequence[Skipped],
) -> Draft:
    """Sum up an import; a pure function."""
    content = hashlib.sha256(settings.model_dump_json(exclude={"skip_bad"}).encode())
    for image in images:
        content.update(json.dumps([image.sha256, classes[image.label], image.split]).encode())
    # Names alone: where the source lies is no part of a version.
    content.update(json.dumps(sorted(Path(file.path).name for file in skipped)).encode())

    found = Counter((image.split, image.label) for image in images)
    copies: defaultdict[str, list[Image]] = defaultdict(list)
    for image in images:
        copies[image.sha256].append(image)
    leakage, conflicts = [], []
    for digest, same in copies.items():
        paths = tuple(image.path for image in same)
        splits = tuple(dict.fromkeys(image.split for image in same))
        labels = tuple(dict.fromkeys(classes[image.label] for image in same))
        if len(splits) > 1:
            leakage.append(Leakage(sha256=digest, paths=paths, splits=splits))
        if len(labels) > 1:
            conflicts.append(Conflict(sha256=digest, paths=paths, labels=labels))
    return Draft(
        name=name,
        version=content.hexdigest()[:16],
        digest=content.hexdigest(),
        classes=tuple(classes),
        settings=settings,
        counts={
            split: {label: found[split, i] for i, label in enumerate(classes)}
            for split in SPLITS
            if any(image.split == split for image in images)
        },
        images=len(images),
        bytes=sum(same[0].size for same in copies.values()),
        width=_spread([image.width for image in images]),
        height=_spread([image.height for image in images]),
        skipped=tuple(skipped),
        leakage=tuple(leakage),
        conflicts=tuple(conflicts),
        source=uri,
    )


def choose_originals(images: Iterable[Image], entries: Iterable[Entry]) -> list[Entry]:
    """Choose validation images whose original files are kept, of every class in turn.

    Turns alternate between images that `decode` has to change (shrink, turn, recolour)
    and those it only decodes, where a class has both.
    """
    by_digest = {entry.sha256: entry for entry in entries}
    queues: defaultdict[int, tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
    for image in images:
        entry = by_digest[image.sha256]
        if image.split == "val" and entry.file_bytes <= ORIGINAL_BYTES:
            queues[image.label][entry.changed].append(entry)
    chosen: dict[str, Entry] = {}
    for turn in range(ORIGINALS):
        for label, queue in sorted(queues.items()):
            changed = (turn + label) % 2 == 0
            candidates = queue[changed] or queue[not changed]
            if candidates and len(chosen) < ORIGINALS:
                entry = candidates.pop(0)
                chosen[entry.sha256] = entry
    return list(chosen.values())


def _spread(lengths: Sequence[int]) -> Spread:
    return Spread(min=min(lengths), median=statistics.median_low(lengths), max=max(lengths))
