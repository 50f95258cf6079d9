"""Do decisions keep what they promise? Draws of images, and a population that knows the truth.

python -m decisions.simulation       its tables, 1,000 draws a row
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from decisions.populations import drawn, halves, population
from graft.decisions.calibration import NONE, Calibration, fit_temperature
from graft.decisions.choose import Certified, Labelled, choose_thresholds
from graft.decisions.conformal import conformal_sets
from graft.decisions.promises import (
    Target,
    certify,
    certify_cost,
    least_share,
    level_of_try,
    p_value,
)
from graft.decisions.rules import UNKNOWN, Costs, Thresholds, answer
from graft.report.decision.measured import costs_of, largest_cost

CONFIDENCE = 0.9
LEVEL, LATER = level_of_try(CONFIDENCE, 0), level_of_try(CONFIDENCE, 1)
"""Of the first try and of the second."""
COVERAGE = 0.9
IMAGES = (50, 200, 500, 2000)
FITS_ONE_IN = 3
"""As `graft models decide` divides the images that calibrate."""
TRUTH = 20_000
"""Images of the population by which a promise is held to be kept or broken."""
HARD = {2: 1.6, 20: 3.2}
"""How far classes are apart, by their number: targets are then near what can be reached."""
COST = {2: 0.25, 20: 0.12}
"""Mean cost that is asked for, by the number of classes; 0.2 and 0.1 can be reached."""
TARGETS: dict[str, tuple[Target, ...]] = {
    "recall": (Target(kind="recall", name="c1", value=0.9),),
    "precision": (Target(kind="precision", name="c1", value=0.9),),
    "false accepts": (Target(kind="false-accepts", name="c0", value=0.05),),
    "accuracy": (Target(kind="accuracy", value=0.95),),
    "recall and precision": (
        Target(kind="recall", name="c1", value=0.7),
        Target(kind="precision", name="c0", value=0.75),
    ),
}


@dataclass
class Tally:
    """What draws of so many images came to."""

    draws: int = 0
    made: int = 0
    """Draws that gave a promise."""
    broken: int = 0
    """Draws that gave a promise of which a part is broken, in the population."""
    unknown: list[float] = field(default_factory=list)
    """Of each promise: share of the population that is not answered."""
    right: list[float] = field(default_factory=list)
    """Of each promise: share of the population that is answered right."""

    @property
    def most(self) -> float:
        """The most promises that may be broken, with two standard errors."""
        risk = 1 - CONFIDENCE
        return self.draws * risk + 2 * (self.draws * risk * (1 - risk)) ** 0.5


@dataclass(frozen=True)
class World:
    """A population, and what is known of it."""

    classes: tuple[str, ...]
    all: Labelled

    @classmethod
    def of(cls, classes: int) -> "World":
        return cls(
            tuple(f"c{number}" for number in range(classes)),
            population(classes, TRUTH, apart=HARD[classes]),
        )

    def keeps(
        self, rule: Thresholds, calibration: Calibration, targets: Sequence[Target]
    ) -> tuple[bool, float, float]:
        """Whether the population keeps all targets, and its shares that are unknown, and right."""
        decided = answer(self.all.logits, self.classes, calibration, rule).decided
        promises = [certify(target, decided, self.all.labels, self.classes) for target in targets]
        kept = all(said.kept >= least_share(said.target) * said.images for said in promises)
        return kept, float((decided == UNKNOWN).mean()), float((decided == self.all.labels).mean())

    def oracle(self, targets: Sequence[Target]) -> Certified | None:
        """Return the thresholds that one would choose who knew the population."""
        outcome = choose_thresholds(self.all, self.all, self.classes, NONE, targets, LEVEL, LATER)
        return outcome if isinstance(outcome, Certified) else None


def simulate(world: World, targets: Sequence[Target], images: int, draws: int, seed: int) -> Tally:
    """Draw images, decide by them, and look whether the population keeps the promise."""
    draw, tally = np.random.default_rng(seed), Tally()
    for _ in range(draws):
        fitting, certifying = halves(drawn(world.all, images, draw), images // FITS_ONE_IN)
        calibration = fit_temperature(fitting.logits, fitting.labels)
        outcome = choose_thresholds(
            fitting, certifying, world.classes, calibration, targets, LEVEL, LATER
        )
        tally.draws += 1
        if isinstance(outcome, Certified):
            kept, unknown, right = world.keeps(outcome.rule, calibration, targets)
            tally.made += 1
            tally.broken += not kept
            tally.unknown.append(unknown)
            tally.right.append(right)
    return tally


def costs(classes: int) -> Costs:
    """Return costs: a mistake costs one, to take the second class for the first five."""
    matrix = 1.0 - np.eye(classes)
    matrix[1, 0] = 5.0
    return Costs(costs=tuple(map(tuple, matrix.tolist())), unknown=(0.4,) * classes)


def mean_cost(world: World, rule: Costs, calibration: Calibration) -> float:
    """Return what the population costs, on average."""
    answers = answer(world.all.logits, world.classes, calibration, rule)
    return float(costs_of(answers, world.all.labels, rule).mean())


def simulate_costs(world: World, value: float, images: int, draws: int, seed: int) -> Tally:
    """Draw images, ask for a mean cost by them, and look what the population costs."""
    draw, tally, rule = np.random.default_rng(seed), Tally(), costs(len(world.classes))
    target = Target(kind="cost", value=value)
    for _ in range(draws):
        fitting, certifying = halves(drawn(world.all, images, draw), images // FITS_ONE_IN)
        calibration = fit_temperature(fitting.logits, fitting.labels)
        answers = answer(certifying.logits, world.classes, calibration, rule)
        spent = costs_of(answers, certifying.labels, rule)
        tally.draws += 1
        if certify_cost(target, spent, largest_cost(rule)).p_value <= LEVEL:
            tally.made += 1
            tally.broken += mean_cost(world, rule, calibration) > target.value
    return tally


def simulate_looks(
    target: Target, first: int, looks: int, draws: int, seed: int
) -> tuple[float, float]:
    """Return how often a target that is just missed is promised: by levels of tries, and by one.

    Each look is at the images of the one before and at as many again as the first has, as of
    somebody who is refused, labels more images and asks again.
    """
    draw, spent, naive = np.random.default_rng(seed), 0, 0
    risk = 1 - CONFIDENCE
    for _ in range(draws):
        kept = np.cumsum(draw.binomial(first, least_share(target), looks))
        p = [p_value(target, first * (look + 1), int(kept[look])) for look in range(looks)]
        spent += any(p[look] <= level_of_try(CONFIDENCE, look) for look in range(looks))
        naive += min(p) <= risk
    return spent / draws, naive / draws


def simulate_sets(
    world: World, images: int, draws: int, seed: int
) -> tuple[list[float], list[float]]:
    """Return of each draw how many sets of the population hold the class, and their mean size."""
    draw, covered, sizes = np.random.default_rng(seed), list[float](), list[float]()
    for _ in range(draws):
        fitting, certifying = halves(drawn(world.all, images, draw), images // FITS_ONE_IN)
        calibration = fit_temperature(fitting.logits, fitting.labels)
        p = calibration.apply(certifying.logits)
        sets = conformal_sets(p, certifying.labels, COVERAGE)
        assert sets is not None
        held = answer(world.all.logits, world.classes, calibration, sets).sets
        assert held is not None
        covered.append(float(held[np.arange(TRUTH), world.all.labels].mean()))
        sizes.append(float(held.sum(axis=1).mean()))
    return covered, sizes


def rows(draws: int, tell: Callable[[str], object]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| asked | classes | images | promised | broken | unknown | right | by an oracle |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for classes in HARD:
        world = World.of(classes)
        for name, targets in TARGETS.items():
            oracle = world.oracle(targets)
            by_oracle = "cannot"
            if oracle:
                _, unknown, right = world.keeps(oracle.rule, NONE, targets)
                by_oracle = f"{100 * unknown:.1f}, {100 * right:.1f}"
            for images in IMAGES:
                tell(f"{name}, {classes} classes, {images} images")
                tally = simulate(world, targets, images, draws, seed=images)
                of_made = [
                    f"{100 * np.mean(some):.1f}" for some in (tally.unknown, tally.right) if some
                ]
                shares = of_made or ["", ""]
                yield (
                    f"| {name} | {classes} | {images:,} | {100 * tally.made / draws:.1f} | "
                    f"{100 * tally.broken / draws:.1f} | {shares[0]} | {shares[1]} | {by_oracle} |"
                )
    yield ""
    yield "| mean cost | classes | images | promised | broken |"
    yield "| --- | --- | --- | --- | --- |"
    for classes, value in COST.items():
        world = World.of(classes)
        for images in IMAGES:
            tell(f"costs, {classes} classes, {images} images")
            tally = simulate_costs(world, value, images, draws, seed=images)
            made, broken = (100 * count / draws for count in (tally.made, tally.broken))
            yield f"| {value:g} | {classes} | {images:,} | {made:.1f} | {broken:.1f} |"
    yield ""
    yield "| tries, each with more images | promised though missed | at one level |"
    yield "| --- | --- | --- |"
    for looks in (1, 3, 10, 30):
        spent, naive = simulate_looks(TARGETS["recall"][0], 100, looks, draws, seed=looks)
        yield f"| {looks} | {100 * spent:.1f} | {100 * naive:.1f} |"
    yield ""
    yield "| classes | images | hold the class | classes in a set | by an oracle |"
    yield "| --- | --- | --- | --- | --- |"
    for classes in HARD:
        world = World.of(classes)
        best = conformal_sets(NONE.apply(world.all.logits), world.all.labels, COVERAGE)
        assert best is not None
        held = answer(world.all.logits, world.classes, NONE, best).sets
        assert held is not None
        for images in IMAGES:
            tell(f"sets, {classes} classes, {images} images")
            covered, sizes = simulate_sets(world, images, draws, seed=images)
            yield (
                f"| {classes} | {images:,} | {100 * np.mean(covered):.2f} | "
                f"{np.mean(sizes):.2f} | {held.sum(axis=1).mean():.2f} |"
            )


if __name__ == "__main__":
    for line in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, lambda text: None):
        print(line, flush=True)
