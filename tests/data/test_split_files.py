"""Splits by the names of files, as Hugging Face reads them."""

import pytest

from graft.data.split_files import splits_by_name
from graft.errors import DataError


@pytest.mark.parametrize(
    "splits",
    [
        {
            "data/train-00000-of-00002.parquet": "train",
            "data/train-00001-of-00002-0123abcd.parquet": "train",
            "data/validation-00000-of-00001.parquet": "val",
            "data/test-00000-of-00001.parquet": "test",
        },
        {"train.parquet": "train", "my_test_file.parquet": "test", "validation1.parquet": "val"},
        {"a-TRAIN 1.tar": "train", "x.dev.tar": "val", "evaluation_2.tar": "test"},
        {"all/train/0.parquet": "train", "all/partial-valid/test.parquet": "val"},
        {"training/0.tar": "train", "eval/0.tar": "test"},
        {"shard-0.tar": None, "shard-1.tar": None, "trains.tar": None},
        {"test.parquet": None},
    ],
)
def test_names_say_splits(splits: dict[str, str | None]) -> None:
    named, stray = splits_by_name("x", list(splits))
    assert named == {path: split for path, split in splits.items() if split}
    assert stray == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("data/random-00000-of-00001.parquet", "random"),
        ("data/train_extra-00000-of-00001.parquet", "train_extra"),
        ("data/other.parquet", "no split"),
    ],
)
def test_files_of_no_split_are_named(path: str, says: str) -> None:
    named, (stray,) = splits_by_name("x", ["data/train-00000-of-00001.parquet", path])
    assert list(named.values()) == ["train"]
    assert stray.path == path
    assert f"its name says {says}; expected one of train" in stray.reason


def test_a_name_that_says_two_splits_is_of_none() -> None:
    named, (stray,) = splits_by_name("x", ["train-0.tar", "train-test.tar"])
    assert named == {"train-0.tar": "train"}
    assert stray.reason.startswith("its name says test and train; expected one of")


def test_splits_without_train_are_refused() -> None:
    with pytest.raises(DataError, match="names say test, val, and none says train; expected names"):
        splits_by_name("x", ["test-0.tar", "val-0.tar"])
