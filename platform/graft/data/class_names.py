"""Names of classes: equal where people read the same name."""

import re
import unicodedata

from graft.errors import DataError

_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")


class ClassNames:
    """The classes of one source, in Unicode's composed form (NFC).

    macOS writes letters with their accents apart and Linux together: `Käfer` from both is one
    class, and a version's name does not depend on which system its files came from.
    """

    def __init__(self) -> None:
        self._spellings: dict[str, set[str]] = {}

    def of(self, name: str) -> str:
        """Return the class of a folder or a label called `name`.

        Raises:
            DataError: it has a control character, which a terminal would obey.
        """
        if _CONTROL.search(name):
            raise DataError(f"a class is called {name!r}, with a control character; rename it")
        composed = unicodedata.normalize("NFC", name)
        self._spellings.setdefault(composed, set()).add(name)
        return composed

    def notes(self) -> list[str]:
        """Say which classes were put together, and which are apart and look like one."""
        several = [name for name, forms in sorted(self._spellings.items()) if len(forms) > 1]
        notes = []
        if several:
            joined = ", ".join(several)
            notes.append(f"written in several Unicode forms, and taken for one class: {joined}")
        looks: dict[str, list[str]] = {}
        for name in sorted(self._spellings):
            looks.setdefault(_look(name), []).append(repr(name))
        if alike := [", ".join(names) for names in looks.values() if len(names) > 1]:
            notes.append(
                "classes that differ only in upper and lower case, spaces or signs that look "
                f"alike; rename them if they are one: {'; '.join(alike)}"
            )
        return notes


def _look(name: str) -> str:
    """Return what a reader may make of a name: without case, width, ligatures, unseen signs."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    seen = "".join(sign for sign in folded if unicodedata.category(sign) != "Cf")
    return " ".join(seen.split())
