"""Splits of files that hold many images each, by their names, as Hugging Face reads them."""

import re
from collections.abc import Sequence

from graft.data.manifest import SkippedFile
from graft.errors import DataError

_KEYWORDS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What Hugging Face calls splits in the names of files and folders."""

_BREAK = "[-._ 0-9]"
_SHARD = re.compile(r"data/([^/]*)-\d{5}-of-\d{5}[^/]*")
"""A split may be called anything where the whole name of a file is of this form."""


def splits_by_name(uri: str, paths: Sequence[str]) -> tuple[dict[str, str], list[SkippedFile]]:
    """Return the split of each file, and the files of no split.

    ``data/SPLIT-00000-of-00005.parquet`` counts first; else a folder's name, else a file's, in
    which a split's stands by itself (``my-train_1.tar``). Where no name says a split, or there is
    only one file, no file has any.

    Args:
        uri: the source, for errors.
        paths: relative to it.

    Raises:
        DataError: there is a split, and no train.
    """
    named: dict[str, set[str]] = {}
    if len(paths) > 1:
        for names_of in (_by_shard, _by_folder, _by_file):
            named = {path: names_of(path) for path in paths}
            if any(named.values()):
                break
    if not any(named.values()):
        return {}, []
    splits = {path: min(names) for path, names in named.items() if len(names) == 1}
    splits = {path: split for path, split in splits.items() if split in _KEYWORDS}
    if "train" not in splits.values():
        raise DataError(
            f"{uri}: the files' names say {', '.join(sorted(set().union(*named.values())))}, and "
            "none says train; expected names such as train-00000-of-00005.parquet"
        )
    return splits, [
        SkippedFile(
            path=path,
            reason=f"its name says {' and '.join(sorted(named[path])) or 'no split'}; expected one "
            "of train, validation and test, as others' names say",
        )
        for path in paths
        if path not in splits
    ]


def _by_shard(path: str) -> set[str]:
    match = _SHARD.fullmatch(path)
    if not match:
        return set()
    split = match[1].lower()
    return _said(split) if any(split in words for words in _KEYWORDS.values()) else {match[1]}


def _by_folder(path: str) -> set[str]:
    return set().union(*map(_said, path.split("/")[:-1]))


def _by_file(path: str) -> set[str]:
    return _said(path.rpartition("/")[2])


def _said(name: str) -> set[str]:
    """Return the splits that a folder's or a file's name says."""
    parts = set(re.split(_BREAK, name.lower()))
    return {split for split, words in _KEYWORDS.items() if parts & set(words)}
