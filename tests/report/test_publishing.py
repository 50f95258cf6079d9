"""Reports in the store: one for each id, whoever makes it."""

from pathlib import Path

import pytest

from graft.errors import NotFoundError
from graft.report.publishing import list_reports, publish_report, read_transfer
from graft.store import Store
from report.transfer.made_up import answers, recorded_spec


def test_of_two_that_make_a_report_the_first_one_counts(tmp_path: Path) -> None:
    store, spec = Store.open(str(tmp_path)), recorded_spec(seeds=2)
    first, second = (
        answers("r", spec, {"scratch": 9, "features": 1, "partial": 1, "full": full})
        for full in (1, 5)
    )
    made = publish_report(store, "r", "transfer", first, {"page": b"first"})
    assert publish_report(store, "r", "transfer", second, {"page": b"second"}) == made
    assert made.found == first.model_dump(mode="json")
    assert [row.report for row in list_reports(store)] == ["r"]


def test_a_report_that_nobody_began_names_the_nearest(tmp_path: Path) -> None:
    store, spec = Store.open(str(tmp_path)), recorded_spec(seeds=2)
    made = answers("colours-1", spec, dict.fromkeys(("scratch", "features", "partial", "full"), 1))
    publish_report(store, "colours-1", "transfer", made, {})
    with pytest.raises(NotFoundError, match=r"no transfer report 'colors-1'.*'colours-1'"):
        read_transfer(store, "colors-1")
