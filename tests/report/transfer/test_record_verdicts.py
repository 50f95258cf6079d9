"""What is made of a transfer report that is done: what is shown of it, and whom promotion lets by.

The report is a stored one, of trainings that are made up; test_trained_verdicts.py has real ones,
at night.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import commands
from graft.registry import (
    Lineage,
    ModelDraft,
    alias_history,
    aliases,
    get_model,
    register,
    verdicts,
)
from graft.report.publishing import list_reports, publish_report, read_report
from graft.report.transfer.answers import Answers
from graft.report.transfer.design import Way
from graft.report.transfer.page import transfer_files
from graft.report.transfer.record_verdicts import record_from_reports, record_to_versions
from graft.spec import Contract, Head, LinearHead, MLPHead, UniformRates, dump_job
from graft.store import Store
from graft.store.backend import Versioned
from report.transfer.made_up import DEPTHS, SHA256, answers, recorded_spec

pytestmark = pytest.mark.slow  # eight CPU seconds

REPORT = "colours-20260101-000000-abcd"
ARMS = DEPTHS
"""How many stages the report's arms freeze."""
OTHERS = ("dataset", "arch", "weights", "trunk", "head", "rates", "depth", "labels")
SHOWN = {"features": "worse", "partial": "not shown", "full": "better"}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a report that shows one arm to be worse than scratch, and one better."""
    folder = tmp_path_factory.mktemp("reported") / "store"
    store, spec = Store.open(str(folder)), recorded_spec()
    made = answers(REPORT, spec, {"scratch": 5, "features": 10, "partial": 5, "full": 1})
    store.create(f"reports/{REPORT}/spec.yaml", dump_job(spec).encode())
    publish_report(store, REPORT, "transfer", made, transfer_files(made, spec))
    return folder


@pytest.fixture
def store(reported: Path, tmp_path: Path) -> Store:
    """A copy of it."""
    return Store.open(str(shutil.copytree(reported, tmp_path / "store")))


def trained(
    store: Store,
    name: str,
    depth: int,
    dataset: str = "colours",
    arch: str = "squeezenet1_1",
    trunk: str = "",
    head: Head | None = None,
    train: dict[str, Any] | None = None,
    labels: float | None = None,
    **backbone: object,
) -> None:
    """Register a model of that name, trained as an arm of the report is, but for the changes."""
    spec = {"weights": "elsewhere/w.pth", "weights_sha256": SHA256, "freeze": depth} | backbone
    digest = trunk or 32 * f"c{depth}"
    lineage = Lineage(
        run=f"run-{name}",
        dataset=dataset,
        dataset_version="v1",
        spec={
            "kind": "finetune",
            "dataset": {"name": dataset, "labels": labels},
            "backbone": spec,
            "train": train or {},
        },
        weights=str(spec["weights"]),
        weights_sha256=None,
        packages={},
        git_commit=None,
    )
    draft = ModelDraft(
        name=name,
        arch=arch,
        head=head or LinearHead(),
        dropout=None,
        classes=("ants", "bees"),
        contract=Contract(max_side=512),
        freeze=depth,
        stages=(digest,),
        trunk_digest=digest,
        metrics={"val": {"accuracy": 0.9, "loss": 0.2}},
        weights="best",
        epoch=3,
        lineage=lineage,
    )
    register(store, draft, b"tail", b"golden")


def gains(store: Store) -> dict[str, Any]:
    """What each arm gains, as people read it."""
    (backbone,) = Answers.model_validate(read_report(store, REPORT).found).backbones
    return {gain.arm: gain for gain in backbone.gains}


def test_a_report_that_is_done_tells_the_versions_that_it_concerns(store: Store) -> None:
    for arm, freeze in ARMS.items():
        trained(store, arm, freeze)
    trained(store, "other-dataset", 3, dataset="shapes")
    trained(store, "other-arch", 3, arch="resnet18")
    trained(store, "other-weights", 0, weights_sha256=32 * "cd")
    trained(store, "other-trunk", 3, trunk=32 * "d3")  # of another preprocessing, say
    trained(store, "other-head", 3, head=MLPHead(kind="mlp"))
    trained(store, "other-rates", 1, train={"rates": {"kind": "decay", "factor": 0.5}})
    trained(store, "other-depth", 2)
    trained(store, "other-labels", 3, labels=1)  # one a class; the report's largest budget is all
    trained(store, "from-scratch", 0, weights="none")
    record_to_versions(store, read_report(store, REPORT))
    record_to_versions(store, read_report(store, REPORT))  # as when it is resumed
    gained = gains(store)
    for arm in ARMS:
        (verdict,) = verdicts(store, get_model(store, arm))
        assert (verdict.against, verdict.outcome, verdict.report) == ("scratch", SHOWN[arm], REPORT)
        assert verdict.why == str(gained[arm])
    others = [f"other-{what}" for what in OTHERS] + ["from-scratch"]
    assert [verdicts(store, get_model(store, name)) for name in others] == [[]] * 9


def test_a_stages_name_freezes_what_the_arm_freezes(store: Store) -> None:
    trained(store, "named", 3)  # as its depth is resolved, whatever its spec says
    trained(store, "all-written", 3, weights="other/name.pth")
    record_to_versions(store, read_report(store, REPORT))
    for name in ("named", "all-written"):
        (verdict,) = verdicts(store, get_model(store, name))
        assert verdict.outcome == SHOWN["features"]


def test_weights_of_a_model_version_are_told_apart_by_its_name(store: Store) -> None:
    """They come from no file, and two missing digests are not the same weights."""
    way = Way(
        arm="full",
        freeze=0,
        trunk_digest=32 * "c0",
        weights="model://a@1",
        weights_sha256=None,
        head=LinearHead(),
        rates=UniformRates().model_dump(mode="json"),
    )
    for name, weights in (("same", "model://a@1"), ("other", "model://b@3")):
        trained(store, name, 0, weights=weights, weights_sha256=None)
    concerned = [way.concerns(get_model(store, name)) for name in ("same", "other")]
    assert concerned == [True, False]


def test_a_promotion_reads_the_reports_that_may_tell_it_something_new(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(store, "other-arch", 3, arch="resnet18")
    trained(store, "other-dataset", 3, dataset="shapes")
    trained(store, "features", 3)
    list_reports(store)  # completes the index
    seen: list[str] = []
    read = store.read

    def watched(key: str) -> Versioned:
        seen.append(key)
        return read(key)

    monkeypatch.setattr(store, "read", watched)
    for name in ("other-arch", "other-dataset", "features", "features"):
        record_from_reports(store, get_model(store, name))
    assert seen.count(f"reports/{REPORT}/report.json") == 1
    assert len(verdicts(store, get_model(store, "features"))) == 1


def promote(store: Store, ref: str, *arguments: str) -> commands.Done:
    return commands.main("models", "promote", ref, *arguments, "--store", store.uri)


def test_of_an_earlier_release_the_way_is_told_by_weights_and_depth_as_written(
    store: Store,
) -> None:
    """Its reports do not say how their arms train, and did not correct for their number."""
    found = read_report(store, REPORT).model_dump(mode="json")["found"]
    for backbone in found["backbones"]:
        del backbone["ways"]
        for gain in backbone["gains"]:
            del gain["p_value"]
    store.delete(f"reports/{REPORT}/report.json")
    spec = recorded_spec()
    store.create("reports/earlier/spec.yaml", dump_job(spec).encode())
    publish_report(store, "earlier", "transfer", Answers.model_validate(found), {})
    trained(store, "features", 3, freeze="all")
    trained(store, "other-depth", 3, freeze=3)
    trained(store, "other-weights", 3, freeze="all", weights_sha256=32 * "cd")
    trained(store, "other-arch", 3, freeze="all", arch="resnet18")
    record_to_versions(store, read_report(store, "earlier"))
    record_from_reports(store, get_model(store, "other-arch@1"))  # as a promotion does
    (verdict,) = verdicts(store, get_model(store, "features@1"))
    assert (verdict.report, verdict.outcome, verdict.shown) == ("earlier", "worse", "not shown")
    promoted = promote(store, "features@1")
    assert promoted.returncode == 0
    assert "it was called worse by a release that did not correct" in promoted.stderr
    (_, move), *_ = alias_history(store, "features")
    assert move.basis == "unproven"
    for name in ("other-depth", "other-weights", "other-arch"):
        assert not verdicts(store, get_model(store, f"{name}@1"))


def test_promotion_is_refused_to_what_is_shown_to_be_worse_than_scratch(store: Store) -> None:
    trained(store, "red", 3)  # after the report, as one does
    refused = promote(store, "red@1")
    assert refused.returncode == 2
    why = gains(store)["features"]
    assert f"red@1 is shown to be worse than scratch: {why} ({REPORT})" in refused.stderr
    assert "--force" in refused.stderr
    assert aliases(store, "red") == {}
    assert promote(store, "red@1", "--alias", "candidate").returncode == 0
    assert promote(store, "red@1", "--force").returncode == 0
    assert aliases(store, "red") == {"candidate": 1, "champion": 1}


@pytest.mark.parametrize(
    ("arm", "said"),
    [("partial", "random@1 is not shown to be better than scratch: "), ("full", "")],
)
def test_promotion_warns_of_what_is_not_shown_to_be_better(
    store: Store, arm: str, said: str
) -> None:
    trained(store, "random", ARMS[arm])
    promoted = promote(store, "random@1")
    assert promoted.returncode == 0
    assert promoted.stderr == (f"{said}{gains(store)[arm]}\n" if said else "")
    assert aliases(store, "random") == {"champion": 1}


def cells(output: str) -> list[list[str]]:
    """The cells of all tables' rows."""
    lines = [line for line in output.splitlines() if "│" in line]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def test_a_report_is_shown_with_its_intervals(reported: Path) -> None:
    words = ("report", "show", REPORT, "--store", reported)
    output = commands.main(*words, env={"COLUMNS": "100"}).stdout
    rows = cells(output)
    assert ["scratch", "50", "78.0"] in [row[:3] for row in rows]
    gain = gains(Store.open(str(reported)))
    for arm, outcome in SHOWN.items():
        difference = gain[arm].difference
        spread = f"{100 * difference.interval.low:+.1f} to {100 * difference.interval.high:+.1f}"
        assert [arm, f"{100 * difference.value:+.1f}", spread, outcome] in rows
    assert ["full", "50", "more than 50", "more than 50", "more"] in rows  # labels for scratch
    assert "take full: shown to beat scratch: full at 100 % of the labels" in output
    assert "warning: transfer hurts: features at 100 % of the labels" in output


def test_its_page_says_the_same(reported: Path, tmp_path: Path) -> None:
    words = ("report", "show", REPORT, "--out", tmp_path / "page", "--json", "--store", reported)
    done = commands.main(*words)
    assert json.loads(done.stdout)["backbones"][0]["take"] == "full"
    page = (tmp_path / "page" / "report.html").read_text()
    for words in (
        "What did transfer buy?",
        "transfer hurts: features at 100 %",
        "full fine-tuning",
    ):
        assert words in page
    for name in ("labels.png", "gain.png", "corruptions.png"):
        assert (tmp_path / "page" / name).read_bytes().startswith(b"\x89PNG")
