"""Any helm that the chart is rendered with says the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from helm.program import BUILT, WHEEL, from_wheel
from helm.rendering import CASES, CHART, EVERYTHING, LEAST, run_helm

pytestmark = pytest.mark.slow
WRONG = "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: A_b}\n"
REFUSED: dict[str, dict[str, Any]] = {
    "by the schema": LEAST | {"image": {"tag": 2}},
    "by a template": LEAST | {"defaultClass": "gpu"},
}


@pytest.mark.skipif(
    not BUILT.exists(), reason="no built helm here: `python3 tests/programs.py helm` builds it"
)
@pytest.mark.skipif(not from_wheel(), reason=f"no {WHEEL} here, which is for Linux on x86-64")
def test_the_wheels_helm_says_what_the_built_one_says(tmp_path: Path) -> None:
    wrong = tmp_path / "graft"
    shutil.copytree(CHART, wrong)
    (wrong / "templates" / "wrong.yaml").write_text(WRONG)
    commands = [
        ([verb, *options], values, failing)
        for several, failing in ((CASES, False), (REFUSED, True))
        for values in several.values()
        for verb, *options in (("template", "graft", CHART), ("lint", "--strict", CHART))
    ]
    for command, values, failing in [*commands, (["lint", "--strict", wrong], EVERYTHING, True)]:
        built, wheels = (
            run_helm(*command, values=values, program=program) for program in (BUILT, from_wheel())
        )
        assert bool(built.returncode) == failing, command
        assert wheels.returncode == built.returncode, command
        assert (wheels.stdout, wheels.stderr) == (built.stdout, built.stderr), command
