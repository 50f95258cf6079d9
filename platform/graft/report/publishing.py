"""Reports in the store: ``reports/<report>/report.json`` makes one exist and lists its files."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ValidationError

from graft.data.manifest import Manifest
from graft.errors import (
    InputError,
    NotFoundError,
    ObjectDamaged,
    ObjectExists,
    ObjectNotFound,
)
from graft.registry import ModelVersion
from graft.spec import Id, Section, TransferReport, nearest, parse_job, parse_yaml
from graft.store import (
    FileName,
    Marker,
    ObjectRef,
    Store,
    Tell,
    document_bytes,
    find_document,
    read_document,
    read_text,
)
from graft.store.directory import Directory
from graft.store.index import indexed_rows

Kind = Literal["evaluation", "transfer"]
PAGE = "report.html"


class Report(Section, Marker):
    """A finished report, which never changes: the marker ``report.json``."""

    FORMAT: ClassVar[int] = 3
    """1: its figures lacked copies, uses, p-values and ways of training; 2: they did not say how
    many images are left out, since a model had seen them."""

    report: Id
    """The report's id."""
    kind: Kind
    found: dict[str, Any]
    """The figures: `Scores` of an evaluation, `Answers` of a transfer report, as JSON types."""
    files: dict[FileName, ObjectRef]
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


class ReportRow(Section):
    """What lists tell of a finished report: a row of their index."""

    report: Id
    kind: Kind
    dataset: str | None
    """NAME@VERSION."""
    archs: tuple[str, ...]
    """Architectures that a transfer report compares."""
    created: str
    """ISO 8601 in UTC."""

    @classmethod
    def of(cls, store: Store, report: Report) -> "ReportRow":
        """Return a report's row.

        Raises:
            ObjectDamaged: its figures are none.
        """
        try:
            figures = _Subject.model_validate(report.found)
        except ValidationError as error:
            raise damaged_figures(store, report, error) from error
        return cls(
            report=report.report,
            kind=report.kind,
            dataset=figures.dataset,
            archs=tuple(backbone.arch for backbone in figures.backbones),
            created=report.created,
        )


class _Backbone(BaseModel):
    arch: str


class _Subject(BaseModel):
    """What of any report's figures a list tells."""

    dataset: str | None = None
    backbones: tuple[_Backbone, ...] = ()


def damaged_figures(store: Store, report: Report, error: Exception) -> ObjectDamaged:
    """Return the error that a report's figures are not what its kind has."""
    return ObjectDamaged(f"{store.uri}/{report.folder}/report.json: its figures are none: {error}")


def evaluation_id(version: ModelVersion, images: Manifest, split: str) -> str:
    """Return the id of the one report that there can be on a model version and a split."""
    return f"{version.name}-{version.version}-on-{images.name}-{images.version}-{split}"


def publish_report(
    store: Store, report: str, kind: Kind, figures: Section, files: Mapping[str, bytes]
) -> Report:
    """Commit a report; if another process committed one under this id first, return that one."""
    folder = _folder(report)
    made = Report(
        report=report,
        kind=kind,
        found=figures.model_dump(mode="json"),
        files={name: store.put(folder, name, data) for name, data in files.items()},
        created=datetime.now(UTC).isoformat(),
    )
    try:
        store.create(f"{folder}/report.json", document_bytes(made))
    except ObjectExists:
        return read_report(store, report)
    return made


def read_report(store: Store, report: str) -> Report:
    """Return a finished report.

    Raises:
        NotFoundError: no report of this id is finished; the nearest id is named.
        StoreError: report.json is damaged, or of a newer release.
    """
    key = f"{_folder(report)}/report.json"
    try:
        return read_document(store, key, Report)
    except ObjectNotFound as error:
        raise _not_found(store, "report", report) from error


def read_transfer(store: Store, report: str) -> TransferReport:
    """Return the recorded spec of a transfer report, finished or not.

    Raises:
        NotFoundError: no transfer report of this id was begun; the nearest finished id is named.
    """
    key = f"{_folder(report)}/spec.yaml"
    try:
        text = read_text(store, key)
    except ObjectNotFound as error:
        raise _not_found(store, "transfer report", report) from error
    spec = parse_job(parse_yaml(text, key), key, None)
    assert isinstance(spec, TransferReport)  # noqa: S101 - as it was written
    return spec


def has_report(store: Store, report: str) -> bool:
    """Whether a report of this id is finished."""
    return store.exists(f"{_folder(report)}/report.json")


def list_reports(store: Store, tell: Tell | None = None) -> list[ReportRow]:
    """Return a row for every finished report, by id.

    `tell` is told of damaged ones, which are left out then.
    """

    def make(report: str) -> ReportRow | None:
        made = find_document(store, f"{_folder(report)}/report.json", Report)
        return ReportRow.of(store, made) if made else None

    reports = store.children("reports/")
    rows = indexed_rows(store, "reports/index.json", ReportRow, reports, make, tell=tell)
    return list(rows.values())


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


def _not_found(store: Store, what: str, report: str) -> NotFoundError:
    return NotFoundError(
        f"no {what} '{report}' in {store.uri}{nearest(report, store.children('reports/'))}"
    )
