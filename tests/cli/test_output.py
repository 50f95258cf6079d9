"""What commands print: nothing of a table is cut, whatever shows it."""

import pytest
from rich.console import Group
from rich.table import Table

from graft.cli.show.output import emit


def table() -> Table:
    table = Table(*(f"train.optimizer.key{i}" for i in range(6)))
    table.add_row(*(f"1.15{i}e-06" for i in range(6)))
    return table


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    emit({}, False, lambda: Group("page", table()))
    return capsys.readouterr().out


def test_what_no_terminal_shows_has_its_numbers_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(capsys)
    for i in range(6):
        assert f"train.optimizer.key{i}" in text
        assert f"1.15{i}e-06" in text


def test_a_table_that_is_too_wide_is_folded_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = printed(capsys)
    assert max(map(len, text.splitlines())) <= 60
    assert "…" not in text
    assert text.count("e-0") + text.count("1.15") >= 6
