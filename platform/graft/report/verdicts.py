"""What transfer reports show of model versions, kept with each version that one concerns.

Whichever comes first: a report that is done looks for versions, and promotion looks for reports.
"""

from graft.registry import ModelVersion, Verdict, list_models, record_verdict
from graft.report.design import ARMS, arm_of
from graft.report.gain import Gain
from graft.report.reports import Report, list_reports, read_report, read_transfer
from graft.spec import TransferReport
from graft.store import Store


def tell_versions(store: Store, report: Report) -> None:
    """Keep what a transfer report shows with every version that it concerns."""
    spec = read_transfer(store, report.report)
    for version in list_models(store):
        _tell(store, spec, report, version)


def ask_reports(store: Store, version: ModelVersion) -> None:
    """Keep with a version what every transfer report shows of it."""
    for name in list_reports(store):
        report = read_report(store, name)
        if report.kind == "transfer":
            _tell(store, read_transfer(store, name), report, version)


def _tell(store: Store, spec: TransferReport, report: Report, version: ModelVersion) -> None:
    """Keep a report's verdict with a version trained as one of its arms is, if it is."""
    trained = version.lineage.spec.get("backbone", {})
    weights = trained.get("weights_sha256")
    if version.lineage.dataset != spec.base.dataset.name or trained.get("weights") == "none":
        return
    for pretrained, found in zip(spec.backbones, report.found["backbones"], strict=True):
        if (version.arch, weights) != (pretrained.arch, pretrained.weights_sha256):
            continue
        for arm in ARMS[1:]:
            if arm_of(spec, arm).freeze != trained.get("freeze"):
                continue
            gains = map(Gain.model_validate, found["gains"])  # alone: all answers import much more
            gain = next(g for g in gains if (g.arm, g.labels) == (arm, spec.labels[-1]))
            verdict = Verdict(
                against="scratch", outcome=gain.outcome, why=str(gain), report=report.report
            )
            record_verdict(store, version.ref, verdict)
