"""Images in WebDataset's tar files: members of one key are an image and its label."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from graft.data.class_names import ClassNames
from graft.data.file_reader import FileReader
from graft.data.image_source import LabelledFile
from graft.data.listing import ListedFile
from graft.data.locations import TarMember
from graft.data.manifest import SkippedFile
from graft.data.walk import ignored_name, shown_path
from graft.errors import ImageError

IMAGES = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "ppm", "pgm", "pbm", "pnm", "webp"),
        *("tif", "tiff", "avif", "jp2", "j2k", "jpx", "img", "image"),
    )
)
"""What the last part of an image's extension may be."""

LABELS = {"cls": 1 << 10, "json": 1 << 20, "txt": 1 << 10}
"""Extensions of labels, and how many bytes each may have. The first that a sample has counts; JSON
has its label under `label`."""

LONGEST_NAME = 100
"""A text with more characters is a caption, and no class."""

HEADER_BYTES = 16 << 10
"""Headers of one member may have so many bytes: a name of 4,096 and a few attributes fit."""

_PADDING = 1 << 20
"""Zeros after the end of a tar file: GNU tar's records may have so many bytes."""

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class _Image:
    """A member that may be a sample's image."""

    path: str
    location: str


@dataclass
class _Sample:
    """The members of one key."""

    images: dict[str, _Image] = field(default_factory=dict)
    """By extension."""
    labels: dict[str, str] = field(default_factory=dict)
    """By extension."""
    others: list[str] = field(default_factory=list)
    """Extensions of all other members, or what is wrong with them."""

    def image(self) -> _Image:
        """Return the sample's image.

        Raises:
            ImageError: there is none, or there are several.
        """
        # `mask.png` lies beside `jpg`, and is not the image.
        plain = [name for name in self.images if "." not in name] or list(self.images)
        if len(plain) != 1:
            extensions = ", ".join([*self.images, *self.labels, *self.others])
            raise ImageError(f"a sample of {extensions}; expected one image")
        return self.images[plain[0]]

    def label(self) -> str:
        """Return the sample's label.

        Raises:
            ImageError: there is none.
        """
        for name in LABELS:
            if name in self.labels:
                return self.labels[name]
        raise ImageError(
            "no label: expected a member KEY.cls, KEY.json with 'label', or KEY.txt"
            + (f"; found {', '.join(self.others)}" if self.others else "")
        )


def images_in_tar(
    reader: FileReader, file: ListedFile, split: str, names: ClassNames | None
) -> Iterator[LabelledFile | SkippedFile]:
    """Yield the images of a tar file, in the order of its members: ``FILE/MEMBER``.

    Of images, the headers alone are read.

    Args:
        reader: what the file is read with.
        file: the file.
        split: that of its images.
        names: the classes; None: labels are not looked at.

    Raises:
        ImageError: it is no whole tar file; the message is the reason alone.
    """
    samples: dict[str, _Sample] = {}
    with reader.open(file.location) as opened:
        for member in _members(opened):
            name = member.name.removeprefix("./")
            if member.isdir() or any(map(ignored_name, name.split("/"))):
                continue
            path = shown_path(f"{file.path}/{name}")
            key, extension = _key_and_extension(name)
            if problem := _problem(member, name, extension):
                yield SkippedFile(path=path, reason=problem)
                continue
            sample = samples.setdefault(key, _Sample())
            if extension in sample.images or extension in sample.labels:
                raise ImageError(f"two members {name!r}; expected a key of its own for each sample")
            if extension.rpartition(".")[2] in IMAGES:
                place = TarMember(file.location, member.offset_data, member.size)
                sample.images[extension] = _Image(path, str(place))
            elif extension in LABELS and names:
                _read_label(opened, member, extension, sample)
            else:
                sample.others.append(extension)
    for key, sample in samples.items():
        try:
            image = sample.image()
            label = names.of(sample.label()) if names else ""
        except ImageError as error:
            yield SkippedFile(path=f"{file.path}/{key}", reason=str(error))
        else:
            yield LabelledFile(image.path, image.location, label, split)


def _key_and_extension(name: str) -> tuple[str, str]:
    """Divide a member's name as WebDataset does: at the first point after its folders."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _problem(member: tarfile.TarInfo, name: str, extension: str) -> str:
    """Return why a member can be no part of a sample; empty: it can."""
    if shown_path(name) != name:
        return "its name is not UTF-8"
    if not member.isreg() or member.issparse():
        return "a link, a device or a file with holes, and not a regular file"
    if not extension:
        return "its name has no extension, by which WebDataset goes"
    return ""


def _members(opened: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file.

    Raises:
        ImageError: it is compressed, cut off or damaged, or a member's name leads out of it.
    """
    size = opened.seek(0, 2)
    opened.seek(0)
    if opened.read(8).startswith(_COMPRESSED):
        raise ImageError(
            "it is compressed, so that an image of it cannot be read without all before; "
            "unpack it to a plain .tar"
        )
    opened.seek(0)
    headers = _Headers(opened)
    end = 0
    try:
        # It reads the first member's header at once.
        tar = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
        while member := tar.next():
            if not end < tar.offset <= size or not 0 <= member.offset_data <= tar.offset:
                raise ImageError("cut off or damaged: a member ends beyond it")
            end = tar.offset
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise ImageError(f"member {member.name!r}: its name leads out of the archive")
            yield member
            # Neither are all members needed, nor what a header says of all that come after it.
            tar.members = []  # type: ignore[attr-defined]
            tar.pax_headers = {}
            headers.left = HEADER_BYTES
    except (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise ImageError(f"not a whole tar file: {error or type(error).__name__}") from error
    _check_end(opened, end, size)


def _check_end(opened: BinaryIO, end: int, size: int) -> None:
    """Refuse a tar file whose end is not marked: tarfile takes whatever it cannot read for it."""
    opened.seek(end)
    rest = opened.read(min(size - end, _PADDING))
    if len(rest) < tarfile.BLOCKSIZE or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise ImageError(f"cut off or damaged: after {end:,} bytes comes neither member nor end")
    if size - end > _PADDING or rest.strip(b"\0"):
        raise ImageError(
            f"it goes on after its end, at byte {end:,}: tar files put together are none; "
            "join them with `tar --concatenate`"
        )


class _Headers:
    """A tar file as tarfile reads it: of one member's headers, no more than fits into memory."""

    def __init__(self, opened: BinaryIO):
        self._opened = opened
        self.left = HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"a member's headers have more than {HEADER_BYTES >> 10} KiB")
        return self._opened.read(size)

    def seek(self, position: int) -> int:
        return self._opened.seek(position)

    def tell(self) -> int:
        return self._opened.tell()


def _read_label(opened: BinaryIO, member: tarfile.TarInfo, extension: str, sample: _Sample) -> None:
    """Add the label of a member to a sample, or what is wrong with it."""
    try:
        if member.size > LABELS[extension]:
            raise ValueError(f"{member.size:,} bytes")
        opened.seek(member.offset_data)
        text = opened.read(member.size).decode("utf-8-sig")
        sample.labels[extension] = _label(json.loads(text) if extension == "json" else text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        sample.others.append(f"{extension} ({reason})")


def _label(value: object) -> str:
    """Return the label in what a member holds.

    Raises:
        ValueError: it has none.
    """
    if isinstance(value, dict):
        value = value.get("label")
    text = str(value).strip() if isinstance(value, str | int) else ""
    if not text or "\0" in text:
        raise ValueError("no label in it")
    if len(text) > LONGEST_NAME or "\n" in text:
        raise ValueError("a caption, and not the name of a class")
    return text
