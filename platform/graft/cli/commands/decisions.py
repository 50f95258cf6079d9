"""`graft models calibrate|decide`: what a registered version's answers mean."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import (
    DEFAULT_STORE,
    DatasetRef,
    Gpus,
    Json,
    Model,
    Out,
    StoreUri,
    grouped_options,
    open_store,
)
from graft.cli.show.output import counting, emit, note

if TYPE_CHECKING:
    from graft.data.manifest import DatasetVersion
    from graft.decisions.promises import PromiseKind, Target
    from graft.decisions.records import Decision
    from graft.decisions.rules import Costs
    from graft.registry import ModelVersion
    from graft.report.decision.decide import Asked
    from graft.spec import Register, Scaling
    from graft.store import Store

Progress = Callable[[int, int], object]


def calibrate(
    ref: Model,
    dataset: DatasetRef = None,
    out: Out = None,
    gpus: Gpus = 0,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Fit a version's probabilities to held-out images: of 80 %, 80 % are then right.

    By the half of the test images that does not judge, without any by those of validation; the
    error is measured on others. It becomes the version's next decision, in force from then on: a
    server answers by it. Where none is shown to help, none is kept.

    Example: graft models calibrate ants-bees
    """
    from graft.cli.dataset_refs import evaluation_images
    from graft.registry import get_model
    from graft.report.publishing import check_out

    check_out(out)
    opened = open_store(store)
    version = get_model(opened, ref)
    images, _ = evaluation_images(opened, version, dataset, None)

    from graft.report.decision.calibrate import calibrate_version

    _warn_of_rule(opened, version)
    decision = _make(opened, version, images, calibrate_version, gpus)
    _show(opened, decision, out, json)


def calibrate_registered(
    store: "Store", register: "Register | None", ref: str | None, scaling: "Scaling"
) -> None:
    """Calibrate a version that was registered just now, where its spec says so and it helps.

    Where it does not help, that is said, and the version stays as it is.
    """
    from graft.cluster.local_ray import ray_session
    from graft.decisions.records import list_decisions
    from graft.errors import NotShown
    from graft.registry import get_model

    if register is None or not register.calibrate or ref is None:
        return
    version = get_model(store, ref)
    if list_decisions(store, version):
        return  # an earlier attempt's
    try:
        with ray_session():
            from graft.report.decision.ray_task import calibrate_on_ray

            decision = calibrate_on_ray(store, version, scaling)
    except NotShown as error:
        note(f"not calibrated: {error}")
        return
    note(
        f"{ref} is calibrated ({decision.calibration}): calibration error "
        f"{decision.error_before:.4f} to {decision.error_after:.4f}"
    )


@dataclass(frozen=True)
class _Options:
    """What `graft models decide` is asked for, as it was typed."""

    recall: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=SHARE", help="Of images of a class, find so many at least."),
    ] = None
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=SHARE", help="Of answers with a class, so many are right."),
    ] = None
    false_accepts: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=SHARE", help="Of other images, take so many for it at most."),
    ] = None
    accuracy: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of all answers, so many are right.")
    ] = None
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML: of each true class, what each answer costs, `unknown` included if it may "
            "be one; the answer is the least expected cost.",
        ),
    ] = None
    mean_cost: Annotated[
        float | None, typer.Option(metavar="COST", help="With --costs: the mean, at most.")
    ] = None
    sets: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Answer sets, so many of which hold the true class."),
    ] = None
    confidence: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="With which all promises hold at once; default: 0.95."),
    ] = None
    plain: Annotated[
        bool, typer.Option("--plain", help="Take the likeliest class again, uncalibrated.")
    ] = False

    def check_plain(self, *others: object) -> None:
        """Refuse to take anything back and ask for it; `others` are options that do nothing."""
        from graft.errors import InputError

        asked = any(self._kinds()) or self.mean_cost is not None or self.confidence is not None
        if asked or any(others):
            raise InputError(
                "--plain takes thresholds, costs and sets back, without looking at images: nothing "
                "else with it but --store and --json"
            )

    def read(self, version: "ModelVersion") -> "Asked":
        """Return what is asked.

        Raises:
            InputError: it is nothing, or more than one kind; or a share is none.
        """
        from graft.errors import InputError
        from graft.report.decision.decide import CONFIDENCE, Asked, check_names

        check_names(version)
        if sum(self._kinds()) != 1:
            raise InputError(
                "expected targets (--recall, --precision, --false-accepts, --accuracy), --costs, "
                "--sets, or --plain: one of these"
            )
        if self.mean_cost is not None and self.costs is None:
            raise InputError("--mean-cost needs --costs: a file of what answers cost")
        if self.confidence is not None and (
            self.sets is not None or (self.costs is not None and self.mean_cost is None)
        ):
            raise InputError(
                "--confidence is that of targets and of --mean-cost: sets promise a share on "
                "average over draws, costs alone promise nothing"
            )
        wanted = CONFIDENCE if self.confidence is None else self.confidence
        confidence = _share("--confidence", wanted)
        if self.sets is not None:
            return Asked(coverage=_share("--sets", self.sets), confidence=confidence)
        if self.costs is not None:
            return Asked(self._mean_cost(), confidence, _read_costs(self.costs, version.classes))
        return Asked(tuple(self._targets()), confidence)

    def _kinds(self) -> tuple[bool, bool, bool]:
        of_classes = self.recall or self.precision or self.false_accepts
        targets = bool(of_classes) or self.accuracy is not None
        return targets, self.costs is not None, self.sets is not None

    def _mean_cost(self) -> "tuple[Target, ...]":
        from graft.decisions.promises import Target
        from graft.errors import InputError

        if self.mean_cost is None:
            return ()
        if not 0 <= self.mean_cost < float("inf"):
            raise InputError(
                f"--mean-cost {self.mean_cost}: expected a number that is not negative"
            )
        return (Target(kind="cost", value=self.mean_cost),)

    def _targets(self) -> "list[Target]":
        from graft.decisions.promises import Target

        targets = [
            *_of_classes("recall", self.recall),
            *_of_classes("precision", self.precision),
            *_of_classes("false-accepts", self.false_accepts),
        ]
        if self.accuracy is not None:
            targets.append(Target(kind="accuracy", value=_share("--accuracy", self.accuracy)))
        return targets


