"""Images in folders, each folder a class: of this machine, or of a prefix in S3."""

import re
from collections.abc import Iterable

from graft.data.class_names import ClassNames
from graft.data.file_reader import FileReader
from graft.data.image_source import ImageSource, LabelledFile
from graft.data.listing import Listing
from graft.data.manifest import SkippedFile
from graft.data.split_folders import LAYOUT, SPLIT_NAMES, has_split_folders, top_folder
from graft.data.walk import shown_path
from graft.errors import DataError


def label_by_folder(listing: Listing, reader: FileReader, labelled: bool = True) -> ImageSource:
    """Label each file by its folder.

    Args:
        listing: the files.
        reader: what they will be read with.
        labelled: False: labels come from elsewhere, and a file need not lie in a class's folder.

    Raises:
        DataError: the folders are neither classes nor splits.
    """
    uri = listing.uri
    paths = [_with_named_folders(file.path) for file in listing.files]
    with_splits = has_split_folders(uri, paths)
    names = ClassNames()
    files = []
    stray = [
        SkippedFile(path=shown_path(path), reason=reason)
        for path, reason in listing.refused.items()
    ]
    for file, path in zip(listing.files, paths, strict=True):
        *folders, name = path.split("/")
        split = SPLIT_NAMES.get(folders[0].lower()) if with_splits and folders else None
        labels = folders[1:] if with_splits else folders
        shown = shown_path(file.path)
        if shown != file.path:
            stray.append(SkippedFile(path=shown, reason="its name is not UTF-8"))
        elif with_splits and split is None:
            stray.append(SkippedFile(path=shown, reason="outside the split folders"))
        elif name and (labels or not labelled):
            label = names.of(labels[0]) if labelled else ""
            files.append(LabelledFile(shown, file.location, label, split or "train", file.size))
        elif name:
            stray.append(SkippedFile(path=shown, reason="outside any class folder"))
        elif labelled and len(labels) == 1:
            stray.append(SkippedFile(path=shown, reason="an empty class folder"))
    if not files:
        missing = f"no class folder with a file; expected {LAYOUT}" if labelled else "none to label"
        raise DataError(f"{uri}: found {len(stray)} files and {missing}")
    splits = {file.split for file in files} if with_splits else set[str]()
    _check_splits(listing, splits, stray)
    if labelled and listing.real:
        real = listing.real
        _check_one_label(uri, ((real.get(f.path, f.location), f.path, f.label) for f in files))
    notes = names.notes()
    deeper = sum(file.path.count("/") > 1 + with_splits for file in files)
    if labelled and deeper:
        notes.append(f"in folders below a class's folder, and of that class: {deeper:,} files")
    return ImageSource(files, stray, splits, reader, [*notes, *listing.notes()])


def _check_splits(listing: Listing, splits: set[str], stray: Iterable[SkippedFile]) -> None:
    """Refuse a split folder that holds nothing; `splits`: those with a file, empty if none is."""
    tops = {top_folder(file.path) for file in listing.files} & SPLIT_NAMES.keys() if splits else ()
    strays = {SPLIT_NAMES.get(top_folder(file.path)) for file in stray if file.path[-1] != "/"}
    for split in sorted({SPLIT_NAMES[top] for top in tops} - splits - strays):
        raise DataError(f"{listing.uri}: the {split} folder holds no image; fill it or remove it")


def _check_one_label(uri: str, files: Iterable[tuple[str, str, str]]) -> None:
    """Refuse a file that has two labels: location without links, path and label of each."""
    first: dict[str, tuple[str, str]] = {}
    for real, path, label in files:
        first_path, first_label = first.setdefault(real, (path, label))
        if first_label != label:
            raise DataError(
                f"{uri}: {first_path} and {path} are one file, by links, labelled '{first_label}' "
                f"and '{label}'; give it one label"
            )


def _with_named_folders(path: str) -> str:
    """Return a path without the folders that have no name, as S3 may have them: `a//1.png`."""
    return re.sub("//+", "/", path).removeprefix("/")
