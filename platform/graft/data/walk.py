"""The files below a folder: those that a person put there, each once."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from graft.errors import DataError

IGNORED = {
    "thumbs.db": "Windows",
    "ehthumbs.db": "Windows",
    "desktop.ini": "Windows",
    "$recycle.bin": "Windows",
    "recycler": "Windows",
    "recycled": "Windows",
    "system volume information": "Windows",
    "__macosx": "macOS",
    "icon\r": "macOS",
    "network trash folder": "macOS",
    "temporary items": "macOS",
    "thevolumesettingsfolder": "macOS",
    "lost+found": "Linux",
    "@eadir": "Synology",
    "#recycle": "Synology",
    "#snapshot": "Synology",
    "@tmp": "Synology",
    "@sharebin": "Synology",
    "@recycle": "QNAP",
    "@recently-snapshot": "QNAP",
    "@__thumb": "QNAP",
    "~snapshot": "NetApp",
    "picasa.ini": "Picasa",
    "zbthumbnail.info": "Canon",
}
"""Files and folders that systems and storage boxes make, in lower case, and which makes each."""

NUMBERED = re.compile(r"found\.\d{3}|.*@syno(eastream|resource)")
"""Names in lower case of which there are many: of Windows' file check, and Synology's."""

HIDDEN = ".*"
"""Stands for all names that begin with a dot, among those that are ignored."""

LISTED_EACH = 1000
"""A walk says how far it is each time that it has listed so many more files."""


@dataclass
class Walk:
    """What a walk lists."""

    files: dict[str, str] = field(default_factory=dict)
    """Location of each file by its relative path; that of an empty folder ends with ``/``."""
    real: dict[str, str] = field(default_factory=dict)
    """By relative path, the path without links of each file that a link leads to."""
    links: dict[str, str] = field(default_factory=dict)
    """Links that are not followed, and why not."""
    ignored: Counter[str] = field(default_factory=Counter)
    """How many files and folders of each of the names `IGNORED`, and `HIDDEN`, were passed by."""


def ignored_name(name: str) -> str | None:
    """Return what a file's or a folder's name is ignored as; None: it is not."""
    if name.startswith("."):
        return HIDDEN
    lower = name.lower()
    return name if lower in IGNORED or NUMBERED.fullmatch(lower) else None


def shown_path(path: str) -> str:
    """Return a path as it can be printed and recorded."""
    return path.encode(errors="replace").decode()


def walk(root: Path, progress: Callable[[int], object] = lambda files: None) -> Walk:
    """List what is below `root`; links are followed to where the walk has not been.

    A link to a folder that the walk is in, or has been in, would give files a second path, and
    perhaps a second class: it is not followed. Folders are read before links to them.

    Args:
        root: an existing folder.
        progress: called now and then with the number of files so far.

    Raises:
        DataError: a folder cannot be listed.
    """
    result = Walk()
    visited: dict[str, str] = {}  # relative path of each folder by its path without links
    above: set[str] = set()  # what the visited folders lie in
    linked = [("", str(root.resolve()))]  # relative path and location of links to folders
    while linked:
        link = min(linked)
        linked.remove(link)
        path, location = link
        real = os.path.realpath(location)
        if real in visited:
            place = visited[real].rstrip("/") or "the source itself"
            result.links[path] = f"a link to {place}, which is read already"
        elif real in above:
            result.links[path] = f"a link to {real}, in which the source lies"
        else:
            above.update(map(str, Path(real).parents))
            linked += _walk_folder(result, path, location, visited, progress)
    return result


def _walk_folder(
    result: Walk,
    top: str,
    location: str,
    visited: dict[str, str],
    progress: Callable[[int], object],
) -> list[tuple[str, str]]:
    """List what is below the folder at `location`, but for links to folders; return these."""
    folders = [(f"{top}/" if top else "", location)]
    linked: list[tuple[str, str]] = []
    while folders:
        path, folder = folders.pop()
        visited[os.path.realpath(folder)] = path
        empty = True
        for entry in _entries(folder):
            if name := ignored_name(entry.name):
                result.ignored[name] += 1
                continue
            empty = False
            relative = path + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append((f"{relative}/", entry.path))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                linked.append((relative, entry.path))
            else:
                result.files[relative] = entry.path
                if top or entry.is_symlink():
                    result.real[relative] = os.path.realpath(entry.path)
                if len(result.files) % LISTED_EACH == 0:
                    progress(len(result.files))
        if path and empty:
            result.files[path] = folder
    return linked


def _entries(location: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(location) as entries:
            yield from entries
    except OSError as error:
        raise DataError(f"cannot list {location}: {error.strerror}") from error
