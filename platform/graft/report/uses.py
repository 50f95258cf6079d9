"""Which images may judge a model, and how often they did before.

Train chooses weights; val chooses epoch, rate and depth. Test is divided once, by the images'
hashes: one half is set apart for calibration and thresholds, the other one judges. Each use of
images that judge is recorded, ``uses/<dataset>/<version>/<split>/<report>.json``: the more often
they were looked at, the less a figure on them says of new images.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import numpy as np

from graft.data.copies import distinct_images
from graft.errors import NotFoundError, ObjectExists
from graft.spec import Section
from graft.store import Store, document_bytes, read_document

if TYPE_CHECKING:
    from graft.data.index import Images
    from graft.data.manifest import DatasetVersion

Part = Literal["calibrate", "judge"]
_USE = re.compile(
    r"uses/[^/]+/(?P<version>[^/]+)/(?P<split>train|val|test)/(?P<report>[^/]+)\.json"
)


class Use(Section):
    """One time that images judged: a stored marker."""

    report: str
    """Id of the report, or of the comparison."""
    split: str
    part: Part | None
    """Part of the split; null: all of it."""
    images: int
    """Number of distinct images."""
    before: int
    """How many other reports had used one of these images before."""
    when: str
    """ISO 8601 in UTC."""


def part_of(digest: str) -> Part:
    """Return the part of test that an image belongs to, whatever the others are."""
    # Hashed again, for the digest's own order has chosen the split.
    return "judge" if sha256(f"judge/{digest}".encode()).digest()[0] % 2 else "calibrate"


def part_that_judges(split: str) -> Part | None:
    """Return the part of a split that may judge; None: all of it."""
    return "judge" if split == "test" else None


def may_judge(digest: str, split: str) -> bool:
    """Whether an image belongs to the part of its split that judges."""
    return split != "test" or part_of(digest) == "judge"


def images_that_judge(images: "Images", split: str) -> "Images":
    """Return the images of a split that may judge, of copies the first."""
    distinct = distinct_images(images)
    return distinct.at(np.array([may_judge(digest, split) for digest in distinct.sha256], bool))


def used_already(before: int) -> str:
    """Return that images were used before, to be added to a figure; empty for none."""
    times = "once" if before == 1 else f"{before} times"
    return f"; on images that were used {times} before" if before else ""


def record_use(
    store: Store, dataset: "DatasetVersion", split: str, images: Collection[str], report: str
) -> int:
    """Record that a report looks at images that judge; return how many had done so before.

    Those count that looked at one of these images, by SHA-256, under any version of the dataset. A
    report that is made again, or resumed, counts once.
    """
    name, version = dataset.manifest.name, dataset.manifest.version
    key = f"uses/{name}/{version}/{split}/{report}.json"
    by_place: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for used, _ in store.scan(f"uses/{name}/"):
        if match := _USE.fullmatch(used):
            by_place[match["version"], match["split"]].add(match["report"])
    earlier: set[str] = set()
    for place, reports in by_place.items():
        if place == (version, split) or _judged_one(store, name, *place, set(images)):
            earlier |= reports
    others = len(earlier - {report})
    use = Use(
        report=report,
        split=split,
        part=part_that_judges(split),
        images=len(images),
        before=others,
        when=datetime.now(UTC).isoformat(),
    )
    with contextlib.suppress(ObjectExists):
        store.create(key, document_bytes(use))
    return read_document(store, key, Use).before


def _judged_one(store: Store, name: str, version: str, split: str, images: set[str]) -> bool:
    """Whether a dataset version's split lets one of the images judge, or is not in the store."""
    from graft.data.manifest import open_dataset

    try:
        held = open_dataset(store, name, version).images(split)
    except NotFoundError:
        return True
    return not images.isdisjoint(images_that_judge(held, split).sha256)
