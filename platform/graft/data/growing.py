"""Growing: what a dataset version takes over from the one that it adds to.

The earlier version's images keep their splits, their labels and the shards that they lie in; its
settings hold for the new images, too. A version that adds to none takes over nothing, and is made
the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from graft.data.class_names import ClassNames
from graft.data.digests import first_bytes, from_hexadecimal
from graft.data.golden_images import ORIGINALS, choose_originals, read_originals
from graft.data.image import MAX_SIDE
from graft.data.image_source import ImageSource
from graft.data.index import Image
from graft.data.manifest import (
    DatasetVersion,
    EarlierShards,
    ImportSettings,
    Manifest,
    SkippedFile,
)
from graft.data.shards import Place
from graft.data.splits import (
    SPLITS,
    MadeSplits,
    choose_made_splits,
    made_fractions,
    make_splits,
)
from graft.data.version_draft import (
    SHOWN,
    Contents,
    DraftImage,
    index_images,
    index_order,
)
from graft.errors import DataError


@dataclass(frozen=True)
class Earlier:
    """What a version takes over from the one that it adds to."""

    dataset: DatasetVersion | None = None
    """The version that it adds to; None: it adds to none."""
    contents: Contents = field(default_factory=lambda: Contents([], [], []))
    shards: tuple[EarlierShards, ...] = ()
    """The shards of `contents`, in the order in which its images count them."""
    stored: Mapping[str, Image] = field(default_factory=dict)
    """An image of each digest in `contents`: of a leaked one, that of its last split."""

    @classmethod
    def of(cls, dataset: DatasetVersion) -> "Earlier":
        """Return all that `dataset` has."""
        manifest = dataset.manifest
        images = [image for split in SPLITS for image in dataset.images(split)]
        brought = EarlierShards(version=manifest.version, shards=manifest.shards)
        return cls(
            dataset,
            Contents(list(manifest.classes), images, manifest.skipped),
            (*manifest.earlier, *([brought] if brought.shards else [])),
            {image.sha256: image for image in images},
        )

    @property
    def version(self) -> str | None:
        """The version that it adds to; None: none."""
        return self.dataset.manifest.version if self.dataset else None

    @property
    def shard_count(self) -> int:
        """How many shards there are, and so the number of the first new one."""
        return sum(len(part.shards) for part in self.shards)

    @property
    def places(self) -> dict[str, Place]:
        """Where each digest's image lies in the shards."""
        return {
            digest: Place(image.shard, image.offset, image.size)
            for digest, image in self.stored.items()
        }

    def stored_size(self, digest: str) -> tuple[int, int] | None:
        """Return width and height of the image of a digest; None: it is new."""
        image = self.stored.get(digest)
        return (image.width, image.height) if image else None

    def originals(
        self, source: ImageSource, contents: Contents, draft_images: Sequence[DraftImage]
    ) -> list[tuple[str, bytes]]:
        """Return the digest and the bytes of the original files that a version stores.

        Those that the earlier version stored stay; new ones join them, up to `ORIGINALS`.

        Raises:
            DataError: a file is no longer what it was when it was read before.
            StoreError: the earlier version's cannot be read.
        """
        kept = self.dataset.originals() if self.dataset else []
        new_images = [image for image in contents.images if image.sha256 not in self.stored]
        chosen = choose_originals(new_images, draft_images)[: ORIGINALS - len(kept)]
        return [
            *((image.sha256, data) for image, data in kept),
            *read_originals(source, chosen),
        ]


class StoredSizes:
    """Width and height of each image of a version by its digest: 12 bytes an image, and no object.

    For the processes of a cluster, which need nothing else of the version that is added to.
    """

    def __init__(self, dataset: DatasetVersion):
        self._columns = dataset.columns
        begins = first_bytes(self._columns.sha256)
        self._order = np.argsort(begins, kind="stable").astype(np.int32)
        self._begins = begins[self._order]

    def __call__(self, digest: str) -> tuple[int, int] | None:
        """Return width and height of the image of a digest; None: it is new."""
        wanted = from_hexadecimal([digest])
        begins = first_bytes(wanted)[0]
        for place in range(int(np.searchsorted(self._begins, begins)), len(self._begins)):
            if self._begins[place] != begins:
                break
            row = int(self._order[place])
            if self._columns.sha256[row] == wanted[0]:
                return int(self._columns.width[row]), int(self._columns.height[row])
        return None


@dataclass(frozen=True)
class Addition:
    """What a version holds that adds images to an earlier one."""

    contents: Contents
    notes: list[str]
    """What adding them put together or kept, for people to read."""


@dataclass(frozen=True)
class NamedSettings:
    """The settings that a user named; None: not named."""

    max_side: int | None = None
    val_fraction: float | None = None
    test_fraction: float | None = None
    seed: int | None = None


def choose_settings(
    named: NamedSettings, skip_bad: bool, uri: str, source_splits: set[str], earlier: Earlier
) -> ImportSettings:
    """Return the settings of an import: those of the version that it adds to, if it adds to one.

    Args:
        named: what the user wants.
        skip_bad: whether unusable files are left out.
        uri: what is imported.
        source_splits: the splits that it has itself.
        earlier: what it adds to.

    Raises:
        DataError: a setting has no effect or makes no sense, or is not that of the earlier version.
    """
    if earlier.dataset:
        parent = earlier.dataset.manifest
        _check_named(named, parent)
        _check_splits(uri, source_splits, parent)
        skips = parent.settings.skip_bad or skip_bad
        return parent.settings.model_copy(update={"skip_bad": skips})
    made = choose_made_splits(source_splits, named.val_fraction, named.test_fraction, named.seed)
    max_side = MAX_SIDE if named.max_side is None else named.max_side
    return ImportSettings(max_side=max_side, made=made, skip_bad=skip_bad)


