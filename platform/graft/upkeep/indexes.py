"""Whether the indexes of lists say what their markers do: see `graft.store.index`.

An index may lack rows, which whoever lists adds. A row that says something else than its marker,
or is of none, is believed by all who list.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from graft.errors import InputError, ObjectDamaged, ObjectUnreadable
from graft.registry import ModelVersion, VersionRow
from graft.report.publishing import Report, ReportRow
from graft.store import find_document
from graft.store.index import Rows
from graft.sweep.sweep_list import sweep_row
from graft.sweep.sweep_records import TrialRecord
from graft.training.run_records import run_row
from graft.upkeep.contents import Contents, Document
from graft.upkeep.damage import INDEX, Damage, Mend, remedy
from graft.upkeep.references import WeightsFile

MADE = "the rows of its markers"


def check_indexes(contents: Contents) -> Iterator[Damage]:
    """Yield each index that says something else than its markers."""
    for key in contents.entries:
        if INDEX.fullmatch(key) and (data := contents.read(key)) is not None:
            try:
                rows = Rows.model_validate_json(data).rows
            except ValidationError as error:
                yield _damage(key, str(error.errors()[0]["msg"]))
                continue
            make = _maker(contents, key)
            wrong = [name for name, row in rows.items() if _differs(row, make, name)]
            if wrong:
                more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                yield _damage(key, f"a row {wrong[0]!r} that its marker does not have{more}")


def _damage(key: str, found: str) -> Damage:
    return Damage(key, found, MADE, (), remedy(key, Mend.INDEX), Mend.INDEX)


def _differs(row: Mapping[str, Any], make: Callable[[str], BaseModel | None], name: str) -> bool:
    """Whether a row is none of its marker's; where that is damaged, it is told of itself."""
    try:
        made = make(name)
    except (ObjectDamaged, ObjectUnreadable):
        return False
    except InputError:  # there is none
        return True
    if made is None:
        return True
    dumped = made.model_dump(mode="json")
    return {key: row.get(key) for key in dumped} != dumped


def _maker(contents: Contents, key: str) -> Callable[[str], BaseModel | None]:
    """Return what makes the row of a marker of an index; None: there is no such marker."""
    area, name, *_ = key.split("/")

    def model(number: str) -> BaseModel | None:
        marker = f"models/{name}/versions/{number}/model.json"
        version = _document(contents, marker, ModelVersion)
        return version and VersionRow.of(version)

    def report(report_id: str) -> BaseModel | None:
        made = _document(contents, f"reports/{report_id}/report.json", Report)
        return made and ReportRow.of(contents.store, made)

    def trial(record: str) -> BaseModel | None:
        return _document(contents, record, TrialRecord)

    def weights(digest: str) -> BaseModel | None:
        return _document(contents, f"weights/{digest}/weights.json", WeightsFile)

    if key.endswith("trials-index.json"):
        return trial
    makers: dict[str, Callable[[str], BaseModel | None]] = {
        "runs": lambda run: run_row(contents.store, run),
        "sweeps": lambda sweep: sweep_row(contents.store, sweep),
        "models": model,
        "reports": report,
        "weights": weights,
    }
    return makers[area]


def _document(contents: Contents, key: str, model: type[Document]) -> Document | None:
    """Return a marker; None: there is none.

    Raises:
        ObjectDamaged, ObjectUnreadable: there is one.
    """
    if key not in contents.entries:  # unless it was made since the listing
        return find_document(contents.store, key, model)
    document = contents.find(key, model)
    if document is None and key in contents.damaged:
        raise contents.damaged[key]
    return document
