"""Histories of real races, on every kind of store: few here, `make histories` plays many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import S3Server
from histories.rounds import PROMISED


@pytest.mark.slow
def test_stores_keep_their_promises_and_who_makes_none_is_found_out(
    s3_server: S3Server, tmp_path: Path
) -> None:
    if not s3_server.fences:
        pytest.skip("moto's conditional writes are not exclusive under a race")
    words = ["--seconds", "1", "--table", str(tmp_path / "table"), "--workloads"]
    played = subprocess.run(
        [sys.executable, "-m", "histories", *words, "pointers", "markers", "attempts", "jobs"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert played.returncode == 0, played.stderr
    rounds = [json.loads(line) for line in (tmp_path / "table").read_text().splitlines()]
    assert len(rounds) == 16
    assert all(each["operations"] > 50 for each in rounds)
    assert all(sum(each[what] for each in rounds) > 5 for what in ("kills", "pauses", "skews"))
    assert [each for each in rounds if each["violations"] and each["store"] in PROMISED] == []
