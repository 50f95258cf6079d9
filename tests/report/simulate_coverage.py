"""How often the intervals of a transfer report hold what they estimate: a simulation.

``python tests/report/simulate_coverage.py`` prints the tables of docs/reports.md. Each draw is a
report of its own: new seeds, new test images, and a gain of one arm over scratch, paired, or the
accuracy of one.

An image is of one of eight kinds, by how hard it is and which arm it suits. Whether an arm gets it
right is a probit of that and of the arm's seed; half of what a seed does is common to both arms.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from graft.report.interval import LEVEL
from graft.report.share_interval import ShareMean
from graft.report.two_way import DIFFERENCE, SHARE, half_width, moments, parts

Array = NDArray[np.float64]

ACCURACIES = {2: (0.97, 0.93), 10: (0.88, 0.80), 1000: (0.45, 0.30)}
"""Accuracy of an arm and of scratch, by number of classes."""
HARD = np.repeat(ndtri((np.arange(4) + 0.5) / 4), 2)
SUITS = np.tile([0.3, -0.3], 4)
EXACT_BELOW = 500
"""Images above which products of two seeds are drawn from their normal limit."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
RESAMPLES = 400
WIDTHS = 400
"""Draws of which the interval of an accuracy is computed; coverage needs none."""


@dataclass(frozen=True)
class Setting:
    """What reports are drawn from."""

    seeds: int
    images: int
    spread: float
    """Standard deviation of an arm's accuracy over seeds."""
    classes: int


@dataclass(frozen=True)
class Coverage:
    """What came of the draws of a setting."""

    holds: float
    """Share of the intervals that hold the expected gain."""
    width: float
    """Median width over that of an oracle's, which knows the variance of the gain."""


SETTINGS = [
    Setting(*setting)
    for setting in product((3, 5, 10), (50, 150, 1_000, 10_000), (0.0, 0.01, 0.05), ACCURACIES)
]


@cache
def arms(setting: Setting) -> tuple[tuple[Array, float], tuple[Array, float]]:
    """Return of both arms the probits of the kinds of images, and the deviation over seeds."""

    def accuracies(centre: float, deviation: float, suits: Array) -> Array:
        return ndtr(centre + HARD + suits + deviation * NODES[:, None]).mean(1)

    def arm(accuracy: float, suits: Array) -> tuple[Array, float]:
        def centre(deviation: float) -> float:
            def excess(centre: float) -> float:
                by_seed = accuracies(centre, deviation, suits)
                return float(np.average(by_seed, weights=WEIGHTS)) - accuracy

            return float(brentq(excess, -20, 20))

        def too_wide(deviation: float) -> float:
            by_seed = accuracies(centre(deviation), deviation, suits)
            return float(np.average((by_seed - accuracy) ** 2, weights=WEIGHTS)) ** 0.5 - (
                setting.spread
            )

        deviation = float(brentq(too_wide, 0, 3)) if setting.spread else 0.0
        return centre(deviation) + HARD + suits, deviation

    better, scratch = ACCURACIES[setting.classes]
    return arm(better, SUITS), arm(scratch, -SUITS)