@grouped_options
def decide(
    ref: Model,
    options: _Options,
    dataset: DatasetRef = None,
    out: Out = None,
    gpus: Gpus = 0,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Decide what a version answers, by promises that held-out images certify.

    A class is answered from its threshold on, in the order: recalls, precisions, false accepts, as
    they are given; else the likeliest of the other classes; else `unknown`. Thresholds are chosen
    on a part of the test images, certified on others, and judged on others again. What cannot be
    promised with the images that there are is said, with how many more it takes; each further try
    with the same images is tested more strictly, so that the confidence holds for all of them.

    Example: graft models decide ants-bees --recall ants=0.9 --accuracy 0.8
    """
    from graft.registry import get_model
    from graft.report.publishing import check_out

    check_out(out)
    if options.plain:
        options.check_plain(dataset, out, gpus)
    opened = open_store(store)
    version = get_model(opened, ref)
    if options.plain:
        from graft.decisions.records import DecisionDraft, record_decision

        decision = record_decision(opened, version, DecisionDraft(model=version.ref), {})
        _show(opened, decision, None, json)
        return
    asked = options.read(version)

    from graft.cli.dataset_refs import open_dataset_ref
    from graft.report.decision.decide import check_asked, decide_version

    check_asked(version, asked)  # before images are looked for
    lineage = version.lineage
    images = open_dataset_ref(opened, dataset or f"{lineage.dataset}@{lineage.dataset_version}")
    decision = _make(opened, version, images, partial(decide_version, asked=asked), gpus)
    _show(opened, decision, out, json)


def _make(
    store: "Store",
    version: "ModelVersion",
    images: "DatasetVersion",
    make: "Callable[[Store, ModelVersion, DatasetVersion, Scaling, Progress], Decision]",
    gpus: int,
) -> "Decision":
    """Make a decision by images in this process, and show how far its predictions are."""
    from graft.cpus import available_cpus
    from graft.spec import Scaling

    scaling = Scaling(cpus_per_worker=available_cpus(), gpus_per_worker=gpus)
    with counting("predicting") as progress:
        return make(store, version, images, scaling, progress)


def _of_classes(kind: "PromiseKind", words: list[str] | None) -> "list[Target]":
    """Return the targets that CLASS=SHARE mean."""
    from graft.decisions.promises import Target
    from graft.errors import InputError

    targets: dict[str, Target] = {}
    for word in words or ():
        name, equals, text = word.rpartition("=")
        try:
            share = float(text)
        except ValueError:
            share = float("nan")
        if not equals or not name:
            raise InputError(f"--{kind} {word}: expected CLASS=SHARE, such as ants=0.95")
        if name in targets:
            raise InputError(f"--{kind} {word}: there is one for '{name}' already")
        targets[name] = Target(kind=kind, name=name, value=_share(f"--{kind} {word}", share, text))
    return list(targets.values())


def _share(option: str, share: float, text: str | None = None) -> float:
    """Return a share that lies between 0 and 1, without these."""
    from graft.errors import InputError

    if not 0 < share < 1:
        said = "" if text is not None else f" {share:g}"
        raise InputError(f"{option}{said}: expected a share between 0 and 1, such as 0.95")
    return share


def _read_costs(path: Path, classes: tuple[str, ...]) -> "Costs":
    """Read a file of costs: {true class: {answer: cost}}; an answer that is right may be left out.

    Raises:
        InputError: it is none for these classes.
    """
    from graft.decisions.rules import UNKNOWN_NAME, Costs
    from graft.errors import InputError
    from graft.spec import nearest, parse_yaml

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--costs {path}: {getattr(error, 'strerror', error)}") from error
    document = _with_text_keys(parse_yaml(text, str(path)), path)
    example = "{ants: {bees: 1, unknown: 0.2}, bees: {ants: 5, unknown: 0.2}}"
    if not isinstance(document, dict) or not all(isinstance(r, dict) for r in document.values()):
        raise InputError(f"--costs {path}: expected costs by true class and answer, as {example}")
    answers = (*classes, UNKNOWN_NAME)
    for name in document:
        if name not in classes:
            raise InputError(f"--costs {path}: no class '{name}'{nearest(name, classes)}")
    if missing := [name for name in classes if name not in document]:
        raise InputError(f"--costs {path}: lacks the class '{missing[0]}'")
    may_be_unknown = any(UNKNOWN_NAME in row for row in document.values())
    rows = []
    for name in classes:
        row = document[name]
        if strange := [said for said in row if said not in answers]:
            raise InputError(
                f"--costs {path}: {name} has a cost of the answer '{strange[0]}'"
                f"{nearest(strange[0], answers)}"
            )
        wanted = answers if may_be_unknown else classes
        costs = {name: 0.0, **row}
        if lacking := [said for said in wanted if said not in costs]:
            raise InputError(f"--costs {path}: {name} lacks the cost of the answer '{lacking[0]}'")
        for said, cost in costs.items():
            number = isinstance(cost, int | float) and not isinstance(cost, bool)
            if not number or not 0 <= cost < float("inf"):
                raise InputError(
                    f"--costs {path}: {name} answered as {said} costs {cost!r}; expected a number "
                    "that is not negative"
                )
        rows.append([float(costs[said]) for said in wanted])
    return Costs(
        costs=tuple(tuple(row[: len(classes)]) for row in rows),
        unknown=tuple(row[-1] for row in rows) if may_be_unknown else None,
    )


def _with_text_keys(document: Any, path: Path) -> Any:
    """Return a document whose keys are text, as classes are: digits are numbers in YAML.

    Raises:
        InputError: two keys of a mapping are the same text.
    """
    from graft.errors import InputError

    if not isinstance(document, dict):
        return document
    texts: dict[str, Any] = {}
    for key, inner in document.items():
        text = str(key).lower() if isinstance(key, bool) else str(key)
        if text in texts:
            raise InputError(
                f"--costs {path}: '{text}' stands there twice, as a number and as text"
            )
        texts[text] = _with_text_keys(inner, path)
    return texts


def _warn_of_rule(store: "Store", version: "ModelVersion") -> None:
    """Say that thresholds do not go with other probabilities."""
    from graft.decisions.records import decision_in_force
    from graft.errors import ObjectDamaged

    try:
        before = decision_in_force(store, version)
    except ObjectDamaged as error:
        note(f"another decision takes the place of a damaged one: {error}")
        return
    if before and before.rule.kind != "likeliest":
        note(
            f"the {before.rule.kind} of decision {before.number} go, since they were for other "
            "probabilities; `graft models decide` calibrates, too"
        )


def _show(store: "Store", decision: "Decision", out: Path | None, json: bool) -> None:
    """Print a decision; where `out` is a folder, write its page and pictures there."""
    from graft.cli.show.decision import decision_page
    from graft.report.publishing import PAGE
    from graft.store.directory import Directory

    if out:
        folder = Directory(out.absolute())
        for name, ref in decision.files.items():
            folder.write(name, store.get(decision.folder, ref))
        folder.write("decision.json", decision.model_dump_json(indent=1).encode())
        note(f"the page: {out / PAGE}")
    document: dict[str, Any] = decision.model_dump(mode="json")
    emit(document, json, lambda: decision_page(decision))
