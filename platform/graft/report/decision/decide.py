"""Deciding what a version's answers mean: thresholds, costs or sets that held-out images prove."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from graft.data.manifest import DatasetVersion
from graft.decisions.calibration import Calibration, fit_calibration
from graft.decisions.choose import Certified, Labelled, Lacking, choose_thresholds
from graft.decisions.conformal import conformal_sets, least_images_of_sets
from graft.decisions.promises import Promise, Target, certify_cost, level_of_try
from graft.decisions.records import Decision, DecisionDraft, record_decision
from graft.decisions.rules import Answers, Costs, Rule, Sets, Thresholds, answer, misfit
from graft.errors import InputError, NotShown
from graft.registry import ModelVersion
from graft.report.decision.held_out import FITS_ONE_IN, HeldOut, folds_of, held_out, labelled
from graft.report.decision.measured import Measured, costs_of, judge, largest_cost
from graft.report.decision.page import page_files
from graft.report.decision.tries import record_try
from graft.report.uses import record_use
from graft.spec import Scaling, nearest
from graft.store import Store

OF_ALL = 2 * FITS_ONE_IN / (FITS_ONE_IN - 1)
"""So many test images it takes for one that certifies: half judge, a part fits."""
CONFIDENCE = 0.95
"""With which promises hold, where nothing else is asked for."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a version's answers: of the three at most one."""

    targets: tuple[Target, ...] = ()
    """In order of precedence."""
    confidence: float = CONFIDENCE
    costs: Costs | None = None
    """With them, `targets` has at most one, a mean cost."""
    coverage: float | None = None
    """Share of images whose set holds the true class."""

    @property
    def promises(self) -> bool:
        """Whether it takes images that certify; costs alone promise nothing."""
        return bool(self.targets) or self.coverage is not None

    def __str__(self) -> str:
        words = [str(target) for target in self.targets]
        if self.costs is not None:
            words.append(f"costs {self.costs.model_dump_json()}")
        if self.coverage is not None:
            words.append(f"sets of {self.coverage:g}")
        return f"{', '.join(words)}; confidence {self.confidence:g}"


@dataclass(frozen=True)
class _Level:
    """How strictly a try is tested: the risk is spent over all tries with its images."""

    confidence: float
    before: int
    """Tries before it."""

    @property
    def value(self) -> float:
        """The level of this try."""
        return level_of_try(self.confidence, self.before)

    @property
    def later(self) -> float:
        """The level of the next one, which more images would have."""
        return level_of_try(self.confidence, self.before + 1)

    def __str__(self) -> str:
        return (
            f"this is try {self.before + 1} with these images, tested at a level of "
            f"{self.value:.2g}, so that all tries together keep the confidence of "
            f"{100 * self.confidence:g} %"
        )


def decide_version(
    store: Store,
    version: ModelVersion,
    dataset: DatasetVersion,
    scaling: Scaling,
    progress: Callable[[int, int], object],
    *,
    asked: Asked,
) -> Decision:
    """Find what keeps what is asked, have it judged, and record it as the next decision.

    Raises:
        NotShown: there are too few test images to promise it, or no threshold reaches it.
        InputError: there are no test images; or the model has no such class.
    """
    check_asked(version, asked)
    if not dataset.images("test"):
        raise InputError(
            f"{dataset.manifest.ref} has no test images, and those of validation have chosen "
            f"{version.ref}'s epoch: they can promise nothing; import the images again with "
            "--test-fraction, or name others with --dataset"
        )
    parts = held_out(store, version, dataset, scaling, progress)
    fitting = parts.fitting
    calibration = fit_calibration(fitting.logits, fitting.labels, folds_of(fitting.images))
    tried = record_try(store, version, dataset, str(asked)) if asked.promises else 0
    level = _Level(asked.confidence, tried)
    rule, promises = _rule(version, parts, calibration, asked, level)
    measured = Measured.of(parts.judging, calibration)
    draft = DecisionDraft(
        model=version.ref,
        calibration=calibration,
        rule=rule,
        confidence=asked.confidence if promises else None,
        promises=promises,
        coverage=asked.coverage,
        dataset=dataset.manifest.ref,
        split=fitting.split,
        fitted_on=len(fitting.images),
        certified_on=len(parts.certifying.images),
        tried_before=tried,
        level=level.value if promises else None,
        used_before=_used(store, version, dataset, parts, asked),
        left_out=parts.left_out,
        held=judge(parts.judging, calibration, rule, asked.targets),
        error_before=measured.error_before,
        error_after=measured.error_after,
    )
    return record_decision(store, version, draft, page_files(draft, measured, fitting))


def check_asked(version: ModelVersion, asked: Asked) -> None:
    """Check that a version has the classes of what is asked; InputError: it has not."""
    check_names(version)
    for target in asked.targets:
        if target.name is not None and target.name not in version.classes:
            raise InputError(
                f"{version.ref} has no class '{target.name}'{nearest(target.name, version.classes)}"
            )
    if asked.costs and (problem := misfit(Calibration(), asked.costs, version.classes)):
        raise InputError(f"{version.ref}: {problem}")