def draw(setting: Setting, draws: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Return of each report the seeds' gains (draws, S) and their products (draws, S, S)."""
    shape = (draws, setting.seeds, 1)
    both = random.normal(size=shape)
    chances = []
    for probits, deviation in arms(setting):
        seed = (both + random.normal(size=shape)) / 2**0.5
        chances.append(ndtr(probits + deviation * seed))  # (draws, S, kinds)
    better, scratch = chances
    return crossed(setting, better * (1 - scratch), scratch * (1 - better), random)


def draw_accuracies(
    setting: Setting, arm: int, draws: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """Return of each report the seeds' accuracies of an arm, and their products, as `draw`."""
    probits, deviation = arms(setting)[arm]
    chances = ndtr(probits + deviation * random.normal(size=(draws, setting.seeds, 1)))
    return crossed(setting, chances, np.zeros_like(chances), random)


def crossed(
    setting: Setting, wins: Array, losses: Array, random: np.random.Generator
) -> tuple[Array, Array]:
    """Return means and products of values that are 1 and -1 with these chances, else 0.

    `wins`, `losses`: of each draw and seed, by kind of image, (draws, S, kinds).
    """
    draws = len(wins)
    sizes = random.multinomial(setting.images, [1 / 8] * 8, size=draws)  # (draws, kinds)
    if setting.images < EXACT_BELOW:
        kinds = np.array([np.repeat(np.arange(8), row) for row in sizes])[:, None]
        chance = random.random((draws, setting.seeds, setting.images))
        won = chance < np.take_along_axis(wins, kinds, 2)
        lost = 1 - chance <= np.take_along_axis(losses, kinds, 2)
        return moments(won.astype(float) - lost)
    won = random.binomial(sizes[:, None], wins)
    lost = random.binomial(sizes[:, None] - won, losses / np.maximum(1 - wins, 1e-12))
    gains, squares = (won - lost).astype(float), (won + lost).astype(float)
    each = np.maximum(sizes, 2)[:, None].astype(float)
    rest = squares - gains**2 / each
    # Which images of a kind a seed gets right is a permutation of its own.
    products = np.einsum("dsk,dtk->dst", gains / each, gains)
    noise = np.sqrt(np.einsum("dsk,dtk->dst", rest / (each - 1), rest))
    noise = np.triu(noise * random.normal(size=noise.shape), 1)
    products += noise + np.swapaxes(noise, 1, 2)
    places = np.arange(setting.seeds)
    products[:, places, places] = squares.sum(2)
    return gains.sum(2) / setting.images, products / setting.images


def simulate(
    setting: Setting, draws: int, with_before: bool = True
) -> tuple[Coverage | None, Coverage]:
    """Return the coverage before, by a percentile bootstrap of seeds and images, and now.

    Before, nothing was claimed of fewer than five seeds.
    """
    random = np.random.default_rng(hash(setting) % 2**32)
    better, scratch = ACCURACIES[setting.classes]
    means, products = draw(setting, draws, random)
    oracle = 1.96 * float(means.mean(1).std())
    centre, seeds, images = parts(means, products, setting.images, np.array(DIFFERENCE))
    shares, widths = half_widths(setting.seeds)
    half = np.sqrt(seeds + images) * np.interp(seeds / (seeds + images), shares, widths)
    holds = abs(centre - (better - scratch)) <= half
    now = Coverage(float(holds.mean()), float(np.median(half)) / oracle)
    if setting.seeds < 5 or not with_before:
        return None, now
    low, high = bootstrap(means[:1000], products[:1000], setting.images, random)
    holds = (low <= better - scratch) & (better - scratch <= high)
    return Coverage(float(holds.mean()), float(np.median(high - low)) / 2 / oracle), now


def simulate_accuracy(setting: Setting, arm: int, draws: int) -> tuple[Coverage, Coverage]:
    """Return the coverage of an arm's accuracy, before, by `two_way`'s interval, and now."""
    random = np.random.default_rng(hash((setting, arm)) % 2**32)
    accuracy = ACCURACIES[setting.classes][arm]
    means, products = draw_accuracies(setting, arm, draws, random)
    oracle = 1.96 * float(means.mean(1).std())
    centre, seeds, images = parts(means, products, setting.images, np.array(SHARE))
    shares, widths = half_widths(setting.seeds)
    half = np.sqrt(seeds + images) * np.interp(seeds / (seeds + images), shares, widths)
    before = Coverage(float((abs(centre - accuracy) <= half).mean()), float(np.median(half)))
    below = ShareMean(means, products, setting.images).below(np.full(draws, accuracy))
    low, high = ShareMean(means[:WIDTHS], products[:WIDTHS], setting.images).ends()
    holds = abs(below - 0.5) <= LEVEL / 2
    now = Coverage(float(holds.mean()), float(np.median(high - low)) / 2 / oracle)
    return replace(before, width=before.width / oracle), now


@cache
def half_widths(seeds: int) -> tuple[Array, Array]:
    """Return half widths of intervals of variance 1 by the seeds' share of it."""
    shares = np.linspace(0, 1, 101)
    return shares, np.array([half_width(share, 1 - share, seeds) for share in shares])


def bootstrap(
    means: Array, products: Array, images: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """Return the ends of percentile intervals; resampled images are drawn by their normal limit."""
    seeds = means.shape[1]
    covariances = products - means[:, :, None] * means[:, None]
    shape = (len(means), RESAMPLES)
    weights = random.multinomial(seeds, [1 / seeds] * seeds, size=shape) / seeds
    variances = np.einsum("drs,dst,drt->dr", weights, covariances, weights, optimize=True)
    noise = random.normal(size=shape) * np.sqrt(np.maximum(variances, 0) / images)
    low, high = np.quantile(np.einsum("drs,ds->dr", weights, means) + noise, [0.025, 0.975], axis=1)
    return low, high


def accuracies_table(draws: int) -> Iterator[str]:
    """Yield the rows of the table of accuracies, in Markdown."""
    yield "| seeds | images | spread | accuracy | before | width | now | width |"
    yield "|---|---|---|---|---|---|---|---|"
    for setting, arm in product(SETTINGS, (0, 1)):
        before, now = simulate_accuracy(setting, arm, draws)
        yield (
            f"| {setting.seeds} | {setting.images:,} | {setting.spread:g} | "
            f"{ACCURACIES[setting.classes][arm]:g} | {100 * before.holds:.1f} % | "
            f"{before.width:.2f} | {100 * now.holds:.1f} % | {now.width:.2f} |"
        )


def table(draws: int) -> Iterator[str]:
    """Yield the rows of the table of gains, in Markdown."""
    yield "| seeds | images | spread | classes | before | width | now | width |"
    yield "|---|---|---|---|---|---|---|---|"
    for setting in SETTINGS:
        before, now = simulate(setting, draws)
        past = f"{100 * before.holds:.1f} % | {before.width:.2f}" if before else "– | –"
        yield (
            f"| {setting.seeds} | {setting.images:,} | {setting.spread:g} | {setting.classes:,} | "
            f"{past} | {100 * now.holds:.1f} % | {now.width:.2f} |"
        )


if __name__ == "__main__":
    os.nice(10)
    for row in chain(table(10_000), [""], accuracies_table(10_000)):
        print(row, flush=True)
