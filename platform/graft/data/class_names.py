"""Names of classes: equal where people read the same name."""

import unicodedata


class ClassNames:
    """The classes of one source, in Unicode's composed form (NFC).

    macOS writes letters with their accents apart and Linux together: `Käfer` from both is one
    class, and a version's name does not depend on which system its files came from.
    """

    def __init__(self) -> None:
        self._spellings: dict[str, set[str]] = {}

    def of(self, name: str) -> str:
        """Return the class of a folder or a label called `name`."""
        composed = unicodedata.normalize("NFC", name)
        self._spellings.setdefault(composed, set()).add(name)
        return composed

    def notes(self) -> list[str]:
        """Say which classes were put together out of several spellings."""
        several = [name for name, forms in sorted(self._spellings.items()) if len(forms) > 1]
        if not several:
            return []
        return [f"written in several Unicode forms, and taken for one class: {', '.join(several)}"]
