import pytest

from graft.units import duration, size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9.94e6, "9.9 MB"), (53e6, "53 MB")),
        *((4.42e9, "4.4 GB"), (2e15, "2000 TB")),
    ],
)
def test_sizes(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.0351, "0.035 s"), (9.94, "9.9 s"), (10, "10 s"), (599, "599 s")),
        *((600, "10 min"), (7199, "120 min"), (9000, "2.5 h")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
