"""Origins of pages in browsers that may ask a server, as CORS has them."""

import re

ANY = "*"
"""Pages of any origin may ask."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_LEFT_OUT = {"http": ":80", "https": ":443"}
"""Ports that no browser writes into an origin."""


def checked_origin(text: str) -> str:
    """Return an origin, if a browser would ever say it.

    Raises:
        ValueError: none would, so that no page could ask.
    """
    if text == ANY:
        return text
    if not (parts := _ORIGIN.fullmatch(text)):
        raise ValueError(
            f"{text!r} is no origin: expected https://HOST or https://HOST:PORT, in lower case and "
            f"without a path, as browsers say it; or {ANY}, for pages of any origin"
        )
    scheme, host, port = parts.groups()
    if port and port == _LEFT_OUT.get(scheme):
        raise ValueError(f"{text!r} is never said: browsers leave out {port}; {scheme}://{host}")
    return text
