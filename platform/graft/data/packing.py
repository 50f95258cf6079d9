"""Packing: which shard each image lies in, and how a shard is made of tar files of scanned parts.

The members of those tar files are what a shard has, byte for byte: a shard is copied together of
runs of them. So one that packs needs neither the images' names nor their pixels, and any process
packs any shard.
"""

import tarfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.shards import SHARD_BYTES, Place
from graft.errors import ObjectDamaged

RUN_BYTES = 8 << 20
"""Bytes that are copied at once, unless one image has more."""

_PLANNED = pa.schema(
    [("part", pa.int64()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())]
)
"""Of the file of a plan; the columns are those of `StagedImage`."""

Read = Callable[[int, int, int], bytes]
"""Returns bytes of a part's tar file: the part's number, where they begin, how many."""


@dataclass(frozen=True, slots=True)
class StagedImage:
    """Where an image that is to be stored lies in a part's tar file."""

    part: int
    offset: int
    """Bytes from the tar file's beginning to the image's."""
    size: int
    crc32: int

    @property
    def begin(self) -> int:
        """Where its member begins, with the header."""
        return self.offset - tarfile.BLOCKSIZE

    @property
    def end(self) -> int:
        """Where its member ends, and the next one begins."""
        return self.begin + member_bytes(self.size)


class ShardPlan:
    """Which images each shard has, and where: they follow one another as they are added.

    Once a shard has `shard_bytes`, the next image begins a new one. Numbers of 30 bytes an image
    are in memory, and no object.
    """

    def __init__(self, first: int = 0, shard_bytes: int = SHARD_BYTES):
        """`first`: number of the first shard."""
        self.first = first
        self._shard_bytes = shard_bytes
        self._begins = array("q")
        self._sizes = array("q")
        self._parts, self._offsets, self._lengths = array("q"), array("q"), array("q")
        self._checksums = array("L")

    def __len__(self) -> int:
        """How many shards there are."""
        return len(self._begins)

    @property
    def images(self) -> int:
        """How many images there are in all of them."""
        return len(self._parts)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each shard."""
        return [_tar_bytes(size) for size in self._sizes]

    def add(self, image: StagedImage) -> Place:
        """Add an image; return where it will lie."""
        if not self._sizes or self._sizes[-1] >= self._shard_bytes:
            self._begins.append(len(self._parts))
            self._sizes.append(0)
        place = Place(self.first + len(self) - 1, self._sizes[-1] + tarfile.BLOCKSIZE, image.size)
        self._sizes[-1] += member_bytes(image.size)
        self._parts.append(image.part)
        self._offsets.append(image.offset)
        self._lengths.append(image.size)
        self._checksums.append(image.crc32)
        return place

    def shard(self, position: int) -> list[StagedImage]:
        """Return the images of a shard, by its position in the plan, in their order."""
        begin, end = self._begins[position], self._end(position)
        columns = (self._parts, self._offsets, self._lengths, self._checksums)
        return [StagedImage(*row) for row in zip(*(c[begin:end] for c in columns), strict=True)]

    def write(self, path: Path) -> None:
        """Write a Parquet file of what is in the shards, a row group for each."""
        with pq.ParquetWriter(path, _PLANNED) as writer:
            for position in range(len(self)):
                rows = [asdict(image) for image in self.shard(position)]
                writer.write_table(pa.Table.from_pylist(rows, _PLANNED))

    def _end(self, position: int) -> int:
        following = position + 1
        return self._begins[following] if following < len(self) else len(self._parts)


def read_planned(plan: pq.ParquetFile, position: int) -> list[StagedImage]:
    """Return the images of a shard, of a plan that was written."""
    return [StagedImage(**row) for row in plan.read_row_group(position).to_pylist()]


def pack_shard(images: Sequence[StagedImage], read: Read, out: Path) -> None:
    """Write a shard of these images, in their order.

    Raises:
        ObjectDamaged: what a part's tar file has is not what was staged.
    """
    with out.open("wb") as file:
        for run in _runs(images):
            first, begin = run[0], run[0].begin
            data = memoryview(read(first.part, begin, run[-1].end - begin))
            for image in run:
                start = image.offset - begin
                if zlib.crc32(data[start : start + image.size]) != image.crc32:
                    raise ObjectDamaged(
                        f"what was staged of part {image.part} is damaged, {image.offset:,} bytes "
                        "from its beginning; import once more"
                    )
            file.write(data)
        members = file.tell()
        file.write(bytes(_tar_bytes(members) - members))


def shard_name(number: int, token: str) -> str:
    """Return what the payload of a shard is called; `token`: the import's."""
    return f"shard-{number:05}-{token}.tar"


def member_bytes(size: int) -> int:
    """Return how many bytes of a tar file a member of `size` bytes takes."""
    return tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE


def _tar_bytes(members: int) -> int:
    """Return how many bytes a tar file has: its members, two empty blocks, in whole records."""
    end = members + 2 * tarfile.BLOCKSIZE
    return end + -end % tarfile.RECORDSIZE


def _runs(images: Sequence[StagedImage]) -> Iterator[list[StagedImage]]:
    """Yield images that lie together in a tar file, and are copied at once."""
    run: list[StagedImage] = []
    for image in images:
        if run and (
            image.part != run[-1].part
            or image.begin != run[-1].end
            or image.end - run[0].begin > RUN_BYTES
        ):
            yield run
            run = []
        run.append(image)
    if run:
        yield run
