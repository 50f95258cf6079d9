"""Making image sources, and looking at them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.image_source import ImageSource


def write(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return str(root)


def labelled(source: ImageSource) -> dict[str, tuple[str, str]]:
    return {file.path: (file.split, file.label) for file in source.files}


def reasons(source: ImageSource) -> dict[str, str]:
    return {file.path: file.reason for file in source.stray}


def csv(root: Path, text: str, name: str = "labels.csv") -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return str(root / name)


def hugging_face(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any],
    classes: Sequence[str] | None = None,
    rows_in_group: int = 2,
    **columns: Sequence[Any],
) -> str:
    """Write a Parquet file as Hugging Face does; `classes`: names of labels that are numbers."""
    bytes_and_paths = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(bytes_and_paths, kind), "label": labels, **columns})
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if classes is not None:
        features["label"] = {"names": classes, "_type": "ClassLabel"}
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(notes), path, row_group_size=rows_in_group)
    return str(path)


def tar(path: Path, members: Mapping[str, bytes | str]) -> str:
    """Write a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return str(path)


def tar_bytes(members: Mapping[str, bytes | str], **options: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as opened:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return out.getvalue()