def check_names(version: ModelVersion) -> None:
    """Check that a version's classes may be answered by a rule; InputError: they may not."""
    if problem := misfit(Calibration(), Thresholds(), version.classes):
        raise InputError(f"{version.ref}: {problem}")


def _used(
    store: Store, version: ModelVersion, dataset: DatasetVersion, parts: HeldOut, asked: Asked
) -> int:
    """Record that a decision looks at the images that judge; return how often others did before."""
    digest = sha256(str(asked).encode()).hexdigest()[:16]
    name = f"{version.name}-{version.version}-decides-{digest}"
    return record_use(store, dataset, parts.judging.split, parts.judging.images, name)


def _rule(
    version: ModelVersion, parts: HeldOut, calibration: Calibration, asked: Asked, level: _Level
) -> tuple[Rule, tuple[Promise, ...]]:
    """Return the rule that keeps what is asked, and what is promised of it."""
    certifying = labelled(parts.certifying)
    if asked.coverage is not None:
        return _sets(certifying, calibration, asked.coverage), ()
    if asked.costs is not None:
        answers = answer(certifying.logits, version.classes, calibration, asked.costs)
        return asked.costs, _of_costs(answers, certifying, asked.costs, asked.targets, level)
    fitting = labelled(parts.fitting)
    outcome = choose_thresholds(
        fitting,
        certifying,
        version.classes,
        calibration,
        asked.targets,
        level.value,
        level.later,
    )
    if isinstance(outcome, Certified):
        return outcome.rule, outcome.promises
    lacking = (_lacking(each, fitting, certifying, level) for each in outcome)
    raise NotShown("; ".join([*lacking, str(level)]))


def _sets(certifying: Labelled, calibration: Calibration, coverage: float) -> Sets:
    """Return the rule whose sets hold the true class so often; NotShown: the images are too few."""
    p = calibration.apply(certifying.logits)
    sets = conformal_sets(p, certifying.labels, coverage)
    if sets is None:
        more = least_images_of_sets(coverage) - len(certifying)
        raise NotShown(
            f"sets that hold the true class of {100 * coverage:g} % of images cannot be promised "
            f"with {len(certifying):,} images: label {_tests(more)} more test images"
        )
    return sets


def _of_costs(
    answers: Answers,
    certifying: Labelled,
    costs: Costs,
    targets: Sequence[Target],
    level: _Level,
) -> tuple[Promise, ...]:
    """Return what is promised of a mean cost; NotShown: it cannot be."""
    spent, largest = costs_of(answers, certifying.labels, costs), largest_cost(costs)
    promises = tuple(certify_cost(target, spent, largest) for target in targets)
    for promise in promises:
        if promise.p_value > level.value:
            raise NotShown(
                f"{promise.target} cannot be promised with {promise.images:,} images, which cost "
                f"{promise.mean_cost:.4g} each (p {promise.p_value:.2g}): allow a higher one, or "
                f"label more test images; {level}"
            )
    return promises


def _lacking(lacking: Lacking, fitting: Labelled, certifying: Labelled, level: _Level) -> str:
    """Say that a target cannot be promised, and what would help."""
    promise, target = lacking.promise, lacking.promise.target
    about = {
        "recall": f"images of {target.name}",
        "precision": f"answers '{target.name}'",
        "false-accepts": f"images that are no {target.name}",
        "accuracy": "answers",
        "cost": "images",
    }[target.kind]
    if lacking.more is None:
        share = lacking.share if target.kind != "false-accepts" else 1 - lacking.share
        return (
            f"{target} cannot be promised, with whatever else is asked: the thresholds that are "
            f"the likeliest to keep it reach {100 * share:.1f} % of {about} (p "
            f"{promise.p_value:.2g}); ask for less, or train a better model"
        )
    of_class = target.kind == "recall"
    images = lacking.more * (len(certifying) / promise.images if promise.images else 1)
    more = _tests(lacking.more if of_class else images)
    kind = f" of {target.name}" if of_class else ""
    advice = f"label about {more} more test images{kind}, or ask for less"
    if not lacking.fits:
        return (
            f"{target} cannot be promised: no image of {target.name} is among the "
            f"{len(fitting):,} images that fit; {advice}"
        )
    return (
        f"{target} cannot be promised with {promise.images:,} {about}, {promise.kept:,} of which "
        f"are answered so by the thresholds that are the likeliest to keep it (p "
        f"{promise.p_value:.2g}, expected {level.value:.2g} at most): {advice}"
    )


def _tests(certifying: float) -> str:
    """Return how many test images give so many that certify."""
    return f"{round(max(1.0, certifying) * OF_ALL):,}"
