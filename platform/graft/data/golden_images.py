"""Originals: source files of some validation images, from which a server's preprocessing is tested.

They are stored beside the shards, whose images may be shrunk.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from graft.data.image_source import ImageSource
from graft.data.index import Image
from graft.data.version_draft import DraftImage
from graft.errors import DataError, ImageError
from graft.store import sha256

ORIGINALS = 16
"""How many validation images have their original file stored."""
ORIGINAL_BYTES = 8 << 20
"""A file with more bytes is not chosen."""


@dataclass(frozen=True)
class _Candidates:
    """The images of one class that may still be chosen, in the index's order."""

    changed: deque[DraftImage] = field(default_factory=deque)
    """Images that `decode` has to shrink, turn or recolour."""
    unchanged: deque[DraftImage] = field(default_factory=deque)

    def add(self, image: DraftImage) -> None:
        (self.changed if image.changed else self.unchanged).append(image)

    def take(self, prefer_changed: bool) -> DraftImage | None:
        """Remove and return the next image, of the preferred sort if there is one."""
        changed, unchanged = self.changed, self.unchanged
        queue = (changed or unchanged) if prefer_changed else (unchanged or changed)
        return queue.popleft() if queue else None


def choose_originals(
    images: Iterable[Image], draft_images: Iterable[DraftImage]
) -> list[DraftImage]:
    """Choose up to `ORIGINALS` validation images, from every class in turn.

    A class's turns alternate between images that `decode` has to change and those that it
    only decodes, as long as the class has both.

    Args:
        images: the index.
        draft_images: the same images as they were read.
    """
    by_digest = {image.sha256: image for image in draft_images}
    classes: defaultdict[int, _Candidates] = defaultdict(_Candidates)
    for image in images:
        candidate = by_digest[image.sha256]
        if image.split == "val" and candidate.file_bytes <= ORIGINAL_BYTES:
            classes[image.label].add(candidate)
    chosen: dict[str, DraftImage] = {}
    for turn in range(ORIGINALS):
        for label, candidates in sorted(classes.items()):
            if len(chosen) == ORIGINALS:
                return list(chosen.values())
            if original := candidates.take(prefer_changed=(turn + label) % 2 == 0):
                chosen[original.sha256] = original
    return list(chosen.values())


def read_originals(
    source: ImageSource, draft_images: Iterable[DraftImage]
) -> list[tuple[str, bytes]]:
    """Return the digest and the bytes of each image's source file.

    Raises:
        DataError: a file is no longer what it was when it was read before.
    """
    originals = []
    for image in draft_images:
        try:
            data = source.read(image.file)
        except ImageError as error:
            raise DataError(f"{image.file.path}: {error}, when it was read again") from error
        if sha256(data) != image.sha256:
            raise DataError(f"{image.file.path} was changed while it was imported; import again")
        originals.append((image.sha256, data))
    return originals
