"""Reports in the store: ``reports/<report>/report.json`` makes one exist and lists its files."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from graft.backend import Directory
from graft.data.manifest import Manifest
from graft.errors import InputError, NotFoundError, ObjectExists, ObjectNotFound, StoreError
from graft.registry import ModelVersion
from graft.spec import Section, TransferReport, nearest, parse_job, parse_yaml
from graft.store import ObjectRef, Store

Kind = Literal["evaluation", "transfer"]
PAGE = "report.html"


class Report(Section):
    """What was found once, and never changes: the marker ``report.json``."""

    report: str
    """Its id."""
    kind: Kind
    found: dict[str, Any]
    """The figures, as the kind has them."""
    files: dict[str, ObjectRef]
    """The page, pictures and tables, by the names that they get on a disk."""
    created: str
    """ISO 8601 in UTC."""

    @property
    def folder(self) -> str:
        """The store's folder that `files` lie in."""
        return _folder(self.report)

    def document(self) -> dict[str, Any]:
        """Return the figures and the id, as JSON types."""
        return {"report": self.report, **self.found}


def evaluation_id(version: ModelVersion, images: Manifest, split: str) -> str:
    """Return the id of the report on a model version and a split: there is one at most."""
    return f"{version.name}-{version.version}-on-{images.name}-{images.version}-{split}"


def publish_report(
    store: Store, report: str, kind: Kind, found: Section, files: Mapping[str, bytes]
) -> Report:
    """Commit a report; where another was first, return that one."""
    folder = _folder(report)
    made = Report(
        report=report,
        kind=kind,
        found=found.model_dump(mode="json"),
        files={name: store.put(folder, name, data) for name, data in files.items()},
        created=datetime.now(UTC).isoformat(),
    )
    try:
        store.create(f"{folder}/report.json", made.model_dump_json(indent=1).encode())
    except ObjectExists:
        return read_report(store, report)
    return made


def read_report(store: Store, report: str) -> Report:
    """Return a report.

    Raises:
        NotFoundError: there is none of that id; the nearest is named.
    """
    key = f"{_folder(report)}/report.json"
    try:
        return Report.model_validate_json(store.read(key).data)
    except ObjectNotFound as error:
        known = list_reports(store)
        raise NotFoundError(
            f"no report '{report}' in {store.uri}{nearest(report, known)}"
        ) from error
    except ValidationError as error:
        raise StoreError(
            f"{store.uri}/{key} is not a report that this release of Graft reads; it is damaged, "
            "or a newer release wrote it"
        ) from error


def read_transfer(store: Store, report: str) -> TransferReport:
    """Return a report's recorded spec.

    Raises:
        NotFoundError: no such report was begun.
    """
    where = f"reports/{report}/spec.yaml"
    try:
        text = store.read(where).data.decode()
    except ObjectNotFound as error:
        known = list_reports(store)
        raise NotFoundError(
            f"no transfer report '{report}' in {store.uri}{nearest(report, known)}"
        ) from error
    spec = parse_job(parse_yaml(text, where), where, None)
    assert isinstance(spec, TransferReport)  # noqa: S101 - as it was written
    return spec


def has_report(store: Store, report: str) -> bool:
    """Whether there is a report of that id."""
    return store.exists(f"{_folder(report)}/report.json")


def list_reports(store: Store) -> list[str]:
    """Return the ids of all reports."""
    return [one for one in store.children("reports/") if has_report(store, one)]


def check_out(folder: Path | None) -> None:
    """Refuse, before any work, a folder that cannot be written to.

    Raises:
        InputError: it is a file.
    """
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: expected a folder, found a file")


def write_out(store: Store, report: Report, folder: Path) -> None:
    """Write a report's files, and report.json, into a folder of this machine."""
    check_out(folder)
    out = Directory(folder.absolute())
    for name, ref in report.files.items():
        out.write(name, store.get(report.folder, ref))
    out.write("report.json", report.model_dump_json(indent=1).encode())


def _folder(report: str) -> str:
    return f"reports/{report}"
