"""In which order a run, or a sweep's trials, train on images: decided once, and recorded."""

from collections.abc import Callable

from graft.data.epoch_order import FULL, BlockShuffle, Shuffle, choose_shuffle
from graft.data.manifest import DatasetVersion
from graft.spec import Finetune, Section
from graft.store import Store, record_once
from graft.training.checkpoint import Checkpoint
from graft.training.events import Event, Note
from graft.training.worker_group import Ranks
from graft.units import size


class ShuffleRecord(Section):
    """What ``train.shuffle`` came to: ``runs/<run>/shuffle.json``, by the run's first attempt."""

    shuffle: Shuffle


def shuffle_of_run(
    store: Store,
    run: str,
    spec: Finetune,
    dataset: DatasetVersion,
    ranks: Ranks,
    post: Callable[[Event], object],
    last: Checkpoint | None,
) -> Shuffle:
    """Return the order of a run's images, the same in all its attempts and on all its workers.

    The first worker's node decides for all. A run of which an earlier release made the `last`
    checkpoint has no record, and a full shuffle.
    """
    shuffle: Shuffle | None = None
    if ranks.rank == 0:

        def choose() -> ShuffleRecord:
            return ShuffleRecord(shuffle=FULL if last else choose_shuffle(spec, dataset))

        key = f"runs/{run}/shuffle.json"
        shuffle = record_once(store, key, ShuffleRecord, choose).shuffle
        if isinstance(shuffle, BlockShuffle):
            post(Note(_in_words(shuffle)))
    decided: Shuffle = ranks.from_first(shuffle)
    return decided


def shuffle_of_trial(
    store: Store, sweep_id: str, spec: Finetune, dataset: DatasetVersion
) -> Shuffle:
    """Return the order of a trial's images: the same for all trials of a sweep on this dataset.

    Whichever of its processes asks first decides what `auto` is for all of them.
    """
    if spec.train.shuffle != "auto" or store.is_directory:
        return choose_shuffle(spec, dataset)

    def choose() -> ShuffleRecord:
        return ShuffleRecord(shuffle=choose_shuffle(spec, dataset))

    manifest = dataset.manifest
    key = f"sweeps/{sweep_id}/shuffle/{manifest.name}-{manifest.version}.json"
    return record_once(store, key, ShuffleRecord, choose).shuffle


def _in_words(shuffle: BlockShuffle) -> str:
    return (
        f"shuffled in blocks of {size(shuffle.block_bytes)}, of which {shuffle.readers} readers "
        f"mix {shuffle.buffer} each (train.shuffle)"
    )
