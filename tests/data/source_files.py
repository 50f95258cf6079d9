"""Making image sources, and looking at them."""

from pathlib import Path

from graft.data.source import ImageSource


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
