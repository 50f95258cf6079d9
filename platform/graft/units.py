"""Sizes and times as a person reads them.

Not humanize's: it writes "1 hour, 23 minutes and 20 seconds", and a table's cell has room for
"1.4 h"; its sizes alone, "12.0 MB", are not worth a package.
"""


def size(nbytes: float) -> str:
    """Return a number of bytes in decimal units: ``4.4 GB``, ``53 MB``, ``100 kB``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            number = nbytes / scale
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{nbytes:.0f} B"


def seconds_of(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``2h`` or ``30d``.

    Raises:
        ValueError: it is none of these.
    """
    number, unit = text[:-1], text[-1:]
    scale = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(unit)
    if scale is None or not number.isdecimal():
        raise ValueError(f"'{text}' is no time; expected a number and s, m, h or d, such as 30d")
    return float(number) * scale


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them: ``0.35 s``, ``280 s``, ``83 min``, ``2.5 h``."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 10 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
