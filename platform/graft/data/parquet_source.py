"""Images in Parquet files, as Hugging Face datasets have them: bytes and a label in each row."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from graft.data.class_names import ClassNames
from graft.data.file_reader import FileReader
from graft.data.image_source import LabelledFile
from graft.data.listing import ListedFile
from graft.data.locations import ParquetRow
from graft.data.manifest import SkippedFile
from graft.data.parquet_rows import image_column, open_parquet, parquet_explained
from graft.data.split_folders import SPLIT_NAMES
from graft.errors import DataError, ImageError
from graft.spec import nearest

LONGEST_TEXT = 1000
"""Bytes of a label or a split: whatever is longer is none."""


def holds_images(reader: FileReader, location: str) -> bool:
    """Whether a Parquet file has a column of images' bytes.

    Raises:
        ImageError: it is no Parquet file, or has several such columns, or names files as well.
    """
    with parquet_explained():
        return image_column(open_parquet(reader.open_arrow(location)).schema_arrow) is not None


def images_in_parquet(
    reader: FileReader, file: ListedFile, split: str, names: ClassNames | None
) -> Iterator[LabelledFile | SkippedFile]:
    """Yield the images of a Parquet file, in the order of its rows: ``FILE/row NUMBER``.

    The images' bytes are not read.

    Args:
        reader: what the file is read with.
        file: the file.
        split: that of its images, where no column `split` chooses; empty: the column is not looked
            at, either.
        names: the classes; None: labels are not looked at.

    Raises:
        ImageError: it is no such file; the message is the reason alone.
    """
    with parquet_explained():
        source = reader.open_arrow(file.location)
        opened = open_parquet(source)
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
        column = image_column(schema)
        if column is None:
            raise ImageError(
                f"found columns {', '.join(schema.names) or 'none'}; expected one with images' "
                "bytes, such as image: {bytes, path}; a table of paths is a source by itself"
            )
        if rows > source.size():
            raise ImageError(f"it has {source.size():,} bytes, and is to hold {rows:,} images")
    labels = _Labels.of(schema, names) if names else None
    splits = _column(schema, "split") if split else None
    for row, values in enumerate(_rows(source, opened, labels.column if labels else None, splits)):
        path = f"{file.path}/row {row}"
        try:
            label = labels.name(values.label) if labels else ""
        except ImageError as error:
            yield SkippedFile(path=path, reason=str(error))
            continue
        chosen = _split(path, values.split) if splits else split
        location = str(ParquetRow(file.location, row))
        yield LabelledFile(path, location, label, chosen)


@dataclass(frozen=True)
class _Values:
    """What a row says of its image."""

    label: Any
    split: Any


class _Labels:
    """The labels of a file, and the names of its classes."""

    def __init__(self, column: str, classes: Sequence[str], names: ClassNames):
        self.column = column
        self._classes = classes
        self._names = names
        self._named: dict[Any, str] = {}

    @classmethod
    def of(cls, schema: pa.Schema, names: ClassNames) -> "_Labels":
        """Find the column of labels: `label`, or the only one whose classes have names.

        Raises:
            ImageError: there is none.
        """
        classes = _class_names(schema)
        column = _column(schema, "label")
        if column is None:
            if len(classes) != 1:
                several = f"; call one of {', '.join(classes)} label" if classes else ""
                raise ImageError(
                    f"found columns {', '.join(schema.names)}; expected a label for each image in "
                    f"a column label{several}"
                )
            (column,) = classes
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(kind) or _is_text(kind)):
            raise ImageError(
                f"the column {column} holds {kind}; expected a text or a whole number in each row"
            )
        return cls(column, classes.get(column, ()), names)

    def name(self, value: Any) -> str:
        """Return the class of a label.

        Raises:
            ImageError: it is none.
        """
        name = self._named.get(value)
        if name is None:
            name = self._named[value] = self._names.of(self._text(value))
        return name

    def _text(self, value: Any) -> str:
        if isinstance(value, int) and self._classes:
            if not 0 <= value < len(self._classes):
                raise ImageError(f"label {value} is none of its {len(self._classes)} class names")
            value = self._classes[value]
        text = "" if value is None else str(value).strip()
        if not text or "\0" in text:
            raise ImageError(f"label is {value!r}; expected a text or a whole number")
        return text


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of classes by column, as Hugging Face notes them in a schema."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return {}
    try:
        features = json.loads(noted)["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
            and column in schema.names
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImageError(
            f"its notes of Hugging Face's features cannot be read: {type(error).__name__}: {error}"
        ) from error


def _column(schema: pa.Schema, called: str) -> str | None:
    """Return the column of that name, in upper or lower case.

    Raises:
        ImageError: there are several.
    """
    columns = [str(name) for name in schema.names if _plain(name) == called]
    if len(columns) > 1:
        raise ImageError(f"found {len(columns)} columns {called}; expected one")
    return columns[0] if columns else None


def _plain(name: str) -> str:
    return name.strip().lower()


def _rows(
    source: pa.NativeFile, opened: pq.ParquetFile, label: str | None, split: str | None
) -> Iterator[_Values]:
    """Yield what each row says of its image."""
    columns = [column for column in (label, split) if column]
    if not columns:
        for _ in range(opened.metadata.num_rows):
            yield _Values(None, None)
        return
    with parquet_explained():
        # As a dictionary, a text that many rows share is in memory once.
        texts = [column for column in columns if _is_text(opened.schema_arrow.field(column).type)]
        reader = open_parquet(source, metadata=opened.metadata, read_dictionary=texts)
        for batch in reader.iter_batches(columns=columns, use_threads=False):
            read = {column: _values(column, batch[column]) for column in columns}
            nothing = [None] * batch.num_rows
            values = (read[column] if column else nothing for column in (label, split))
            yield from map(_Values, *values)


def _values(column: str, array: pa.Array) -> list[Any]:
    texts = array.dictionary if pa.types.is_dictionary(array.type) else array
    if _is_text(texts.type) and (pc.max(pc.binary_length(texts)).as_py() or 0) > LONGEST_TEXT:
        raise ImageError(f"the column {column} has a text of more than {LONGEST_TEXT} bytes")
    return list(array.to_pylist())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _split(path: str, value: Any) -> str:
    name = _plain(value) if isinstance(value, str) else value
    if name not in SPLIT_NAMES:
        raise DataError(f"{path}: split is {value!r}{nearest(str(name), SPLIT_NAMES)}")
    return SPLIT_NAMES[name]
