"""What transfer reports show of model versions, recorded with each version that they concern.

A report concerns the versions that were trained as one of its arms is at its largest budget: from
the same weights, with the same trunk, head, rates by stage and labels. Either may come first: a
report that finishes looks for versions, and a promotion looks for reports.
"""

from pydantic import BaseModel

from graft.registry import (
    ModelVersion,
    Verdict,
    get_model,
    list_models,
    record_verdict,
    verdicts,
)
from graft.report.publishing import (
    Report,
    damaged_figures,
    list_reports,
    read_report,
    read_transfer,
)
from graft.report.transfer.design import ARMS, Way, arm_of, label_budget
from graft.report.transfer.estimates import Gain
from graft.spec import Pretrained, TransferReport
from graft.store import Store


class _Arms(BaseModel):
    """What a report says of its arms on one backbone: the type of all answers imports much more."""

    ways: tuple[Way, ...] = ()
    gains: tuple[Gain, ...]


class _Compared(BaseModel):
    """A transfer report's figures, as far as they are read here."""

    backbones: tuple[_Arms, ...]


def record_to_versions(store: Store, report: Report) -> None:
    """Record what a transfer report shows with every version that it concerns."""
    spec = read_transfer(store, report.report)
    archs = {backbone.arch for backbone in spec.backbones}
    for name, rows in list_models(store).items():
        for row in rows:
            if row.dataset == spec.base.dataset.name and row.arch in archs:
                _record(store, spec, report, get_model(store, f"{name}@{row.version}"))


def record_from_reports(store: Store, version: ModelVersion) -> None:
    """Record with a version what every transfer report shows of it.

    Those on its dataset and architecture are read, but for those that are recorded already.
    """
    recorded = {verdict.report for verdict in verdicts(store, version)}
    for row in list_reports(store):
        name = (row.dataset or "").partition("@")[0]
        concerns = name == version.lineage.dataset and version.arch in row.archs
        if concerns and row.report not in recorded:
            report = read_report(store, row.report)
            _record(store, read_transfer(store, row.report), report, version)


def _record(store: Store, spec: TransferReport, report: Report, version: ModelVersion) -> None:
    """Record a report's verdict with a version, if the report concerns it.

    Two arms may train alike, where a named stage is the last one: the first one's verdict counts.
    """
    from_scratch = version.lineage.spec.get("backbone", {}).get("weights") == "none"
    if version.lineage.dataset != spec.base.dataset.name or from_scratch:
        return
    labels = version.lineage.spec.get("dataset", {}).get("labels")
    if label_budget(1.0 if labels is None else labels) != label_budget(spec.labels[-1]):
        return
    try:
        compared = _Compared.model_validate(report.found).backbones
        gains = [
            {gain.arm: gain for gain in answers.gains if gain.labels == spec.labels[-1]}
            for answers in compared
        ]
        pairs = list(zip(spec.backbones, compared, gains, strict=True))
    except ValueError as error:
        raise damaged_figures(store, report, error) from error
    for pretrained, answers, by_arm in pairs:
        if version.arch != pretrained.arch:
            continue
        way = next((way for way in answers.ways if way.concerns(version)), None)
        arm = way.arm if way else _arm_of_earlier_release(spec, pretrained, answers, version)
        if arm is None or (gain := by_arm.get(arm)) is None:
            continue
        verdict = Verdict(
            against="scratch",
            outcome=gain.outcome,
            p_value=gain.p_value,
            why=str(gain),
            report=report.report,
        )
        record_verdict(store, version, verdict)


def _arm_of_earlier_release(
    spec: TransferReport, pretrained: Pretrained, answers: _Arms, version: ModelVersion
) -> str | None:
    """Return the arm that a version was trained as, of a report that does not say how arms train.

    Only weights of the same SHA-256, and freeze depths written alike, are taken for the same.
    """
    backbone = version.lineage.spec.get("backbone", {})
    if answers.ways or not pretrained.weights_sha256:
        return None
    if backbone.get("weights_sha256") != pretrained.weights_sha256:
        return None
    arms = (arm for arm in ARMS[1:] if arm_of(spec, arm).freeze == backbone.get("freeze"))
    return next(arms, None)
