"""Whether the folders of a source are splits or classes, by what they are called and hold."""

import unicodedata
from collections.abc import Iterable

from graft.data.splits import SPLITS
from graft.errors import DataError
from graft.spec import nearest

SPLIT_NAMES = {split: split for split in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}
"""The split of each name that a folder or a table's `split` may have, in upper or lower case."""

OTHER_SPLIT_NAMES = {
    **dict.fromkeys(
        ("dev", "devel", "development", "validate", "eval", "evaluation", "tune"), "val"
    ),
    **dict.fromkeys(("tr", "trn", "fit", "learn"), "train"),
    **dict.fromkeys(("tst", "te", "holdout", "hold-out", "heldout"), "test"),
}
"""Names that other tools give splits: refused, since such a folder may be val, test or a class."""

LAYOUT = "SRC/CLASS/image or SRC/train/CLASS/image and SRC/val/CLASS/image"


def has_split_folders(uri: str, paths: Iterable[str]) -> bool:
    """Whether the outermost folders are splits: classes may be called `train` or `test`, too.

    Raises:
        DataError: there is no train, or they look like splits that are called otherwise.
    """
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    lower = {top.lower() for top in tops}
    splits = {SPLIT_NAMES[name] for name in lower if name in SPLIT_NAMES}
    if "train" in splits and (splits != {"train"} or lower <= SPLIT_NAMES.keys()):
        return True
    if lower and lower <= SPLIT_NAMES.keys():
        raise DataError(f"{uri}: found {', '.join(sorted(lower))} but no train; expected {LAYOUT}")
    _refuse_splits_by_other_names(uri, paths, tops)
    return False


def _refuse_splits_by_other_names(uri: str, paths: Iterable[str], tops: set[str]) -> None:
    """Refuse class folders that look like splits, whose own folders would be lost as classes."""
    below = {top: _inner_folders(top, paths) for top in tops}
    most = max(below.values(), key=len, default=set())
    same = len(tops) > 1 and len(most) > 1 and all(inner == most for inner in below.values())
    train = any(SPLIT_NAMES.get(top.lower()) == "train" and len(below[top]) > 1 for top in tops)
    others = {
        top: OTHER_SPLIT_NAMES[top.lower()]
        for top in sorted(tops)
        if top.lower() in OTHER_SPLIT_NAMES
    }
    if same or train:
        hints = [f"call {top} {split}" for top, split in others.items()]
        hints += [
            f"{top}{nearest(top.lower(), SPLITS)}"
            for top in sorted(tops)
            if top not in others and top.lower() not in SPLIT_NAMES
        ]
        hold = "hold folders of the same names" if same else "hold folders in folders"
        raise DataError(
            f"{uri}: {_few(tops)} {hold} ({_few(most)}), as splits do, and not as classes do; "
            f"expected {LAYOUT}. If they are splits, {'; '.join(hints[:3])}. If they are classes, "
            "put their images into them, or write a table"
        )


def _inner_folders(top: str, paths: Iterable[str]) -> set[str]:
    """Return the names of the folders in a top folder, or in the only folder that it holds.

    Empty where images lie beside those folders, as they do in a class and not in a split.
    """
    inner = [path.split("/")[1:] for path in paths if path.startswith(f"{top}/")]
    while inner and all(len(parts) > 1 for parts in inner):
        names = {unicodedata.normalize("NFC", parts[0]) for parts in inner}
        if len(names) > 1:
            return names
        inner = [parts[1:] for parts in inner]
    return set()


def _few(names: Iterable[str], most: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def top_folder(path: str) -> str:
    """Return the outermost folder of a relative path, in lower case; one without a name is none."""
    return path.lstrip("/").partition("/")[0].lower()
