"""What a command prints: its result on stdout, everything else on stderr."""

from collections.abc import Callable, Mapping
from json import dumps
from typing import Any

from rich.console import Console, RenderableType

console = Console(stderr=True)
"""For progress, logs and notes."""


def emit(document: Mapping[str, Any], json: bool, render: Callable[[], RenderableType]) -> None:
    """Print a command's result: `document` as JSON, or what `render` makes for people to read."""
    if json:
        print(dumps(document, indent=2))
    else:
        Console().print(render())