def _check_named(named: NamedSettings, parent: Manifest) -> None:
    made, fractions = parent.settings.made, made_fractions(parent.settings.made)
    kept = NamedSettings(
        max_side=parent.settings.max_side,
        val_fraction=fractions["val"],
        test_fraction=fractions["test"],
        seed=made.seed if made else None,
    )
    for name, value in asdict(named).items():
        if value is not None and value != (setting := getattr(kept, name)):
            has = "none" if setting is None else setting
            raise DataError(
                f"--{name.replace('_', '-')} {value}: {parent.ref} has {has}, which holds for "
                "what is added to it; leave the option out, or import all images anew with --name"
            )


def _check_splits(uri: str, source_splits: set[str], parent: Manifest) -> None:
    fractions = made_fractions(parent.settings.made)
    for split, fraction in fractions.items():
        if fraction and split in source_splits:
            raise DataError(
                f"{uri} has its own {split} split, and that of {parent.ref} is made of train "
                f"({fraction:g}); add the images without splits"
            )
    of_source = [split for split in parent.counts if split != "train" and not fractions[split]]
    if of_source and not source_splits:
        raise DataError(
            f"{uri} has no splits, and {parent.ref} has those of its source "
            f"({', '.join(of_source)}); put the images into folders called train, "
            f"{', '.join(of_source)}, or name their splits in a table"
        )


def add_images(
    earlier: Earlier,
    draft_images: Sequence[DraftImage],
    places: Mapping[str, Place],
    skipped: Sequence[SkippedFile],
    made: MadeSplits | None,
) -> Addition:
    """Put the images of a source and those of an earlier version together.

    A file whose image the earlier version has under the same label adds nothing. Under another
    label it adds an image, a conflict, to the split that the image is in.

    Args:
        earlier: what is there.
        draft_images: all usable files of the source, in any order.
        places: where each digest's image lies in the shards.
        skipped: all other files of the source.
        made: how to split the files that the source has in train; None: they stay there.
    """
    before = earlier.contents
    labelled = {(image.sha256, before.classes[image.label]) for image in before.images}
    new = [
        _kept_in_split(earlier, image)
        for image in draft_images
        if (image.sha256, image.file.label) not in labelled
    ]
    added = index_images(new, places, skipped, _split_train(earlier, new, made))
    classes = sorted({*before.classes, *added.classes})
    images = [*_relabelled(before, classes), *_relabelled(added, classes)]
    images.sort(key=index_order)
    left_out = list(dict.fromkeys([*before.skipped, *skipped]))
    notes = _notes(earlier, draft_images, len(draft_images) - len(new), classes, made)
    return Addition(Contents(classes, images, left_out), notes)


def _kept_in_split(earlier: Earlier, image: DraftImage) -> DraftImage:
    """Return an image in the split that its bytes are in already, if they are in any."""
    stored = earlier.stored.get(image.sha256)
    return replace(image, file=replace(image.file, split=stored.split)) if stored else image


def _split_train(
    earlier: Earlier, new: Sequence[DraftImage], made: MadeSplits | None
) -> dict[str, str]:
    """Return the split of each digest that is in train, or was split off from it before."""
    if made is None:
        return {}
    before, fractions = earlier.contents, made_fractions(made)
    divided = [image for image in before.images if image.split == "train" or fractions[image.split]]
    return make_splits(
        [
            *((image.sha256, before.classes[image.label]) for image in divided),
            *((image.sha256, image.file.label) for image in new if image.file.split == "train"),
        ],
        made.val_fraction,
        made.test_fraction,
        made.seed,
        kept={image.sha256: earlier.stored[image.sha256].split for image in divided},
    )


def _relabelled(contents: Contents, classes: Sequence[str]) -> list[Image]:
    """Return the images with their labels among `classes`, which has all of theirs."""
    if contents.classes == classes:
        return contents.images
    positions = {name: label for label, name in enumerate(classes)}
    labels = [positions[name] for name in contents.classes]
    return [replace(image, label=labels[image.label]) for image in contents.images]


def _notes(
    earlier: Earlier,
    draft_images: Sequence[DraftImage],
    repeated: int,
    classes: Sequence[str],
    made: MadeSplits | None,
) -> list[str]:
    """Say what people may not expect of an addition.

    Args:
        earlier: what was there.
        draft_images: all usable files of the source.
        repeated: how many of them add nothing.
        classes: those of the new version.
        made: see `add_images`.
    """
    if earlier.dataset is None:
        return []
    ref, fractions, notes = earlier.dataset.manifest.ref, made_fractions(made), []
    if repeated:
        notes.append(f"images that {ref} has already, which add nothing: {repeated:,} files")
    stay = 0
    for image in draft_images:
        split, stored = image.file.split, earlier.stored.get(image.sha256)
        if stored and split != stored.split:
            stay += split != "train" or not fractions[stored.split]
    if stay:
        notes.append(f"images that {ref} has in another split, where they stay: {stay:,} files")
    if new := [name for name in classes if name not in earlier.contents.classes]:
        more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
        notes.append(f"classes that {ref} does not have: {', '.join(new[:SHOWN])}{more}")
        names = ClassNames()
        for name in classes:
            names.of(name)
        notes += names.notes()
    return notes
