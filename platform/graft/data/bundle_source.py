"""Sources whose files hold many images each: Parquet files, or WebDataset's tar files."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from graft.data.class_names import ClassNames
from graft.data.file_reader import FileReader
from graft.data.image_source import ImageSource, LabelledFile
from graft.data.listing import ListedFile, Listing
from graft.data.manifest import SkippedFile
from graft.data.parquet_source import images_in_parquet
from graft.data.split_files import splits_by_name
from graft.data.walk import shown_path
from graft.data.webdataset_source import images_in_tar
from graft.errors import DataError, ImageError

Progress = Callable[[int], object]
"""Called now and then with the number of images that were listed so far."""
_Images = Callable[
    [FileReader, ListedFile, str, ClassNames | None], Iterator[LabelledFile | SkippedFile]
]
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
BUNDLES: dict[str, _Images] = {
    ".parquet": images_in_parquet,
    ".tar": images_in_tar,
    **dict.fromkeys(_COMPRESSED, images_in_tar),  # which refuses them
}
"""What lists the images of a file, by the end of its name."""

DOCUMENTS = (".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".py", ".idx", "license")
"""Ends of the names of what people and tools put beside such files; Spark's begin with ``_``."""

_AT_ONCE = 8
"""Files that are listed at a time: most of it is waiting, for a disk or for S3."""


def is_bundle(path: str) -> bool:
    """Whether a file is called as one that holds many images."""
    return path.lower().endswith(tuple(BUNDLES))


def is_document(path: str) -> bool:
    """Whether a file is called as what lies beside such files, and is passed by."""
    return path.lower().endswith(DOCUMENTS) or path.rpartition("/")[2].startswith("_")


def only_bundles(files: Sequence[ListedFile]) -> bool:
    """Whether what lies in a folder are such files, and nothing else but documents."""
    kinds = [
        is_bundle(file.path)
        for file in files
        if not is_document(file.path) and not file.location.endswith("/")  # an empty folder
    ]
    return bool(kinds) and all(kinds)


def open_bundles(
    listing: Listing,
    reader: FileReader,
    labelled: bool = True,
    progress: Progress = lambda images: None,
) -> ImageSource:
    """List the images that files hold.

    Args:
        listing: the files, and documents beside them.
        reader: what they are read with.
        labelled: False: labels come from elsewhere, and those of the files are not looked at.
        progress: called now and then with the number of images that were listed so far.

    Raises:
        DataError: a file cannot be read, or is not what its name says.
        StoreError: an S3 bucket cannot be used.
    """
    bundles = [file for file in listing.files if is_bundle(file.path)]
    if refused := next((f for f in bundles if shown_path(f.path) != f.path), None):
        raise DataError(f"{shown_path(refused.path)}: its name is not UTF-8; rename it")
    splits, stray = splits_by_name(listing.uri, [file.path for file in bundles])
    names = ClassNames() if labelled else None
    stray += [SkippedFile(path=path, reason=reason) for path, reason in listing.refused.items()]
    if splits:
        bundles = [file for file in bundles if file.path in splits]
    files: list[LabelledFile] = []
    for image in images_in(reader, bundles, splits, names, progress):
        if isinstance(image, LabelledFile):
            files.append(image)
        else:
            stray.append(image)
    if not files and not stray:
        raise DataError(f"{listing.uri}: found no image in {len(bundles)} files")
    notes = [*(names.notes() if names else []), *listing.notes()]
    if documents := [file.path for file in listing.files if is_document(file.path)]:
        notes.append(f"passed by: {', '.join(documents[:5])}{', ...' * (len(documents) > 5)}")
    chosen = {file.split for file in files}
    if not splits and chosen == {"train"}:  # neither a name nor a column chooses
        chosen = set()
    return ImageSource(files, stray, chosen, reader, notes)


def images_in(
    reader: FileReader,
    bundles: Sequence[ListedFile],
    splits: dict[str, str] | None,
    names: ClassNames | None,
    progress: Progress,
) -> Iterator[LabelledFile | SkippedFile]:
    """Yield the images of files, one file after another.

    Args:
        reader: what they are read with.
        bundles: the files.
        splits: of files, by path; train, where it is not in it; None: splits are not looked at.
        names: the classes; None: labels are not looked at.
        progress: called after each file with the number of images so far.

    Raises:
        DataError: a file cannot be read, or is not what its name says.
    """

    def listed(file: ListedFile) -> list[LabelledFile | SkippedFile]:
        (images,) = (images for end, images in BUNDLES.items() if file.path.lower().endswith(end))
        try:
            split = "" if splits is None else splits.get(file.path, "train")
            return list(images(reader, file, split, names))
        except ImageError as error:
            raise DataError(f"{file.path}: {error}") from error

    count = 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="list") as pool:
        for start in range(0, len(bundles), _AT_ONCE):  # so that no more of them wait in memory
            for images in pool.map(listed, bundles[start : start + _AT_ONCE]):
                count += len(images)
                progress(count)
                yield from images
