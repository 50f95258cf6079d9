"""Parts of a work on Ray Data: actors that do them, as many as the cluster has room for.

Each block is the number of a part, which an actor reads, does and commits: nothing but numbers and
counts goes through the object store, whatever the work is. Ray Data starts actors while there are
CPUs or GPUs for them, and gives a part that an actor died of to another one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import ray.exceptions
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from graft.errors import GraftError, ResourceError, RunFailed
from graft.spec import Scaling

TRIES = 4
"""Processes that may die of one part."""
IN_FLIGHT = 2
"""Parts that wait in an actor, or are done in it."""

Block = dict[str, Any]
"""Columns of one row: the number `part`, or counts of what came of it."""
Done = dict[str, int]
"""The number of a part that is done, and counts of what came of it."""


@dataclass(frozen=True)
class Work:
    """What is said of the parts of a work."""

    doing: str
    """What its processes do: they `predict`."""
    resume: str
    """The command by which it goes on."""


class Tries:
    """Counts how often each part was begun: Ray Data begins one again without end."""

    def __init__(self) -> None:
        self._tries: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Return which try at a part this is, from 1."""
        self._tries[number] += 1
        return self._tries[number]


class TryCount:
    """The same count, as actors on any node ask it."""

    def __init__(self, tries: ActorHandle[Tries], work: Work):
        self._tries, self._work = tries, work

    @classmethod
    def start(cls, work: Work) -> "TryCount":
        """Begin to count, on the driver's node, which no lost worker takes along."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(num_cpus=0, scheduling_strategy=here)(Tries).remote(), work)

    def begin(self, number: int, what: str) -> None:
        """Count a try at a part; `what`: what it is, for people.

        Raises:
            RunFailed: too many processes have died of it.
        """
        if ray.get(self._tries.begin.remote(number)) > TRIES:
            raise RunFailed(
                f"{TRIES} processes died of part {number} ({what}), perhaps for want of memory, or "
                f"of an image in it; what is done stays. Then: {self._work.resume}"
            )


def row_of(part: int, **counts: int) -> Block:
    """Return what an actor answers of a part that is done."""
    return {name: np.array([count]) for name, count in {"part": part, **counts}.items()}


def do_parts(
    actor: Callable[..., Any],
    task: object,
    numbers: Sequence[int],
    scaling: Scaling,
    work: Work,
) -> Iterator[Done]:
    """Do parts on the connected Ray; yield what came of each, in any order.

    Args:
        actor: class of the actors, which are made of `task` and a `TryCount`, and called with the
            block of a part.
        task: what every actor works with.
        numbers: of the parts.
        scaling: how many actors at most, and what each takes.
        work: what is said of it.

    Raises:
        ResourceError: the cluster has less than one actor takes.
        GraftError: what an actor raised.
        RunFailed: actors died again and again.
    """
    if not numbers:
        return
    room = _room(scaling, work)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # progress is told here
    blocks = ray.data.from_items([{"part": n} for n in numbers], override_num_blocks=len(numbers))
    done = blocks.map_batches(
        actor,
        batch_size=1,
        fn_constructor_args=(task, TryCount.start(work)),
        num_cpus=scaling.cpus_per_worker,
        num_gpus=scaling.gpus_per_worker or None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=min(scaling.workers, room, len(numbers)),
            max_tasks_in_flight_per_actor=IN_FLIGHT,
        ),
    )
    try:
        for row in done.iter_rows():
            yield {name: int(count) for name, count in row.items()}
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GraftError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise RunFailed(
            f"processes that {work.doing} died: {first}. What is done stays: {work.resume}"
        ) from error


def _room(scaling: Scaling, work: Work) -> int:
    """Return how many actors the cluster has room for."""
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 0)) // scaling.cpus_per_worker
    gpus = cpus
    if scaling.gpus_per_worker:
        gpus = int(resources.get("GPU", 0)) // scaling.gpus_per_worker
    if not min(cpus, gpus):
        raise ResourceError(
            f"a process that {work.doing}s takes {scaling.cpus_per_worker} CPUs and "
            f"{scaling.gpus_per_worker} GPUs; the cluster has {resources.get('CPU', 0):g} and "
            f"{resources.get('GPU', 0):g}"
        )
    return min(cpus, gpus)
