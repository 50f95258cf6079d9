"""The scenarios that touch what has changed are ones that there are, and so are the paths."""

import re
from pathlib import Path

from cluster.e2e.touched import TOUCHED, touched

HERE = Path(__file__).parent


def test_every_path_and_every_scenario_exists() -> None:
    text = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    scenarios = re.findall(r"^def test_(\w+)", text, re.MULTILINE)
    for path, names in TOUCHED.items():
        assert list(HERE.parents[2].glob(f"{path}*")), path
        for name in names:
            assert any(scenario.startswith(name) for scenario in scenarios), name


def test_each_scenario_is_named_once() -> None:
    changed = ["platform/graft/sweep/sweep_plan.py", "platform/graft/training/loop.py", "README.md"]
    assert touched(changed) == ["sweep", "head", "preempted"]
    assert touched(["README.md"]) == []
