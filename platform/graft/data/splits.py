"""Which images train, which validate, which test: a pure, stratified, seeded choice."""

from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256

SPLITS = ("train", "val", "test")


def make_splits(
    images: Iterable[tuple[str, str]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    """Return the split of each image digest.

    Fractions are of each class's distinct images, rounded: a class with two or more gets
    at least one in val, one with three or more at least one in test where `test_fraction`
    is above 0, and train keeps at least one of every class. An image's place in its class
    follows from its own digest and the seed, so new images move few of the old ones.

    Args:
        images: (digest, class); a digest may come several times, and in several classes.
        val_fraction: above 0.
        test_fraction: 0 or more; less than 1 together with `val_fraction`.
        seed: another seed, another choice.
    """
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for digest, label in images:
        classes[label].add(digest)

    assigned: dict[str, str] = {}
    # A digest of two classes is placed with the rarer, which has less to choose from.
    for _, digests in sorted(classes.items(), key=lambda item: (len(item[1]), item[0])):
        wanted = _counts(len(digests), val_fraction, test_fraction)
        for split in (assigned[digest] for digest in digests if digest in assigned):
            wanted[split] -= 1
        free = sorted(digests - assigned.keys(), key=lambda digest: _rank(digest, seed))
        # Train comes first, so that it is never the one to go without.
        order = [split for split in SPLITS for _ in range(wanted[split])]
        assigned.update(zip(free, order, strict=False))
    return assigned


def _counts(images: int, val_fraction: float, test_fraction: float) -> dict[str, int]:
    """Divide a class of so many distinct images."""
    val = min(max(round(images * val_fraction), 1), images - 1)
    test = max(round(images * test_fraction), 1) if test_fraction else 0
    test = min(test, images - 1 - val)
    return {"train": images - val - test, "val": val, "test": test}


def _rank(digest: str, seed: int) -> bytes:
    return sha256(f"{seed}:{digest}".encode()).digest()
