"""How a split's activations are divided into tasks and shards, and what that takes; pure."""

from graft.store.requests import Requests, list_requests, put_requests

TASK_IMAGES = 2048
"""Most images of a task: a process that is killed loses the task that it computes, none before."""
SHARD_BYTES = 64 << 20
"""Largest size of a shard, in bytes; one image's activations are never divided."""
LISTS, READS = 5, 5
"""How often what is there is listed and read, before the tasks and after: index, shards, lease."""
LISTS_OF_DEPTH = 2
"""How often what is there of a shallower depth is listed."""
ROW_BYTES = 41
"""Of an image in the file that says in which shard and row it is."""


def fill_requests(
    images: int, row_bytes: int, shallower: int, task_images: int = TASK_IMAGES
) -> Requests:
    """Return what it takes to write the activations of a split at one depth, in one view.

    Reading what they are computed from is not among it.

    Args:
        images: distinct images of the split; none of them has activations.
        row_bytes: of one image's activations.
        shallower: depths at which activations to start from are looked for.
        task_images: most images of a task.
    """
    if not images:
        return Requests()
    full, rest = divmod(images, task_images)
    shards = writes = 0
    for count, task in ((full, task_images), (1 if rest else 0, rest)):
        sizes = _shard_sizes(task, row_bytes)
        shards += count * len(sizes)
        writes += count * sum(put_requests(size) for size in sizes)
    tasks = full + bool(rest)
    notes = tasks if tasks > 1 else 0  # each says that a task is done, until the index does
    lists = LISTS * list_requests(shards) + LISTS_OF_DEPTH * shallower
    index = put_requests(images * ROW_BYTES) + 1
    lease = 1
    return Requests(writes + notes + lists + index + lease, reads=notes + READS)


def _shard_sizes(images: int, row_bytes: int) -> list[int]:
    """Return the sizes of a task's shards, in bytes."""
    rows = max(1, SHARD_BYTES // max(1, row_bytes))
    full, rest = divmod(images, rows)
    return [rows * row_bytes] * full + ([rest * row_bytes] if rest else [])
