"""Which images a job learns from."""

from collections import Counter
from itertools import pairwise

import pytest

from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, open_dataset
from graft.data.subset import choose_subset, least_share
from graft.errors import InputError, SpecError
from graft.spec import Dataset, parse_job
from graft.store import Store


@pytest.fixture(scope="module")
def letters(write_classes, tmp_path_factory) -> DatasetVersion:
    """40 training images of a, 20 of b, and a quarter as many to validate."""
    folder = tmp_path_factory.mktemp("letters")
    images = write_classes(folder / "images", {"a": 50, "b": 25})
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(images), "letters", val_fraction=0.2, test_fraction=0)
    return open_dataset(store, "letters")


def chosen(dataset, **settings):
    return choose_subset(dataset, Dataset(name="letters", **settings))


def digests(images) -> set[str]:
    return {image.sha256 for image in images}


def test_without_a_limit_all_images_are_used(letters):
    found = chosen(letters)
    assert list(found.train) == letters.images("train")
    assert (list(found.val), found.val_split) == (letters.images("val"), "val")


@pytest.mark.parametrize(
    ("labels", "counts"), [(0.25, {0: 10, 1: 5}), (7, {0: 7, 1: 7}), (1.0, {0: 40, 1: 20})]
)
def test_a_number_of_labels_is_of_each_class(letters, labels, counts):
    found = chosen(letters, labels=labels)
    assert Counter(image.label for image in found.train) == counts
    assert list(found.val) == letters.images("val")


def test_fewer_labels_are_among_more(letters):
    subsets = [digests(chosen(letters, labels=share).train) for share in (0.1, 0.25, 0.5, 1.0)]
    assert all(fewer < more for fewer, more in pairwise(subsets))
    other = digests(chosen(letters, labels=0.25, labels_seed=1).train)
    assert other != subsets[1]


def test_what_is_held_out_validates_and_the_versions_own_images_are_not_seen(letters):
    found = chosen(letters, labels=0.5, holdout=0.2)
    assert found.val_split == "train"
    assert Counter(image.label for image in found.train) == {0: 16, 1: 8}
    assert Counter(image.label for image in found.val) == {0: 4, 1: 2}
    assert not digests(found.train) & digests(found.val)
    assert digests(found.train) | digests(found.val) == digests(chosen(letters, labels=0.5).train)
    assert not digests(found.val) & digests(letters.images("val"))


@pytest.mark.parametrize("share", [0.02, 0.025, 1e-4])
def test_the_share_that_an_error_advises_is_taken(letters, share):
    with pytest.raises(InputError, match="the least share is ") as error:
        chosen(letters, labels=share)
    advised = float(str(error.value).rpartition(" ")[2])
    counts = Counter(image.label for image in chosen(letters, labels=advised).train)
    assert min(counts.values()) == 1


def test_the_least_share_of_any_number_of_images_is_one_of_them():
    for images in [*range(1, 200), 999, 1300, 12_345, 1_000_003]:
        share = least_share(images)
        assert round(share * images) == 1
        assert share <= 0.5 / images * 1.1 + 0.01


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (1, "dataset.labels: 1: a single training image of each class (all of them is 1.0)"),
        (7, "dataset.labels: 7: 7 training images of each class"),
        (1.0, "dataset.labels: 1.0: 100% of each class's training images"),
        (0.125, "dataset.labels: 0.125: 12.50% of each class's training images"),
        (None, None),
    ],
)
def test_a_share_and_a_number_are_told_apart_in_words(labels, words):
    assert Dataset(name="letters", labels=labels).labels_in_words == words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": 0.02}, "leaves none of the 20 training images of class 'b'"),
        ({"labels": 21}, "has 20 training images of class 'b', fewer than 21"),
        ({"labels": 1, "holdout": 0.5}, "class 'a' .* has one image in this subset"),
    ],
)
def test_settings_that_leave_a_class_without_images(letters, settings, message):
    with pytest.raises(InputError, match=message):
        chosen(letters, **settings)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("{name: x, labels: 0}", "labels"),
        ("{name: x, labels: 1.5}", "labels"),
        ("{name: x, holdout: 1.0}", "holdout"),
        ("{name: x, labels_seed: 1}", "labels_seed has no effect"),
    ],
)
def test_settings_that_mean_nothing_are_refused(dataset, message):
    from graft.spec import parse_yaml

    document = {"kind": "finetune", "name": "x", "backbone": {"arch": "resnet18"}}
    with pytest.raises(SpecError, match=message):
        parse_job(document | {"dataset": parse_yaml(dataset, "here")}, "here")
