"""Where the bytes of an image lie: a file, or a part of one that holds many images.

A location is a text, so that tables of them can be written: the path of a file of this machine, an
``s3://`` URI, or one of those with the part before it. No path or key begins as a part does: paths
are absolute, and a table's are checked.
"""

import re
from dataclasses import dataclass

_PART = re.compile(
    r"tar-member://(?P<offset>\d{1,18})\+(?P<size>\d{1,18})@(?P<tar>.+)"
    r"|parquet-row://(?P<row>\d{1,18})@(?P<parquet>.+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class TarMember:
    """The payload of a tar file's member."""

    file: str
    """Local path or s3:// URI of the tar file."""
    offset: int
    """Bytes from its beginning to the payload's."""
    size: int
    """Bytes of the payload."""

    def __str__(self) -> str:
        return f"tar-member://{self.offset}+{self.size}@{self.file}"


@dataclass(frozen=True)
class ParquetRow:
    """The image of a Parquet file's row."""

    file: str
    """Local path or s3:// URI of the Parquet file."""
    row: int
    """From 0."""

    def __str__(self) -> str:
        return f"parquet-row://{self.row}@{self.file}"


def parse_location(location: str) -> TarMember | ParquetRow | str:
    """Return the part of a file that a location names, or the file's path or URI."""
    match = _PART.fullmatch(location)
    if match is None:
        return location
    if match["tar"]:
        return TarMember(match["tar"], int(match["offset"]), int(match["size"]))
    return ParquetRow(match["parquet"], int(match["row"]))
