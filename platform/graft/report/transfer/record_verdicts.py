"""What transfer reports show of model versions, recorded with each version that they concern.

A report concerns the versions that were trained as one of its arms is. Either may come first: a
report that finishes looks for versions, and a promotion looks for reports.
"""

from graft.registry import ModelVersion, Verdict, list_models, record_verdict
from graft.report.publishing import Report, list_reports, read_report, read_transfer
from graft.report.transfer.design import ARMS, arm_of
from graft.report.transfer.estimates import Gain
from graft.spec import TransferReport
from graft.store import Store


def record_to_versions(store: Store, report: Report) -> None:
    """Record what a transfer report shows with every version that it concerns."""
    spec = read_transfer(store, report.report)
    for version in list_models(store):
        _record(store, spec, report, version)


def record_from_reports(store: Store, version: ModelVersion) -> None:
    """Record with a version what every transfer report shows of it."""
    for name in list_reports(store):
        report = read_report(store, name)
        if report.kind == "transfer":
            _record(store, read_transfer(store, name), report, version)


def _record(store: Store, spec: TransferReport, report: Report, version: ModelVersion) -> None:
    """Record a report's verdict with a version, if the report concerns it."""
    backbone = version.lineage.spec.get("backbone", {})
    weights = backbone.get("weights_sha256")
    if version.lineage.dataset != spec.base.dataset.name or backbone.get("weights") == "none":
        return
    for pretrained, answers in zip(spec.backbones, report.found["backbones"], strict=True):
        if (version.arch, weights) != (pretrained.arch, pretrained.weights_sha256):
            continue
        for arm in ARMS[1:]:
            if arm_of(spec, arm).freeze != backbone.get("freeze"):
                continue
            # Gains alone are parsed: the type of all answers imports much more.
            gains = map(Gain.model_validate, answers["gains"])
            gain = next(g for g in gains if (g.arm, g.labels) == (arm, spec.labels[-1]))
            verdict = Verdict(
                against="scratch", outcome=gain.outcome, why=str(gain), report=report.report
            )
            record_verdict(store, version.ref, verdict)
