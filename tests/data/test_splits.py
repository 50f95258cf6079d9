from collections import Counter

import pytest

from graft.data.splits import make_splits


def images(**counts: int) -> list[tuple[str, str]]:
    return [(f"{label}-{i}", label) for label, count in counts.items() for i in range(count)]


def by_class(splits: dict[str, str], label: str) -> Counter[str]:
    return Counter(split for digest, split in splits.items() if digest.startswith(f"{label}-"))


@pytest.mark.parametrize(
    ("count", "train", "val", "test"),
    [(1, 1, 0, 0), (2, 1, 1, 0), (3, 1, 1, 1), (10, 7, 2, 1), (100, 70, 20, 10)],
)
def test_each_class_is_divided_by_the_fractions(count, train, val, test):
    splits = make_splits(images(a=count, b=50), 0.2, 0.1, seed=0)
    assert by_class(splits, "a") == Counter(train=train, val=val, test=test)
    assert by_class(splits, "b") == Counter(train=35, val=10, test=5)


def test_without_a_test_fraction_there_is_no_test():
    assert set(make_splits(images(a=5, b=5), 0.2, 0.0, seed=0).values()) == {"train", "val"}


def test_without_a_val_fraction_train_alone_gives_to_test():
    splits = make_splits(images(a=20, b=1), 0.0, 0.1, seed=0)
    assert by_class(splits, "a") == Counter(train=18, test=2)
    assert by_class(splits, "b") == Counter(train=1)


def test_train_keeps_one_of_every_class_at_any_fraction():
    splits = make_splits(images(a=2, b=3, c=9), 0.6, 0.39, seed=0)
    assert all(by_class(splits, label)["train"] >= 1 for label in "abc")
    assert all(by_class(splits, label)["val"] >= 1 for label in "abc")


def test_the_seed_decides_and_the_order_does_not():
    given = images(a=40, b=40)
    first = make_splits(given, 0.2, 0.0, seed=0)
    assert make_splits(reversed(given), 0.2, 0.0, seed=0) == first
    other = make_splits(given, 0.2, 0.0, seed=1)
    assert other != first
    assert Counter(other.values()) == Counter(first.values())


def test_repeated_images_count_once():
    assert make_splits(images(a=10, b=10) * 3, 0.2, 0.0, 0) == make_splits(
        images(a=10, b=10), 0.2, 0.0, 0
    )


def test_new_images_move_few_of_the_old():
    before = make_splits(images(a=1000, b=10), 0.2, 0.0, seed=0)
    after = make_splits(images(a=1010, b=10), 0.2, 0.0, seed=0)
    moved = [digest for digest, split in before.items() if after[digest] != split]
    assert len(moved) < 30


def test_an_image_of_two_classes_leaves_neither_without_train():
    shared = [("s-0", "a"), ("s-0", "b")]
    for seed in range(20):
        splits = make_splits([*shared, *images(a=6)], 0.5, 0.0, seed)
        assert splits["s-0"] == "train"
        assert by_class(splits, "a")["val"] == 4
    both = [(f"s-{i}", label) for i in range(4) for label in "ab"]
    assert Counter(make_splits(both, 0.25, 0.25, 0).values()) == Counter(train=2, val=1, test=1)


def test_what_is_kept_stays_and_counts_towards_the_shares():
    kept = make_splits(images(a=20, b=10), 0.2, 0.1, seed=0)
    grown = make_splits(images(a=40, b=13, c=10), 0.2, 0.1, seed=0, kept=kept)
    assert kept.items() <= grown.items()
    assert by_class(grown, "a") == Counter(train=28, val=8, test=4)
    assert by_class(grown, "b") == Counter(train=9, val=3, test=1)
    assert by_class(grown, "c") == Counter(train=7, val=2, test=1)


def test_shares_hold_when_images_come_one_by_one():
    splits: dict[str, str] = {}
    for count in range(1, 101):
        splits = make_splits(images(a=count), 0.2, 0.1, seed=0, kept=splits)
        shares = by_class(splits, "a")
        alone = by_class(make_splits(images(a=count), 0.2, 0.1, seed=0), "a")
        assert all(abs(shares[split] - alone[split]) <= 1 for split in ("train", "val", "test"))


def test_too_many_that_are_kept_in_a_split_move_nothing():
    kept = dict.fromkeys((digest for digest, _ in images(a=6)), "test")
    grown = make_splits(images(a=10), 0.2, 0.1, seed=0, kept=kept)
    assert by_class(grown, "a") == Counter(test=6, train=4)
