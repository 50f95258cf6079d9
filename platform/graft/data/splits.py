"""Which images train, which validate, which test: a pure, stratified, seeded choice."""

from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256

from graft.errors import DataError
from graft.spec import Section

SPLITS = ("train", "val", "test")

VAL_FRACTION = 0.2
TEST_FRACTION = 0.0
SEED = 0


class MadeSplits(Section):
    """How Graft splits the images for which the source names no split but train."""

    val_fraction: float
    """Part of each class that validates."""
    test_fraction: float
    """Part of each class that is held out for a final test."""
    seed: int


def choose_made_splits(
    source_splits: set[str],
    val_fraction: float | None,
    test_fraction: float | None,
    seed: int | None,
) -> MadeSplits | None:
    """Return how to split the images of a source, None where it has its own val split.

    `source_splits` are those that the source has; None for a setting means its default.

    Raises:
        DataError: a setting is out of range, or has no effect on splits that the source has.
    """
    options = {"--val-fraction": val_fraction, "--test-fraction": test_fraction, "--seed": seed}
    inert = {"val": list(options), "test": ["--test-fraction"]}
    for split in sorted(source_splits & inert.keys(), reverse=True):
        for option in inert[split]:
            if options[option] is not None:
                raise DataError(
                    f"{option} {options[option]} has no effect: the source has its own {split} "
                    "split; leave the option out"
                )
    if "val" in source_splits:
        return None
    val = VAL_FRACTION if val_fraction is None else val_fraction
    test = TEST_FRACTION if test_fraction is None else test_fraction
    if not (0 < val < 1 and 0 <= test < 1 - val):
        raise DataError(
            f"--val-fraction {val}, --test-fraction {test}: expected a val above 0, a test of 0 "
            "or more, and less than 1 together"
        )
    return MadeSplits(val_fraction=val, test_fraction=test, seed=SEED if seed is None else seed)


def make_splits(
    images: Iterable[tuple[str, str]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    """Return the split of each image digest.

    Each class's distinct images are divided by the fractions, rounded. Train gets at least one
    image of every class, val one of every class that has two, and test, where `test_fraction`
    is above 0, one of every class that has three. An image's rank in its class follows from its
    own digest and the seed, so that few images change splits when others are added.

    Args:
        images: (digest, class); a digest may come several times, and in several classes.
        val_fraction: above 0.
        test_fraction: 0 or more; less than 1 together with `val_fraction`.
        seed: of the choice.
    """
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for digest, label in images:
        classes[label].add(digest)

    assigned: dict[str, str] = {}
    # The rarer class comes first: it decides on a digest that both have, having fewer others.
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
    val = min(max(round(images * val_fraction), 1), images - 1)
    test = max(round(images * test_fraction), 1) if test_fraction else 0
    test = min(test, images - 1 - val)
    return {"train": images - val - test, "val": val, "test": test}


def _rank(digest: str, seed: int) -> bytes:
    return sha256(f"{seed}:{digest}".encode()).digest()
