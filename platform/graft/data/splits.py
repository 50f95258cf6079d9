"""Which images train, which validate, which test: a pure, stratified, seeded choice."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType

from graft.errors import DataError
from graft.spec import Section

SPLITS = ("train", "val", "test")

VAL_FRACTION = 0.2
TEST_FRACTION = 0.1
"""Without a test split nothing can be shown: val chooses epochs, rates and depths."""
SEED = 0

NOTHING_KEPT: Mapping[str, str] = MappingProxyType({})


class MadeSplits(Section):
    """How Graft splits the images for which the source names no split but train."""

    val_fraction: float
    """Part of each class that validates; 0: the source has its own val split."""
    test_fraction: float
    """Part of each class that is held out for a final test; 0: none, or the source has its own."""
    seed: int


def choose_made_splits(
    source_splits: set[str],
    val_fraction: float | None,
    test_fraction: float | None,
    seed: int | None,
) -> MadeSplits | None:
    """Return how to split the train images of a source; None: they all stay in train.

    `source_splits` are those that the source has; None for a setting means its default.

    Raises:
        DataError: a setting is out of range, or has no effect on splits that the source has.
    """
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split in source_splits and fraction:  # 0 asks for no split to be made, and none is
            raise _no_effect(f"--{split}-fraction {fraction}", f"its own {split} split")
    val = 0.0 if "val" in source_splits else _or(val_fraction, VAL_FRACTION)
    test = 0.0 if "test" in source_splits else _or(test_fraction, TEST_FRACTION)
    if not ((0 < val < 1 or "val" in source_splits) and 0 <= test < 1 - val):
        raise DataError(
            f"--val-fraction {val}, --test-fraction {test}: expected a val above 0, a test of 0 "
            "or more, and less than 1 together"
        )
    if not val and not test:
        if seed is not None:
            raise _no_effect(f"--seed {seed}", "all its splits")
        return None
    return MadeSplits(val_fraction=val, test_fraction=test, seed=SEED if seed is None else seed)


def _or(fraction: float | None, default: float) -> float:
    return default if fraction is None else fraction


def _no_effect(option: str, has: str) -> DataError:
    return DataError(f"{option} has no effect: the source has {has}; leave the option out")


def made_fractions(made: MadeSplits | None) -> dict[str, float]:
    """Return which part of train each other split is made of; 0: it is the source's own, if any."""
    return {
        "val": made.val_fraction if made else 0.0,
        "test": made.test_fraction if made else 0.0,
    }


def make_splits(
    images: Iterable[tuple[str, str]],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    kept: Mapping[str, str] = NOTHING_KEPT,
) -> dict[str, str]:
    """Return the split of each image digest.

    Each class's distinct images are divided by the fractions, rounded. Train gets at least one
    image of every class; val, and then test, one of every class that has enough, where its fraction
    is above 0. An image's rank in its class follows from its own digest and the seed, so that few
    images change splits when others are added.

    Args:
        images: (digest, class); a digest may come several times, and in several classes.
        val_fraction: 0 or more.
        test_fraction: 0 or more; less than 1 together with `val_fraction`.
        seed: of the choice.
        kept: splits that images have already, by digest. They stay, and count towards their
            classes' shares, of which the others fill up what is left: first that of train.
    """
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for digest, label in images:
        classes[label].add(digest)

    assigned = dict(kept)
    # The rarer class comes first: a digest that two classes have goes where the rarer one puts it.
    for _, digests in sorted(classes.items(), key=lambda item: (len(item[1]), item[0])):
        counts = _counts(len(digests), val_fraction, test_fraction)
        for split in (assigned[digest] for digest in digests if digest in assigned):
            counts[split] -= 1
        free = sorted(digests - assigned.keys(), key=lambda digest: _rank(digest, seed))
        # Train comes first, so that if images are too few it is not train that has none.
        order = [split for split in SPLITS for _ in range(counts[split])]
        assigned.update(zip(free, order, strict=False))
    return assigned


def _counts(images: int, val_fraction: float, test_fraction: float) -> dict[str, int]:
    """Return how many of a class's distinct images each split gets."""
    val = max(round(images * val_fraction), 1) if val_fraction else 0
    val = min(val, images - 1)
    test = max(round(images * test_fraction), 1) if test_fraction else 0
    test = min(test, images - 1 - val)
    return {"train": images - val - test, "val": val, "test": test}


def _rank(digest: str, seed: int) -> bytes:
    return sha256(f"{seed}:{digest}".encode()).digest()
