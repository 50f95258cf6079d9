"""Origins of pages: what a browser would never say is refused, before anything starts."""

import json
import re
from pathlib import Path

import pytest

import commands
from graft.serving.origins import checked_origin

SCHEMA = Path(__file__).parents[2] / "helm" / "graft" / "values.schema.json"
CHART = re.compile(json.loads(SCHEMA.read_text())["definitions"]["origin"]["pattern"])


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "https://lab.example",
        "http://localhost:5173",
        "http://[::1]:8080",
        "capacitor://localhost",
        "https://lab.example:80",
    ],
)
def test_what_browsers_say_is_an_origin(text: str) -> None:
    assert checked_origin(text) == text
    assert CHART.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lab.example",
        "https://lab.example/",
        "https://lab.example/page",
        "https://Lab.example",
        "https://*.lab.example",
        "https://a@lab.example",
        "https://lab.example https://b.example",
        "null",
    ],
)
def test_what_no_browser_says_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin: expected https://HOST or"):
        checked_origin(text)
    assert not CHART.search(text)


@pytest.mark.parametrize("text", ["https://lab.example:443", "http://lab.example:80"])
def test_a_port_that_browsers_leave_out_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=rf"leave out :\d+; {text.rpartition(':')[0]}$"):
        checked_origin(text)


def test_the_command_refuses_what_is_none(tmp_path: Path) -> None:
    words = ["--origin", "https://a.example", "--origin", "https://b.example/", "--store", tmp_path]
    done = commands.main("serve", "ants-bees", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("graft: --origin 'https://b.example/' is no origin: expected")
