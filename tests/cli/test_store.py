"""`graft store check`, as a user runs it."""

import json
from pathlib import Path

import pytest

import commands


def check(*arguments: str) -> commands.Done:
    return commands.graft("store", "check", *arguments)


@pytest.mark.slow  # two CPU seconds
def test_check_prints_one_document(tmp_path: Path) -> None:
    done = check("--store", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["store"] == str(tmp_path)
    assert document["usable"] is True
    assert [finding["holds"] for finding in document["checks"]] == [True] * 7
    assert {"guarantee", "required", "seen", "otherwise"} < document["checks"][0].keys()


@pytest.mark.slow
def test_check_prints_a_table(tmp_path: Path) -> None:
    done = commands.main("store", "check", "--store", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "exclusive create" in done.stdout
    assert "0 updates lost" in " ".join(done.stdout.replace("│", " ").split())


def test_a_missing_bucket_is_one_line(s3_server: object) -> None:
    done = check("--store", "s3://graft-no-such-bucket", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("graft: s3://graft-no-such-bucket: bucket")
    assert done.stderr.count("\n") == 1
